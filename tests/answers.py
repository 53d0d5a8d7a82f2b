"""Questions to the model itself, answers that a test steers and holds, and waiting without a guess at how quick a machine is.

A test that needs a state which passes by itself (an answer that is being written, a full queue, a model that loads) holds it with an
event, looks, and lets go. It never sleeps until the state is probably there, and never looks hoping that it is not over yet.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from app.engine.answer import Answer, GenerationRequest
from app.engine.generation import LocalGenerator
from app.engine.model import LoadedModel

SECRET = "Zanzibarine"  # stands for the text of a chat: it may appear in an answer to its writer and nowhere else
PATIENCE = 240.0  # seconds after which a test gives up; only a failure takes that long, on whatever machine
QUESTIONS = [
    "What are the common symptoms of diabetes?",
    "Which nerve is injured in a fracture of the surgical neck of the humerus?",
    "How is septic shock defined?",
    "Why do ACE inhibitors cause a cough?",
    "What is the first-line treatment of croup?",
    "How is acromegaly diagnosed?",
]


def wait_until(condition: Callable[[], object], every: float = 0.005) -> None:
    """Looks every so many seconds until something is so that stays so; fails when it does not come."""
    ends = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < ends, "what the test waits for did not come"
        time.sleep(every)


def ask(question: str = QUESTIONS[0], **options: Any) -> GenerationRequest:
    """A request of one question."""
    options.setdefault("max_new_tokens", 24)
    return GenerationRequest(messages=[{"role": "user", "content": question}], **options)


def text_of(answer: Answer) -> str:
    """The whole answer."""
    for _ in answer:
        pass
    return answer.text


@contextmanager
def hooked_decoder(loaded: LoadedModel, hook: Callable[[torch.Tensor, int, torch.Tensor], torch.Tensor]) -> Iterator[None]:
    """Has `hook` see, and change, the logits of each pass: it gets the pass's tokens, their place and the logits."""
    decoder = loaded.decoder
    original = decoder.logits
    decoder.logits = lambda ids, start: hook(ids, start, original(ids, start))
    try:
        yield
    finally:
        del decoder.logits


@contextmanager
def at_each_step(loaded: LoadedModel, action: Callable[[int], None]) -> Iterator[None]:
    """Calls `action` with the number of the step, counted from 1, at each pass through the model."""
    steps = iter(range(1, 1_000_000))

    def hook(ids: torch.Tensor, start: int, logits: torch.Tensor) -> torch.Tensor:
        action(next(steps))
        return logits

    with hooked_decoder(loaded, hook):
        yield


class Hold:
    """Has one answer stand still at a token, until `release`, until the next `at`, or until somebody stops that answer.

    Attributes:
        reached: Set when an answer stands there.
        generator: Whose answer it is that may be stopped.
    """

    def __init__(self, generator: LocalGenerator | None = None) -> None:
        self.generator = generator
        self.reached = threading.Event()
        self._token = 0
        self._open = threading.Event()

    def at(self, token: int) -> None:
        """Lets what stands still go on; the next answer that comes to this token, counted from 1, stands still."""
        before, self._open = self._open, threading.Event()
        self.reached = threading.Event()
        self._token = token
        before.set()

    def release(self) -> None:
        """Lets what stands still go on, and holds nothing more."""
        self._token = 0
        self._open.set()

    def wait(self) -> None:
        """Returns when an answer stands still."""
        assert self.reached.wait(PATIENCE), "no answer came to the token at which it is held"

    def passed(self, token: int) -> None:
        """For the generation thread: an answer has come to this token."""
        if token == self._token:
            self._token, opened = 0, self._open
            self.reached.set()
            while not opened.wait(0.005) and not self._stopped():
                pass

    def _stopped(self) -> bool:
        running = self.generator and self.generator._running
        return bool(running and running.stopped.is_set())


@contextmanager
def held(generator: LocalGenerator, loaded: LoadedModel, token: int = 6) -> Iterator[Hold]:
    """The next answer stands still at a token until the block ends, or until it is stopped."""
    hold, step = Hold(generator), 0
    hold.at(token)

    def hook(ids: torch.Tensor, start: int, logits: torch.Tensor) -> torch.Tensor:
        nonlocal step
        step = 1 if start == 0 else step + 1
        hold.passed(step)
        return logits

    with hooked_decoder(loaded, hook):
        try:
            yield hold
        finally:
            hold.release()


@contextmanager
def under_way(generator: LocalGenerator, loaded: LoadedModel, token: int = 6, **options: Any) -> Iterator[Answer]:
    """An answer that is being written, and stands still at a token until the block ends or it is stopped."""
    with held(generator, loaded, token) as hold:
        answer = generator.submit(ask(**{"max_new_tokens": 200, **options}))
        hold.wait()
        yield answer


class Steer:
    """Sets an answer's course: `end_at` is the token at which it ends by itself, `fail_at` the one that raises, `delay` seconds a token.

    `say` is the whole answer instead of the model's own, and `hold` has it stand still.
    """

    def __init__(self, loaded: LoadedModel) -> None:
        self.eos = loaded.contract.eos_token_ids
        self.tokenizer = loaded.tokenizer
        self.hold = Hold()
        self.reset()

    def reset(self) -> None:
        """As at first: an answer of 12 tokens."""
        self.end_at: int | None = 12
        self.fail_at: int | None = None
        self.delay = 0.0
        self.say = ""
        self.step = 0
        self.hold.release()

    def __call__(self, ids: torch.Tensor, start: int, logits: torch.Tensor) -> torch.Tensor:
        """The logits of a pass, changed so that the answer takes its course."""
        self.step = 1 if start == 0 else self.step + 1
        time.sleep(self.delay)
        self.hold.passed(self.step)
        if self.step == self.fail_at:
            raise RuntimeError(f"cannot continue {SECRET}")
        if self.say:
            said = self.tokenizer.encode(self.say, add_special_tokens=False)
            logits[..., said[self.step - 1] if self.step <= len(said) else self.eos] = 1e4
            return logits
        logits[..., self.eos] = 1e4 if self.step == self.end_at else -1e4
        return logits
