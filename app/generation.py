"""Generates answers: one persistent thread owns the models, and every request has its own streamer, stop event and seed.

Requests are answered in order, one at a time: the adapter's state is set for the whole answer inside that thread, so no
answer can be mixed with another's or written by the wrong model. Knows nothing of pages, HTTP or safety rules.
"""

import logging
import queue
import secrets
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from transformers import StoppingCriteria, StoppingCriteriaList, TextIteratorStreamer

from app.contract import prompt_ids
from app.errors import Busy, GenerationFailed, NotReady, QuestionTooLong, UserError
from app.model import LoadedModel

log = logging.getLogger(__name__)

Message = dict[str, str]
FinishReason = Literal["stop", "length", "deadline", "stopped"]

POLL_SECONDS = 0.1


@dataclass(frozen=True)
class GenerationRequest:
    """One answer to make.

    Attributes:
        messages: Alternating user and assistant messages, the last from the user.
        adapter: Which of the offered adapters answers; None for the default.
        use_adapter: False answers with the base model alone.
        max_new_tokens: Tokens the answer may have.
        temperature: 0 is greedy; else the sampling temperature.
        top_p: Nucleus sampling threshold.
        repetition_penalty: 1.0 is none.
        seed: Seed of the sampling; drawn at random when None.
        deadline: Seconds the answer may take once it has begun.
    """

    messages: list[Message]
    adapter: str | None = None
    use_adapter: bool = True
    max_new_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 0.9
    repetition_penalty: float = 1.0
    seed: int | None = None
    deadline: float = 120.0


class _Streamer(TextIteratorStreamer):
    """A TextIteratorStreamer that also tells a listener, so that an event loop need not poll."""

    def __init__(self, tokenizer: Any, notify: Callable[[], None]) -> None:
        super().__init__(tokenizer, skip_prompt=True, timeout=POLL_SECONDS, skip_special_tokens=True)
        self._notify = notify

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        if text or stream_end:  # within a word there is no new text
            super().on_finalized_text(text, stream_end=stream_end)
            self._notify()


class _StopWhen(StoppingCriteria):
    """Ends generation at the next token once the answer was stopped or its deadline has passed."""

    def __init__(self, answer: "Answer", deadline: float) -> None:
        self._answer = answer
        self._ends = time.monotonic() + deadline

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **_: Any) -> torch.Tensor:
        self._answer.completion_tokens += 1
        if self._answer.first_token_at is None:
            self._answer.first_token_at = time.monotonic()
        if time.monotonic() > self._ends:
            self._answer.finish_reason = "deadline"
        stop = self._answer.stopped.is_set() or self._answer.finish_reason == "deadline"
        return torch.full((input_ids.shape[0],), stop, dtype=torch.bool, device=input_ids.device)


class Answer:
    """An answer that is waiting, being written, or finished. Iterate over it for pieces of text as they are made.

    Attributes:
        text: The text so far.
        finish_reason: None until the end; "stop" at end-of-sequence, "length", "deadline", or "stopped" by the reader.
        prompt_tokens, completion_tokens: Counts.
        seed: The seed that was used.
    """

    def __init__(self, request: GenerationRequest, queue_position: Callable[["Answer"], int], max_wait: float) -> None:
        self.request = request
        self.seed = secrets.randbelow(2**31) if request.seed is None else request.seed
        self.text = ""
        self.finish_reason: FinishReason | None = None
        self.prompt_tokens = 0
        self.completion_tokens = 0
        self.error: UserError | None = None
        self.loaded: LoadedModel | None = None
        self.stopped = threading.Event()
        self.done = threading.Event()
        self.created_at = time.monotonic()
        self.started_at: float | None = None
        self.first_token_at: float | None = None
        self.finished_at: float | None = None
        self._max_wait = max_wait
        self._queue_position = queue_position
        self._streamer: _Streamer | None = None
        self._listener: Callable[[], None] = lambda: None

    @property
    def position(self) -> int:
        """Answers before this one, the running one included; 0 when it has begun."""
        return self._queue_position(self)

    @property
    def tokens_per_second(self) -> float | None:
        """Tokens per second after the first one; None until two are there."""
        if self.first_token_at is None or self.completion_tokens < 2:
            return None
        return (self.completion_tokens - 1) / max((self.finished_at or time.monotonic()) - self.first_token_at, 1e-9)

    @property
    def seconds_to_first_token(self) -> float | None:
        """Seconds from the beginning of this answer, waiting not counted, to its first token."""
        return self.first_token_at - self.started_at if self.first_token_at is not None and self.started_at is not None else None

    def stop(self) -> None:
        """Ends the answer within one token; the text so far stays."""
        self.stopped.set()
        self._listener()

    def listen(self, listener: Callable[[], None]) -> None:
        """Has `listener` called, from the generation thread, whenever there is something new."""
        self._listener = listener
        listener()

    def poll(self, wait: float = 0.0) -> str | None:
        """The next piece of text; "" when there is none yet; None at the end.

        Args:
            wait: Seconds to wait for a piece.

        Raises:
            UserError: The answer failed, or waited too long; `text` keeps what was made.
        """
        streamer = self._streamer
        if streamer is None:
            if not self.done.wait(wait) and self._streamer is None:
                if time.monotonic() - self.created_at > self._max_wait:
                    self.stop()
                    raise Busy(f"No answer within {self._max_wait:.0f} seconds: too many people are asking. Try again in a minute.", 30)
                return ""
            streamer = self._streamer
        if streamer is not None:
            try:
                piece = streamer.text_queue.get(timeout=wait) if wait else streamer.text_queue.get_nowait()
            except queue.Empty:
                return ""
            if piece != streamer.stop_signal:
                self.text += piece
                return piece
            streamer.text_queue.put(streamer.stop_signal)  # a second reader ends too
        if not self.done.wait(wait):  # the text has ended a moment before the answer
            return ""
        if self.error:
            raise self.error
        return None

    def __iter__(self) -> Iterator[str]:
        while (piece := self.poll(POLL_SECONDS)) is not None:
            if piece:
                yield piece

    def _begin(self, tokenizer: Any) -> _Streamer:
        self._streamer = _Streamer(tokenizer, lambda: self._listener())
        return self._streamer

    def _finish(self) -> None:
        self.finished_at = time.monotonic()
        self.done.set()
        self._listener()


@dataclass
class _State:
    status: Literal["loading", "ready", "failed", "closed"] = "loading"
    message: str = "The model is loading."
    models: OrderedDict[str, LoadedModel] = field(default_factory=OrderedDict)


class LocalGenerator:
    """See the top of the file.

    Args:
        load: Opens an adapter by name; called in the generation thread.
        adapter: The default adapter, opened at once.
        max_queue: Answers that may wait; one more is refused.
        max_wait: Seconds that an answer may wait before it begins.
        max_models: Adapters kept open; the least recently used one is closed first.
    """

    def __init__(
        self, load: Callable[[str], LoadedModel], adapter: str, *, max_queue: int = 32, max_wait: float = 300.0, max_models: int = 2
    ) -> None:
        self._load = load
        self.default_adapter = adapter
        self._max_queue = max_queue
        self._max_wait = max_wait
        self._max_models = max_models
        self._waiting: deque[Answer] = deque()
        self._running: Answer | None = None
        self._condition = threading.Condition()
        self._state = _State()
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._work, name="generation", daemon=True)
        self._thread.start()

    @property
    def status(self) -> str:
        """One of "loading", "ready", "failed" and "closed"."""
        return self._state.status

    @property
    def message(self) -> str:
        """One sentence on the status, for people."""
        return self._state.message

    @property
    def loaded(self) -> LoadedModel | None:
        """The default adapter, once it is open."""
        return self._state.models.get(self.default_adapter)

    @property
    def queue_length(self) -> int:
        """Answers waiting or running."""
        return len(self._waiting) + (self._running is not None)

    def wait_until_ready(self, timeout: float | None = None) -> None:
        """Waits for the default adapter.

        Raises:
            NotReady: It could not be opened, or not within `timeout` seconds.
        """
        self._started.wait(timeout)
        if self.status != "ready":
            raise NotReady(self.message)

    def submit(self, request: GenerationRequest) -> Answer:
        """Puts a request in the queue.

        Raises:
            NotReady: No model is open.
            Busy: The queue is full.
        """
        with self._condition:
            if self.status != "ready":
                raise NotReady(self.message)
            self._drop_stopped()
            if len(self._waiting) >= self._max_queue + (self._running is None):  # with none running, the first of them does not wait
                raise Busy(f"The queue is full: {self.queue_length} questions before yours. Try again in a moment.")
            answer = Answer(request, self._position, self._max_wait)
            self._waiting.append(answer)
            self._condition.notify()
        return answer

    def close(self) -> None:
        """Stops all answers and the thread, and forgets the models."""
        with self._condition:
            self._state.status, self._state.message = "closed", "The server is shutting down."
            for answer in [*self._waiting, *([self._running] if self._running else [])]:
                answer.stop()
            self._condition.notify()
        self._thread.join(timeout=10)

    def _drop_stopped(self) -> None:
        """Takes answers that nobody waits for any more out of the queue, so that they keep nobody else out."""
        for answer in [answer for answer in self._waiting if answer.stopped.is_set()]:
            self._waiting.remove(answer)
            answer.finish_reason = "stopped"
            answer._finish()

    def _position(self, answer: Answer) -> int:
        with self._condition:
            self._drop_stopped()
            try:
                return self._waiting.index(answer) + (self._running is not None)
            except ValueError:
                return 0

    def _open(self) -> tuple[Literal["ready", "failed"], str]:
        try:
            self._model(self.default_adapter)
            return "ready", "Ready."
        except UserError as error:
            log.error("%s", error)
            return "failed", str(error)
        except Exception as error:
            log.exception("opening %s failed", self.default_adapter)
            return "failed", f"The model could not be opened ({type(error).__name__}). The log says more."

    def _work(self) -> None:
        status, message = self._open()
        with self._condition:
            if self.status != "closed":  # closed in the meantime stays closed
                self._state.status, self._state.message = status, message
        self._started.set()
        while True:
            with self._condition:
                while not self._waiting and self.status != "closed":
                    self._condition.wait()
                if not self._waiting:
                    break
                answer = self._running = self._waiting.popleft()
            try:
                self._answer(answer)
            finally:
                with self._condition:
                    self._running = None
                answer._finish()
        self._state.models.clear()

    def _model(self, adapter: str) -> LoadedModel:
        models = self._state.models
        if adapter not in models:
            loaded = self._load(adapter)
            while len(models) >= self._max_models:
                oldest = next(name for name in models if name != self.default_adapter or len(models) == 1)
                del models[oldest]
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()
            models[adapter] = loaded
        models.move_to_end(adapter)
        return models[adapter]

    def _answer(self, answer: Answer) -> None:
        """Runs one answer from beginning to end; whatever happens, its reader is told and the next one can begin."""
        if answer.stopped.is_set():
            answer.finish_reason = "stopped"
            return
        streamer = None
        try:
            loaded = answer.loaded = self._model(answer.request.adapter or self.default_adapter)
            ids = fit(loaded, answer.request)
            answer.prompt_tokens = ids.shape[1]
            answer.started_at = time.monotonic()
            streamer = answer._begin(loaded.tokenizer)
            self._generate(loaded, answer, ids, streamer)
        except UserError as error:
            answer.error = error
        except torch.cuda.OutOfMemoryError:
            torch.cuda.empty_cache()
            answer.error = GenerationFailed(
                "The model ran out of memory in the middle of this answer. Ask a shorter question, or clear the conversation."
            )
            log.error("out of memory with %d prompt tokens", answer.prompt_tokens)
        except Exception as error:
            answer.error = GenerationFailed(
                "The model failed in the middle of this answer. Ask again; if it happens twice, tell the owner of this page."
            )
            # The message of an exception may hold text of the chat, so only its kind and place are logged.
            log.error("generation failed: %s at %s", type(error).__name__, _place(error))
        finally:
            if streamer is not None and not _ended(streamer):
                streamer.on_finalized_text("", stream_end=True)

    def _generate(self, loaded: LoadedModel, answer: Answer, ids: torch.Tensor, streamer: _Streamer) -> None:
        request, model = answer.request, loaded.model
        sampling = (
            {"do_sample": True, "temperature": request.temperature, "top_p": request.top_p}
            if request.temperature > 0
            else {"do_sample": False}
        )
        torch.manual_seed(answer.seed)
        with nullcontext() if request.use_adapter else model.disable_adapter():
            output = model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                streamer=streamer,
                stopping_criteria=StoppingCriteriaList([_StopWhen(answer, request.deadline)]),
                max_new_tokens=min(request.max_new_tokens, loaded.contract.context_length - ids.shape[1]),
                repetition_penalty=request.repetition_penalty,
                eos_token_id=loaded.contract.eos_token_ids,
                pad_token_id=loaded.tokenizer.pad_token_id,
                **sampling,
            )
        if answer.finish_reason is None:
            ended = int(output[0, -1]) in loaded.contract.eos_token_ids
            answer.finish_reason = "stop" if ended else "stopped" if answer.stopped.is_set() else "length"


def fit(loaded: LoadedModel, request: GenerationRequest) -> torch.Tensor:
    """The prompt's token ids, (1, T) int64 on the model's device, the oldest whole turns left out until the answer has room.

    Raises:
        QuestionTooLong: The last question alone does not fit.
    """
    messages = request.messages
    room = loaded.contract.context_length - min(request.max_new_tokens, loaded.contract.context_length // 2)
    while len(ids := prompt_ids(loaded.tokenizer, messages)) > room:
        if len(messages) <= 1:
            raise QuestionTooLong(f"The question has {len(ids)} tokens and the model reads {room} beside its answer. Shorten the question.")
        messages = messages[2:]
    return torch.tensor([ids], device=loaded.device)


def _ended(streamer: _Streamer) -> bool:
    return bool(streamer.text_queue.queue) and streamer.text_queue.queue[-1] == streamer.stop_signal


def _place(error: BaseException) -> str:
    trace = error.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    return f"{trace.tb_frame.f_code.co_filename.rsplit('/', 1)[-1]}:{trace.tb_lineno}" if trace else "?"
