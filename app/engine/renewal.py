"""Looks on the Hub whether an adapter's channel points to another commit, and has that one take the place of the running adapter.

The new one is fetched aside, then opened and verified in the generation thread between two answers, and only then made the default:
running answers end on the adapter that they began with, and one that fails its checks never answers anybody.
"""

import logging
import threading
import time

from app.adapter import hub
from app.adapter.contract import GOLDEN_CONVERSATIONS
from app.adapter.directory import find_folder, prepare
from app.engine.answer import GenerationRequest
from app.engine.model import default_device
from app.engine.remote import Generator
from app.errors import Busy, NotReady, UserError
from app.settings import Settings

log = logging.getLogger(__name__)

# Anybody may press the button, and each look asks the Hub.
REST_SECONDS = 20.0


class Renewal:
    """Looks for a newer commit of the default adapter, when asked and, where the settings say so, by itself.

    Args:
        generator: Runs the adapter.
        settings: The adapter as its owner named it, and how often to look.
    """

    def __init__(self, generator: Generator, settings: Settings) -> None:
        self._generator = generator
        self._settings = settings
        self._lock = threading.Lock()
        self._looked_at: float | None = None

    @property
    def possible(self) -> bool:
        """Whether the adapter comes from the Hub and its weights are held here; a folder has no newer commit."""
        return (
            not self._settings.engine_url and find_folder(self._settings.adapter) is None and hub.parse(self._settings.adapter) is not None
        )

    def look(self) -> str:
        """Looks once, and replaces the running adapter where there is another commit that passes every check.

        Returns:
            One sentence on what was found.

        Raises:
            Busy: Somebody looked a moment ago.
            UserError: The Hub did not answer, or the other commit was refused; the running adapter stays.
        """
        reference = hub.parse(self._settings.adapter) if self.possible else None
        if reference is None:
            return "This adapter is a folder, or held by another server: nothing newer can be looked for here."
        if not self._lock.acquire(blocking=False):
            raise Busy("Somebody is looking already. Wait for a moment.")
        try:
            if self._looked_at is not None and time.monotonic() - self._looked_at < REST_SECONDS:
                raise Busy(f"Somebody looked less than {REST_SECONDS:.0f} seconds ago. Wait for a moment.")
            self._looked_at = time.monotonic()
            return self._replace(*reference)
        finally:
            self._lock.release()

    def _replace(self, repo: str, asked: str | None) -> str:
        found = hub.pin(repo, asked)
        running = self._generator.loaded
        if running and running.adapter_revision == found.commit:
            if running.pin:  # it may have been approved since
                running.pin = found
            return f"{repo} has nothing newer: commit {found.commit[:12]} is running."
        try:
            folder = prepare(found.name, default_device(), self._settings.base_folder)
            golden = GenerationRequest(messages=GOLDEN_CONVERSATIONS[0], adapter=found.name, max_new_tokens=1)
            for _ in self._generator.submit(golden):  # opens it, and shows that it answers
                pass
        except (Busy, NotReady):
            raise
        except UserError as error:
            kept = f" {running.adapter_revision[:12]} goes on." if running and running.adapter_revision else ""
            raise type(error)(f"{repo} has the other commit {found.commit[:12]}, and it was refused.{kept} {error}") from error
        self._generator.default_adapter = found.name
        hub.remember(folder, asked or (hub.APPROVED if found.approved else None))
        log.info("%s now runs commit %s.", repo, found.commit)
        return f"{repo} now runs commit {found.commit[:12]}."

    def keep_looking(self, stop: threading.Event) -> None:
        """Looks every `settings.look_minutes` until told to stop; returns at once where that is 0."""
        while self._settings.look_minutes and not stop.wait(60 * self._settings.look_minutes):
            try:
                self.look()
            except UserError as error:
                log.warning("%s", error)
