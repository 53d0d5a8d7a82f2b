"""Answers from a server that speaks OpenAI's format (vLLM, llama.cpp, `transformers serve`, an Inference Endpoint), with no model here.

`RemoteGenerator` stands in for `LocalGenerator`: one thread runs an event loop with a task for each answer, because the server is
what queues and batches. On connecting, each golden prompt of the contract must become as many tokens there as in training - the
very same ones where the server tells them (vLLM does) - or nothing is answered. Nothing is opened here but contract and tokenizer.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

import openai

from app.adapter import contract as contracts
from app.adapter.cards import training_cards
from app.adapter.directory import open_tokenizer, read_run, resolve_adapter
from app.engine.answer import Answer, GenerationRequest, shorten
from app.engine.generation import ENDING, LocalGenerator
from app.engine.handshake import check_template, server_names
from app.engine.model import LoadedModel
from app.engine.zero import ZeroGenerator
from app.errors import AdapterError, Busy, GenerationFailed, NotReady, UserError

log = logging.getLogger(__name__)

CONNECT_SECONDS = 10.0
RETRY_SECONDS = 2.0
# Seconds in which a server that streams says something: the first token of a long prompt on a slow machine takes longest.
SILENCE_SECONDS = 120.0

__all__ = ["Generator", "RemoteGenerator"]


class RemoteGenerator:
    """See the top of the file.

    Args:
        adapter: The default adapter: a folder or Hub repository with the contract of what the server serves.
        url: The server's address, up to and including `/v1`.
        model: Its name for the adapter; looked up when empty.
        base: Its name for the base model; looked up when empty.
        api_key: Its key, where it wants one.
        max_queue: Answers under way at most, beside one.
        max_wait: Seconds that an answer may wait before it begins.

    Attributes:
        on_finish: Called with each answer that has ended, from the thread that ended it.
    """

    on_finish: Callable[[Answer], object] = staticmethod(lambda _: None)

    def __init__(
        self, adapter: str, url: str, *, model: str = "", base: str = "", api_key: str = "", max_queue: int = 32, max_wait: float = 300.0
    ) -> None:
        self.default_adapter = adapter
        self.status, self.message = "loading", "Waiting for the model server."
        self._url, self._names = url.rstrip("/"), (model, base)
        self._max_queue, self._max_wait = max_queue, max_wait
        self._client = openai.AsyncOpenAI(
            base_url=self._url, api_key=api_key or "none", max_retries=0, timeout=openai.Timeout(SILENCE_SECONDS, connect=CONNECT_SECONDS)
        )
        self._opened: dict[str, tuple[LoadedModel, str]] = {}  # by adapter: what is known here, and its name there
        self._base: str | None = base or None
        self._answers: dict[Answer, asyncio.Task[None] | None] = {}
        self._lock = threading.Lock()
        self._started = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="generation", daemon=True)
        self._thread.start()

    @property
    def loaded(self) -> LoadedModel | None:
        """The default adapter, once the server has been checked."""
        found = self._opened.get(self.default_adapter)
        return found[0] if found else None

    @property
    def queue_length(self) -> int:
        """Answers under way."""
        return len(self._answers)

    def wait_until_ready(self, timeout: float | None = None) -> None:
        """Waits for the server.

        Raises:
            NotReady: It was refused, or did not answer within `timeout` seconds.
        """
        self._started.wait(timeout)
        if self.status != "ready":
            raise NotReady(self.message)

    def submit(self, request: GenerationRequest) -> Answer:
        """Sends a request.

        Raises:
            NotReady: The server has not been checked.
            Busy: Too many answers are under way.
        """
        with self._lock:
            if self.status != "ready":
                raise NotReady(self.message)
            if len(self._answers) > self._max_queue:
                raise Busy.full(self.queue_length)
            answer = Answer(request, lambda _: 0, self._max_wait, self.on_finish)
            self._answers[answer] = None
            self._loop.call_soon_threadsafe(self._begin, answer)
        answer.on_stop(lambda: self._soon(self._cancel, answer))
        return answer

    def refuse(self) -> None:
        """Takes no more questions; those that it has are answered."""
        with self._lock:
            if self.status == "ready":
                self.status, self.message = "ending", ENDING

    def close(self) -> None:
        """Stops all answers and the thread."""
        with self._lock:
            if self.status == "closed":
                return
            self.status, self.message = "closed", "The server is shutting down."
            answers = list(self._answers)
        for answer in answers:
            answer.stop()
        self._soon(self._loop.stop)
        self._thread.join(timeout=10)

    def _soon(self, action: Callable[..., object], *arguments: Any) -> None:
        with suppress(RuntimeError):  # the loop has ended, and every answer with it
            self._loop.call_soon_threadsafe(action, *arguments)

    def _begin(self, answer: Answer) -> None:
        task = self._answers[answer] = self._loop.create_task(self._answer(answer))
        task.add_done_callback(lambda _: self._end(answer))  # also of a task that was cancelled before it ran

    def _cancel(self, answer: Answer) -> None:
        if task := self._answers.get(answer):
            task.cancel()

    def _end(self, answer: Answer) -> None:
        with self._lock:
            self._answers.pop(answer, None)
        if answer.error is None and answer.finish_reason is None:
            answer.finish_reason = "stopped"
        answer.finish()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.create_task(self._connect())
        self._loop.run_forever()
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self._loop.run_until_complete(self._client.close())
        self._loop.close()

    async def _connect(self) -> None:
        status, message = "failed", ""
        try:
            while True:
                try:
                    await self._open(self.default_adapter)
                    status, message = "ready", "Ready."
                    break
                except (openai.APIConnectionError, openai.InternalServerError):
                    self.message = f"Waiting for the model server at {_host(self._url)}, which does not answer yet."
                    await asyncio.sleep(RETRY_SECONDS)
        except UserError as error:
            message = str(error)
        except openai.OpenAIError as error:
            message = _sentence(error, self._url)
        except Exception as error:
            log.exception("connecting to the model server failed")
            message = f"The model server could not be used ({type(error).__name__}). The log says more."
        if status == "failed":
            log.error("%s", message)
        with self._lock:
            if self.status != "closed":
                self.status, self.message = status, message
        self._started.set()

    async def _open(self, adapter: str) -> tuple[LoadedModel, str]:
        if adapter in self._opened:
            return self._opened[adapter]
        started = time.perf_counter()
        directory, pin = await asyncio.to_thread(resolve_adapter, adapter)
        contract = contracts.read(directory)
        tokenizer = await asyncio.to_thread(open_tokenizer, adapter, directory, contract)
        chosen = self._names if adapter == self.default_adapter else ("", self._names[1])
        name, base = await server_names(self._client, adapter, chosen, alone=adapter == self.default_adapter)
        self._base = base or self._base
        await check_template(self._client, contract, name)
        run = read_run(directory)
        loaded = LoadedModel(
            name=adapter,
            model=None,
            tokenizer=tokenizer,
            contract=contract,
            probe=None,
            base=contract.base.id,
            base_revision=None,
            adapter_revision=None,
            device=f"server {_host(self._url)}",
            dtype="as the server chose",
            run=run,
            cards=training_cards(directory, run),
            load_seconds=time.perf_counter() - started,
        )
        self._opened[adapter] = loaded, name
        return self._opened[adapter]

    async def _answer(self, answer: Answer) -> None:
        """Runs one answer from beginning to end; whatever happens, its reader is told."""
        streamer = None
        try:
            answer.loaded, name = await self._open(answer.request.adapter or self.default_adapter)
            if not answer.request.use_adapter and not self._base:
                raise AdapterError("The model server does not say how it calls the base model. Name it in ENGINE_BASE.")
            messages, ids = shorten(answer.loaded, answer.request)
            answer.prompt_tokens, answer.started_at = len(ids), time.monotonic()
            streamer = answer.begin(answer.loaded.tokenizer)
            async with asyncio.timeout(answer.request.deadline):
                await self._stream(answer, streamer, messages, name if answer.request.use_adapter else str(self._base))
        except asyncio.CancelledError:
            answer.finish_reason = "stopped"
        except TimeoutError:
            answer.finish_reason = "deadline"
        except UserError as error:
            answer.error = error
        except openai.OpenAIError as error:
            log.error("the model server failed: %s", type(error).__name__, extra={"request_id": answer.request.request_id})
            answer.error = Busy(_sentence(error, self._url)) if _is_busy(error) else GenerationFailed(_sentence(error, self._url))
        except Exception as error:
            # Its message may hold text of the chat.
            log.error("an answer of the model server failed: %s", type(error).__name__, extra={"request_id": answer.request.request_id})
            answer.error = GenerationFailed("The model server failed in the middle of this answer. Ask again in a moment.")
        finally:
            if streamer is not None:
                streamer.on_finalized_text("", stream_end=True)

    async def _stream(self, answer: Answer, streamer: Any, messages: Any, name: str) -> None:
        request = answer.request
        room = answer.loaded.contract.context_length - answer.prompt_tokens if answer.loaded else request.max_new_tokens
        extra = {"repetition_penalty": request.repetition_penalty} if request.repetition_penalty != 1.0 else None
        chunks = await self._client.chat.completions.create(
            model=name,
            messages=messages,
            max_tokens=min(request.max_new_tokens, room),
            temperature=request.temperature,
            top_p=request.top_p if request.temperature > 0 else openai.omit,
            seed=answer.seed,
            stream=True,
            stream_options={"include_usage": True},
            extra_body=extra,
        )
        async with chunks:
            async for chunk in chunks:
                choice = chunk.choices[0] if chunk.choices else None
                if choice and (piece := choice.delta.content):
                    answer.first_token_at = answer.first_token_at or time.monotonic()
                    answer.completion_tokens += 1  # a piece is a token or a few; `usage` at the end says how many
                    streamer.on_finalized_text(piece)
                if choice and choice.finish_reason:
                    answer.finish_reason = "length" if choice.finish_reason == "length" else "stop"
                if chunk.usage:
                    answer.completion_tokens, answer.prompt_tokens = chunk.usage.completion_tokens, chunk.usage.prompt_tokens
        if answer.finish_reason is None:
            raise GenerationFailed("The model server ended the connection in the middle of this answer. Ask again in a moment.")


Generator = LocalGenerator | RemoteGenerator | ZeroGenerator


def _host(url: str) -> str:
    """The server without what its address may hold in secrets."""
    return urlsplit(url).hostname or "ENGINE_URL"


def _is_busy(error: Exception) -> bool:
    return isinstance(error, openai.RateLimitError) or (isinstance(error, openai.APIStatusError) and error.status_code == 503)


def _sentence(error: Exception, url: str) -> str:
    if _is_busy(error):
        return "The model server is busy. Try again in a moment."
    if isinstance(error, openai.AuthenticationError | openai.PermissionDeniedError):
        return f"The model server at {_host(url)} refused the key. Put the right one into ENGINE_KEY."
    if isinstance(error, openai.APITimeoutError):
        return f"The model server at {_host(url)} has gone silent. Try again in a moment; if it happens twice, look at its log."
    if isinstance(error, openai.APIStatusError):
        return f"The model server at {_host(url)} refused the request with status {error.status_code}. Its log says why."
    return f"The model server at {_host(url)} does not answer. Check that it runs and that ENGINE_URL is right, then try again."
