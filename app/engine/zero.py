"""Answers on ZeroGPU, where Hugging Face lends a Space a GPU for the time of one call: `ZeroGenerator` stands in for `LocalGenerator`.

The adapter is opened and verified on the CPU when the app starts, then put on the card, in bfloat16, before the page is launched: that
is when the platform takes the weights over. Each answer is one call of a generator wrapped by `spaces.GPU`; it runs in a forked process,
where an ordinary `LocalGenerator` around the same model makes the answer. Used only where SPACES_ZERO_GPU is set and the package
`spaces` is there. Read in spaces 0.51 (zero/wrappers.py, zero/client.py, zero/gradio.py); never run on the platform.

What cannot be promised there:
- Stop: seen when the worker yields next, so within a tenth of a second and not within one token. While an answer waits for a GPU
  it cannot be taken back: its call ends as soon as it gets one, and that counts against the visitor's quota.
- Errors: when the platform ends a worker, at the end of its duration say, the reader gets a sentence of ours without the reason.
- Isolation: answers run in processes of their own, several at once if the platform lends several GPUs, and nobody's place in the
  queue is known. A worker is used again for the next answer, as our one thread is elsewhere.
- Verification on load is that of the CPU's dtype, not of bfloat16; there are no captured graphs; other adapters need a restart.
"""

import importlib
import logging
import os
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from contextvars import copy_context
from dataclasses import dataclass, replace
from typing import Any

import torch

from app.engine.answer import POLL_SECONDS, Answer, FinishReason, GenerationRequest
from app.engine.generation import ENDING, LocalGenerator
from app.engine.model import LoadedModel
from app.errors import AdapterError, Busy, GenerationFailed, NotReady, UserError

log = logging.getLogger(__name__)

# What a call is lent a GPU for. A 3B model in bfloat16 writes 50 tokens a second with the library's loop on an H100; ZeroGPU's share
# of a card gets half. Asking for too much costs the visitor a place in the queue, too little cuts the answer off.
START_SECONDS = 15
TOKENS_PER_SECOND = 25


def spaces() -> Any | None:
    """The platform's package where this process runs on ZeroGPU, else None. To be called before CUDA is used."""
    if os.environ.get("SPACES_ZERO_GPU", "").lower() not in ("1", "t", "true"):
        return None
    try:
        return importlib.import_module("spaces")
    except ImportError:
        return None


def duration(request: GenerationRequest) -> int:
    """Seconds that the platform should lend a GPU for: the start of a worker and all tokens asked for, within the deadline."""
    return START_SECONDS + round(min(request.deadline, request.max_new_tokens / TOKENS_PER_SECOND))


@dataclass(frozen=True)
class End:
    """The last thing that a worker says of an answer."""

    finish_reason: FinishReason | None
    prompt_tokens: int
    completion_tokens: int
    error: UserError | None


class ZeroGenerator:
    """See the top of the file.

    Args:
        load: Opens an adapter by name, on the CPU; called at once, in this thread.
        adapter: The only adapter.
        gpu: `spaces.GPU`, or a function like it.
        device: Where the model goes before the page is launched.
        max_queue: Answers under way at most, beside one.
        max_wait: Seconds that an answer may wait before it begins.

    Attributes:
        on_finish: Called with each answer that has ended, from the thread that ended it.
    """

    on_finish: Callable[[Answer], object] = staticmethod(lambda _: None)

    def __init__(
        self,
        load: Callable[[str], LoadedModel],
        adapter: str,
        gpu: Callable[..., Any],
        *,
        device: str = "cuda",
        max_queue: int = 32,
        max_wait: float = 300.0,
    ) -> None:
        self.default_adapter = adapter
        self.loaded: LoadedModel | None = None
        self._max_queue, self._max_wait = max_queue, max_wait
        self._answers: set[Answer] = set()
        self._lock = threading.Lock()
        self._worker: LocalGenerator | None = None  # in the forked process alone
        self._call = gpu(duration=duration)(self._steps)
        try:
            opened = load(adapter)
            opened.model.to(torch.bfloat16).to(device)
            self.loaded = replace(opened, device=device, dtype="bfloat16", decoder=None)
            self.status, self.message = "ready", "Ready."
        except UserError as error:
            log.error("%s", error)
            self.status, self.message = "failed", str(error)

    @property
    def queue_length(self) -> int:
        """Answers under way."""
        return len(self._answers)

    def wait_until_ready(self, timeout: float | None = None) -> None:
        """Returns at once: the model was opened when this was made.

        Raises:
            NotReady: It could not be opened.
        """
        if self.status != "ready":
            raise NotReady(self.message)

    def submit(self, request: GenerationRequest) -> Answer:
        """Asks the platform for a GPU, in the name of the visitor whose request this is.

        Raises:
            NotReady: No model is open.
            Busy: Too many answers are under way.
            AdapterError: Another adapter is asked for.
        """
        with self._lock:
            if self.status != "ready":
                raise NotReady(self.message)
            if request.adapter not in (None, self.default_adapter):
                raise AdapterError("On ZeroGPU the adapter is chosen when the Space starts. Set ADAPTER and restart it.")
            if len(self._answers) > self._max_queue:
                raise Busy.full(self.queue_length)
            answer = Answer(request, lambda _: 0, self._max_wait, self.on_finish)
            self._answers.add(answer)
        # The platform finds the visitor, whose quota counts, in the context of the page's event.
        threading.Thread(target=copy_context().run, args=(self._answer, answer), name="answer", daemon=True).start()
        return answer

    def refuse(self) -> None:
        """Takes no more questions; those that it has are answered."""
        with self._lock:
            if self.status == "ready":
                self.status, self.message = "ending", ENDING

    def close(self) -> None:
        """Stops all answers."""
        with self._lock:
            self.status, self.message = "closed", "The server is shutting down."
            answers = list(self._answers)
        for answer in answers:
            answer.stop()

    def _answer(self, answer: Answer) -> None:
        """Runs one answer from beginning to end; whatever happens, its reader is told."""
        streamer = None
        answer.loaded = self.loaded
        try:
            with closing(self._call(answer.request)) as steps:
                for step in steps:
                    if streamer is None and self.loaded is not None:
                        answer.started_at = time.monotonic()
                        streamer = answer.begin(self.loaded.tokenizer)
                    if isinstance(step, End):
                        answer.finish_reason, answer.error = step.finish_reason, step.error
                        answer.prompt_tokens, answer.completion_tokens = step.prompt_tokens, step.completion_tokens
                    elif answer.stopped.is_set():
                        answer.finish_reason = "stopped"
                        break
                    elif step and streamer is not None:
                        answer.first_token_at = answer.first_token_at or time.monotonic()
                        answer.completion_tokens += 1  # a piece is a token or a few; the end says how many
                        streamer.on_finalized_text(step)
            if answer.finish_reason is None and answer.error is None:
                answer.error = GenerationFailed("The GPU was taken away in the middle of this answer. Ask again in a moment.")
        except Exception as error:
            # The platform's own errors: no GPU, no quota left, a worker that ended. Their text is HTML of its own.
            log.error("a call on ZeroGPU failed: %s", type(error).__name__, extra={"request_id": answer.request.request_id})
            answer.error = Busy("No GPU could be had for this answer, or your time on it is used up. Try again in a few minutes.", 120)
        finally:
            if streamer is not None:
                streamer.on_finalized_text("", stream_end=True)
            with self._lock:
                self._answers.discard(answer)
            answer.finish()

    def _steps(self, request: GenerationRequest) -> Generator[str | End, None, None]:
        """In the worker: pieces of text, "" where there is none yet so that a stop is seen, and an `End`."""
        if self._worker is None:
            self._worker = LocalGenerator(self._forked, self.default_adapter)
        self._worker.wait_until_ready()
        answer = self._worker.submit(request)
        try:
            yield from self._pieces(answer)
        finally:
            answer.stop()

    @staticmethod
    def _pieces(answer: Answer) -> Iterator[str | End]:
        error = None
        try:
            while (piece := answer.poll(POLL_SECONDS)) is not None:
                yield piece
        except UserError as raised:
            error = raised
        yield End(answer.finish_reason, answer.prompt_tokens, answer.completion_tokens, error)

    def _forked(self, _: str) -> LoadedModel:
        if self.loaded is None:
            raise NotReady(self.message)
        return self.loaded
