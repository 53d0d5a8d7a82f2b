"""One answer: what is asked for, its text as it is made, and how its reader stops it. Knows nothing of how tokens are made.

The thread that makes an answer writes to its streamer; any other thread, or an event loop, reads from the `Answer` itself.
"""

import queue
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from tokenizers.decoders import DecodeStream
from transformers import StoppingCriteria, TextIteratorStreamer

from app.adapter.contract import Message, prompt_ids
from app.engine.model import LoadedModel
from app.errors import Busy, QuestionTooLong, UserError

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
        request_id: Of the request that asks, for the log.
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
    request_id: str = ""


class Streamer(TextIteratorStreamer):
    """A TextIteratorStreamer that decodes each token once, and tells a listener, so that an event loop need not poll.

    The original decodes the whole line again for every token and holds a word back until the next one begins; the tokenizer's
    own `DecodeStream` gives the text of each token as soon as its characters are complete.
    """

    def __init__(self, tokenizer: Any, notify: Callable[[], None]) -> None:
        super().__init__(tokenizer, skip_prompt=True, timeout=POLL_SECONDS, skip_special_tokens=True)
        self._notify = notify
        self._stream: Any = DecodeStream(skip_special_tokens=True)
        self._ids: list[int] = []
        self._text = ""
        self._begun = False

    def put(self, value: torch.Tensor) -> None:
        """Takes the prompt, which is left out, and then token after token."""
        if self._begun:
            for token in value.flatten().tolist():
                self.write(token)
        self._begun = True

    def write(self, token: int) -> None:
        """Takes one token of the answer."""
        piece = self._step(token)
        self._ids.append(token)
        if piece:
            self._text += piece
            self.on_finalized_text(piece)

    def _step(self, token: int) -> str | None:
        """The text that a token adds; nothing while its last character is not complete.

        Sentencepiece's decoders write a run of bytes as replacement characters when it turns out to be no text, and so take back what was
        said of its beginning, at which `DecodeStream` fails. From there on the whole answer is decoded for each token.
        """
        if self._stream:
            try:
                return self._stream.step(self.tokenizer.backend_tokenizer, token)
            except Exception:  # of its own kind
                self._stream = None
        before, whole = self._decode(self._ids), self._decode([*self._ids, token])
        if whole.endswith("\ufffd"):
            return None
        if not whole.startswith(self._text):
            self._text = before if whole.startswith(before) else whole
        return whole[len(self._text) :]

    def _decode(self, ids: list[int]) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=True)) if ids else ""

    def end(self) -> None:
        """Gives the rest: characters whose last byte never came stand as replacement characters."""
        whole = self._decode(self._ids)
        self.on_finalized_text(whole[len(self._text) :] if whole.startswith(self._text) else "", stream_end=True)

    @property
    def ended(self) -> bool:
        """Whether the last thing said is that nothing more comes."""
        return bool(self.text_queue.queue) and self.text_queue.queue[-1] == self.stop_signal

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Hands text to the reader."""
        if text:
            self.text_queue.put(text)
        if stream_end:
            self.text_queue.put(self.stop_signal)
        if text or stream_end:
            self._notify()


class StopWhen(StoppingCriteria):
    """Counts tokens, and ends generation at the next one once the answer was stopped or its deadline has passed."""

    def __init__(self, answer: "Answer", deadline: float) -> None:
        self._answer = answer
        self._ends = time.monotonic() + deadline

    def after_token(self) -> bool:
        """Whether the token that has just been made is the last."""
        now = time.monotonic()
        self._answer.completion_tokens += 1
        if self._answer.first_token_at is None:
            self._answer.first_token_at = now
        if self._answer.stopped.is_set():
            self._answer.finish_reason = "stopped"
        elif now > self._ends:
            self._answer.finish_reason = "deadline"
        return self._answer.finish_reason is not None

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **_: Any) -> torch.Tensor:
        """As the library's loop asks it: (batch,) bool."""
        return torch.full((input_ids.shape[0],), self.after_token(), dtype=torch.bool, device=input_ids.device)


class Answer:
    """An answer that is waiting, being written, or finished. Iterate over it for pieces of text as they are made.

    Attributes:
        text: The text so far.
        finish_reason: None until the end; "stop" at end-of-sequence, "length", "deadline", or "stopped" by the reader.
        prompt_tokens, completion_tokens: Counts.
        seed: The seed that was used.
    """

    def __init__(
        self,
        request: GenerationRequest,
        queue_position: Callable[["Answer"], int],
        max_wait: float,
        on_finish: Callable[["Answer"], object] = lambda _: None,
    ) -> None:
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
        self._begun = threading.Event()
        self.created_at = time.monotonic()
        self.started_at: float | None = None
        self.first_token_at: float | None = None
        self.finished_at: float | None = None
        self._max_wait = max_wait
        self._queue_position = queue_position
        self._on_finish = on_finish
        self._streamer: Streamer | None = None
        self._listener: Callable[[], None] = lambda: None
        self._on_stop: Callable[[], object] = lambda: None

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
        self._on_stop()
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
            if not self._begun.wait(wait):
                if time.monotonic() - self.created_at > self._max_wait:
                    text = f"No answer within {self._max_wait:.0f} seconds: too many people are asking. Try again in a minute."
                    self.error = Busy(text, 30)
                    self.stop()
                    raise self.error
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

    def on_stop(self, action: Callable[[], object]) -> None:
        """Has `action` called when somebody stops the answer; at once if somebody has."""
        self._on_stop = action
        if self.stopped.is_set():
            action()

    def begin(self, tokenizer: Any) -> Streamer:
        """For whoever makes the answer: it has left the queue, and this takes its text."""
        self._streamer = Streamer(tokenizer, lambda: self._listener())
        self._begun.set()
        return self._streamer

    def finish(self) -> None:
        """For whoever makes the answer: nothing more comes, and `error` or `finish_reason` says why."""
        self.finished_at = time.monotonic()
        self._on_finish(self)
        self.done.set()
        self._begun.set()
        self._listener()


def fit(loaded: LoadedModel, request: GenerationRequest) -> torch.Tensor:
    """The prompt's token ids, (1, T) int64 on the model's device; see `shorten`."""
    return torch.tensor([shorten(loaded, request)[1]], device=loaded.device)


def shorten(loaded: LoadedModel, request: GenerationRequest) -> tuple[list[Message], list[int]]:
    """The conversation and its prompt's token ids, the oldest whole turns left out until the answer has room.

    Raises:
        QuestionTooLong: The last question alone does not fit.
    """
    messages = request.messages
    room = loaded.contract.context_length - min(request.max_new_tokens, loaded.contract.context_length // 2)
    while len(ids := prompt_ids(loaded.tokenizer, messages)) > room:
        if len(messages) <= 1:
            raise QuestionTooLong(f"The question has {len(ids)} tokens and the model reads {room} beside its answer. Shorten the question.")
        messages = messages[2:]
    return messages, ids
