"""Generates answers: one persistent thread owns the models, and every request has its own streamer, stop event and seed.

Requests are answered in order, one at a time: the adapter's state is set for the whole answer inside that thread, so no
answer can be mixed with another's or written by the wrong model. Knows nothing of pages, HTTP or safety rules.
"""

import gc
import logging
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import torch

from app.engine.answer import Answer, GenerationRequest, StopWhen, Streamer, fit
from app.engine.model import LoadedModel
from app.engine.writing import write
from app.errors import Busy, GenerationFailed, NotReady, UserError

log = logging.getLogger(__name__)

ENDING = "The server is shutting down, so it takes no new questions. Ask again in a minute."


@dataclass
class _State:
    status: Literal["loading", "ready", "failed", "ending", "closed"] = "loading"
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

    Attributes:
        on_finish: Called with each answer that has ended, from the thread that ended it.
    """

    on_finish: Callable[[Answer], object] = staticmethod(lambda _: None)

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
        """One of "loading", "ready", "failed", "ending" and "closed"."""
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
        with self._condition:
            self._drop_stopped()
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
                raise Busy.full(self.queue_length)
            answer = Answer(request, self._position, self._max_wait, self.on_finish)
            self._waiting.append(answer)
            self._condition.notify()
        return answer

    def refuse(self) -> None:
        """Takes no more questions; those that it has are answered."""
        with self._condition:
            if self.status == "ready":
                self._state.status, self._state.message = "ending", ENDING

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
            answer.finish()

    def _position(self, answer: Answer) -> int:
        with self._condition:
            self._drop_stopped()
            try:
                return self._waiting.index(answer) + (self._running is not None)
            except ValueError:
                return 0

    def _open(self) -> tuple[Literal["ready", "failed"], str]:
        try:
            loaded = self._load(self.default_adapter)
            with self._condition:
                if self.status != "closed":
                    self._state.message = "The model is open and warms up."
            self._warm_up(loaded)
            self._state.models[self.default_adapter] = loaded
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
        self._serve()
        while self._state.models:
            self._state.models.popitem()[1].close()
        _free_memory()

    def _serve(self) -> None:
        while True:
            with self._condition:
                while not self._waiting and self.status != "closed":
                    self._condition.wait()
                if not self._waiting:
                    return
                answer = self._running = self._waiting.popleft()
            try:
                self._answer(answer)
            finally:
                with self._condition:
                    self._running = None
                answer.finish()
            failed = isinstance(answer.error, GenerationFailed)
            del answer  # it holds its model
            if failed:
                self._recover()

    def _model(self, adapter: str) -> LoadedModel:
        models = self._state.models
        if adapter not in models:
            loaded = self._load(adapter)
            while len(models) >= self._max_models:
                models.pop(next(name for name in models if name != self.default_adapter or len(models) == 1)).close()
            _free_memory()
            self._warm_up(loaded)
            models[adapter] = loaded
        models.move_to_end(adapter)
        return models[adapter]

    def _warm_up(self, loaded: LoadedModel) -> None:
        """Makes the first tokens of every kind, which are slow, so that nobody waits for them."""
        loaded.warm_up()
        for temperature in (0.0, 1.0):
            messages = loaded.contract.golden[0].messages
            request = GenerationRequest(messages, temperature=temperature, repetition_penalty=1.1, max_new_tokens=2, seed=0)
            answer = Answer(request, lambda _: 0, self._max_wait)
            self._generate(loaded, answer, fit(loaded, request), answer.begin(loaded.tokenizer))

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
            streamer = answer.begin(loaded.tokenizer)
            self._generate(loaded, answer, ids, streamer)
        except UserError as error:
            answer.error = error
        except torch.cuda.OutOfMemoryError:
            answer.error = GenerationFailed(
                "The model ran out of memory in the middle of this answer. Ask a shorter question, or clear the conversation."
            )
            log.error("out of memory with %d prompt tokens", answer.prompt_tokens, extra={"request_id": answer.request.request_id})
        except Exception as error:
            answer.error = GenerationFailed(
                "The model failed in the middle of this answer. Ask again; if it happens twice, tell the owner of this page."
            )
            # The message of an exception may hold text of the chat, so only its kind and place are logged.
            log.error("generation failed: %s at %s", type(error).__name__, _place(error), extra={"request_id": answer.request.request_id})
        finally:
            if streamer is not None and not streamer.ended:
                streamer.on_finalized_text("", stream_end=True)

    def _recover(self) -> None:
        """After a failure: gives back what the answer held, now that its stack is gone, and says so if the card does not come back."""
        try:
            _free_memory()
        except Exception as lost:  # every call fails then, each in its own way
            log.error("the graphics card is lost: %s", type(lost).__name__)
            with self._condition:
                self._state.status, self._state.message = "failed", "The graphics card has stopped working. Restart the app."
                while self._waiting:
                    waiting = self._waiting.popleft()
                    waiting.error = NotReady(self._state.message)
                    waiting.finish()

    def _generate(self, loaded: LoadedModel, answer: Answer, ids: torch.Tensor, streamer: Streamer) -> None:
        most = min(answer.request.max_new_tokens, loaded.contract.context_length - ids.shape[1])
        stop = StopWhen(answer, answer.request.deadline)
        last = write(loaded, answer, ids, most, streamer, stop)
        if answer.finish_reason is None:
            answer.finish_reason = "stop" if last in loaded.contract.eos_token_ids else "length"


def _free_memory() -> None:
    """Gives memory that nothing refers to back to the system; raises where a CUDA card has failed."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        torch.cuda.empty_cache()


def gpu_memory() -> dict[str, int]:
    """Bytes of the card that this process holds, by kind; empty without one."""
    if not torch.cuda.is_available():
        return {}
    return {"allocated": torch.cuda.memory_allocated(), "reserved": torch.cuda.memory_reserved()}


def _place(error: BaseException) -> str:
    trace = error.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    return f"{trace.tb_frame.f_code.co_filename.rsplit('/', 1)[-1]}:{trace.tb_lineno}" if trace else "?"
