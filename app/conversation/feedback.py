"""Keeps what clinicians say of answers, with their consent, as JSON lines that can be trained on.

Nothing else on the page writes a chat down. On a Space, whose disk does not last, the lines go to a private dataset as well.
"""

import logging
import os
import secrets
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

from app.adapter import hub
from app.conversation.record import Turn
from app.errors import InvalidQuestion, StorageError, UserError
from app.notices import identifiers
from app.settings import Settings

log = logging.getLogger(__name__)

Verdict = Literal["correct", "partly correct", "wrong", "unsafe"]
Severity = Literal["none", "mild", "moderate", "severe"]
VERDICTS, SEVERITIES = get_args(Verdict), get_args(Severity)
FILE_NAME = "ratings.jsonl"
LONGEST = 8000  # characters of a corrected answer or a comment
MINUTES = 5  # between two commits on a Space


class Row(BaseModel):
    """One line of the file.

    Attributes:
        messages: The conversation before the question.
        turn: Question, answer, what made it, and the comparison and vote where there was one.
        severity: How bad it would be to act on the answer.
        corrected: What the answer should have been; "" where nothing was written.
    """

    model_config = ConfigDict(extra="forbid")
    time: str = Field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    messages: list[dict[str, str]] = []
    turn: Turn
    verdict: Verdict | None = None
    severity: Severity | None = None
    corrected: str = Field("", max_length=LONGEST)
    comment: str = Field("", max_length=LONGEST)


def check(row: Row) -> None:
    """Refuses what may not be stored.

    Raises:
        InvalidQuestion: The rating is empty, or some text of it seems to identify a patient.
    """
    if row.verdict is None and not row.corrected.strip() and row.turn.vote is None:
        raise InvalidQuestion("There is nothing to store yet. Say how good the answer is, or write a better one.")
    texts = {
        "question": row.turn.question,
        "answer": row.turn.answer,
        "corrected answer": row.corrected,
        "comment": row.comment,
        "earlier conversation": "\n".join(message["content"] for message in row.messages),
    }
    for name, text in texts.items():
        if found := identifiers.labels(text):
            raise InvalidQuestion(f"Nothing was stored: the {name} seems to hold a {found}. Take it out, and ask again where it must go.")


class Store:
    """Where ratings go.

    Args:
        settings: Folder, and on a Space the private dataset.
        minutes: Between two commits to that dataset, and between two tries while it cannot be reached.
    """

    def __init__(self, settings: Settings, minutes: float = MINUTES) -> None:
        self.path = settings.feedback_folder / FILE_NAME
        self.minutes = minutes
        self.scheduler: Any = None
        self._lock = threading.Lock()
        self._repository = settings.feedback_repo if os.environ.get("SPACE_ID") else None

    def add(self, row: Row) -> None:
        """Checks a rating and appends it.

        Raises:
            InvalidQuestion: See `check`.
            StorageError: The file could not be written.
        """
        check(row)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self._lock:
                _append(self.path, f"{row.model_dump_json()}\n".encode())
        except OSError as error:
            raise StorageError(f"The rating could not be stored ({error.strerror}). Tell the owner of this page.") from error
        with self._lock:
            repository, self._repository = self._repository, None
        if repository:
            threading.Thread(target=self._schedule, args=(repository,), daemon=True).start()

    def _schedule(self, repository: str) -> None:
        """Begins the commits, or tries again later: the Hub's silence must neither hold up nor lose a rating."""
        from huggingface_hub import CommitScheduler

        # A folder for each process: the file of a Space that was started anew would take the place of the one before it.
        folder = f"ratings/{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(4)}"
        options: dict[str, Any] = {"repo_id": repository, "repo_type": "dataset", "private": True, "every": self.minutes}
        try:
            with hub.asking(repository):
                self.scheduler = CommitScheduler(
                    folder_path=self.path.parent, path_in_repo=folder, allow_patterns=[FILE_NAME], squash_history=False, **options
                )
            self.scheduler.trigger()  # its own first try fails when it is quicker than the end of its constructor
            log.info("ratings go to %s of the dataset %s", folder, repository)
        except UserError as error:
            log.warning("the ratings' dataset cannot be opened, trying again in %g minutes: %s", self.minutes, error)
            again = threading.Timer(60 * self.minutes, self._schedule, (repository,))
            again.daemon = True
            again.start()


def _append(path: Path, line: bytes) -> None:
    """Appends a line, or nothing of it: what a full disk cut off would spoil the next line, too."""
    with path.open("ab", buffering=0) as file:
        before = file.tell()
        written = 0
        try:
            while written < len(line):
                written += file.write(line[written:]) or 0
        except OSError:
            file.truncate(before)
            raise


def read(path: Path) -> list[Row]:
    """Reads a file of ratings, or all such files in a folder, as a Space's dataset has one for each time that it was started.

    Raises:
        StorageError: The file is missing or a line is damaged; the message names it.
    """
    if path.is_dir():
        return [row for file in sorted(path.rglob(FILE_NAME)) for row in read(file)]
    rows = []
    try:
        lines = path.read_text(encoding="utf-8").split("\n")  # other signs that end lines stand in texts
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise StorageError(f"The ratings {path} cannot be read ({reason}). Give the file that the page wrote.") from error
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                rows.append(Row.model_validate_json(line))
            except ValueError as error:
                raise StorageError(f"{path}, line {number} is no rating. Mend or delete that line and try again.") from error
    return rows
