"""Serves the page and the API: one list of middleware and routes, given to FastAPI here and to `launch()` on a Space.

`create_app()` makes the application for uvicorn; `serve()` and `serve_on_space()` run it for `python -m app`. Nothing of a
chat is ever logged: a failure is written down as its kind and its stack, without its message.
"""

import asyncio
import hashlib
import logging
import secrets
import signal
import socket
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from functools import partial
from types import FrameType
from typing import Any
from urllib.parse import urlsplit
from weakref import WeakValueDictionary

import gradio as gr
import torch
import uvicorn
from fastapi import FastAPI
from gradio.routes import App as GradioApp
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Mount, Route

from app.adapter.directory import public_name
from app.conversation.chat import Chat
from app.engine import model, zero
from app.engine.answer import POLL_SECONDS
from app.engine.generation import LocalGenerator
from app.engine.remote import Generator, RemoteGenerator
from app.engine.zero import ZeroGenerator
from app.errors import ConfigError
from app.notices.advice import check_country
from app.notices.trial import try_rules
from app.page.ui import LAUNCH_OPTIONS, build_demo
from app.settings import Settings, load_settings
from app.web.api import RETRY_SECONDS, api, error_response
from app.web.guard import BodyLimit, Guard
from app.web.login import Gate, login_routes
from app.web.page_requests import PageRequests
from app.web.trace import Trace

log = logging.getLogger(__name__)

REPORT_SECONDS = 60.0
LAST_WORDS_SECONDS = 0.5  # from the end of an answer until the page has shown it

NO_DOCS: dict[str, Any] = {"openapi_url": None, "docs_url": None, "redoc_url": None}
Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]


def middleware(chat: Chat, page: gr.Blocks) -> list[Middleware]:
    """The middleware of both ways of serving, outermost first."""
    settings = chat.settings
    return [
        Middleware(Trace, metrics=chat.metrics, trusted_hops=settings.trusted_hops),
        Middleware(Guard),
        *([Middleware(Gate, settings=settings)] if settings.require_login else []),
        Middleware(BodyLimit, limit=settings.max_body_bytes),
        Middleware(PageRequests, page=page),
    ]


def routes(chat: Chat) -> list[BaseRoute]:
    """The routes of both ways of serving; they come before the page, which takes every other path."""

    async def healthz(_: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def readyz(_: Request) -> Response:
        status, facts = readiness(chat.generator)
        wait = RETRY_SECONDS.get(facts["status"])
        retry = {"Retry-After": str(wait)} if wait else {}
        return JSONResponse(facts, status, headers={"Cache-Control": "no-store", **retry})

    async def metrics(request: Request) -> Response:
        key = chat.settings.metrics_key.get_secret_value()
        if key and not secrets.compare_digest(request.headers.get("Authorization", "").encode(), f"Bearer {key}".encode()):
            return error_response(401, "The metrics want their key.", headers={"WWW-Authenticate": "Bearer"})
        return Response(chat.metrics.text(), media_type=CONTENT_TYPE_LATEST, headers={"Cache-Control": "no-store"})

    ours = [Route("/healthz", healthz), Route("/readyz", readyz), Route("/metrics", metrics), Mount("/v1", app=api(chat))]
    return [*(login_routes(chat.settings) if chat.settings.require_login else []), *ours]


def readiness(generator: Generator) -> tuple[int, dict[str, Any]]:
    """The status code of `/readyz` and what it says: which model answers, and what its check on load measured."""
    loaded = generator.loaded
    if generator.status != "ready" or loaded is None:
        return 503, {"status": generator.status, "message": generator.message}
    contract = loaded.contract.model_dump_json().encode()
    return 200, {
        "status": "ready",
        "adapter": public_name(loaded.name),
        "adapter_revision": loaded.adapter_revision,
        "approved": loaded.pin.approved if loaded.pin else None,
        "base": public_name(loaded.base),
        "base_revision": loaded.base_revision,
        "contract": f"sha256:{hashlib.sha256(contract).hexdigest()}",
        "template_sha256": loaded.contract.template_sha256,
        "probe": loaded.probe.model_dump() if loaded.probe else None,
        "device": loaded.device,
        "dtype": loaded.dtype,
        "decoder": loaded.way,
        "load_seconds": round(loaded.load_seconds, 2),
        "warm_up_seconds": round(loaded.warm_up_seconds, 2),
        "memory_bytes": loaded.memory_bytes,
        "queue_length": generator.queue_length,
    }


def build_chat(settings: Settings, generator: Generator | None = None) -> Chat:
    """Begins to open the adapter, in the generation thread, and returns at once."""
    torch.set_num_threads(settings.threads)
    try_rules()
    check_country(settings.country)
    return Chat(generator or _generator(settings), settings)


def _generator(settings: Settings) -> Generator:
    limits: dict[str, Any] = {"max_queue": settings.max_queue, "max_wait": settings.max_wait}
    if settings.engine_url:
        names: dict[str, Any] = {"model": settings.engine_model, "base": settings.engine_base}
        key = settings.engine_key.get_secret_value()
        return RemoteGenerator(settings.adapter, settings.engine_url, api_key=key, **names, **limits)
    if platform := zero.spaces():
        return ZeroGenerator(partial(model.load, device="cpu", base=settings.base_folder), settings.adapter, platform.GPU, **limits)
    return LocalGenerator(partial(model.load, decoders=WeakValueDictionary(), base=settings.base_folder), settings.adapter, **limits)


def create_app(settings: Settings | None = None, generator: Generator | None = None) -> FastAPI:
    """The application for uvicorn: routes, middleware and the page.

    Args:
        settings: Read from the environment when None.
        generator: Made from the settings when None; the application closes it when it ends.
    """
    settings = settings or load_settings()
    chat = build_chat(settings, generator)
    page = build_demo(chat, settings)
    app = FastAPI(middleware=middleware(chat, page), routes=routes(chat), lifespan=lifespan(chat), **NO_DOCS)
    return gr.mount_gradio_app(app, page, path="/", app_kwargs=dict(NO_DOCS), **LAUNCH_OPTIONS)


def lifespan(chat: Chat) -> Lifespan:
    """Says when the model is ready and what it does, looks for newer adapters, and ends the answers when the server ends."""
    generator = chat.generator

    @asynccontextmanager
    async def running(app: FastAPI) -> AsyncIterator[None]:
        reports = [asyncio.create_task(_announce(generator)), asyncio.create_task(_report(chat))]
        ending = threading.Event()
        threading.Thread(target=chat.renewal.keep_looking, args=(ending,), name="renewal", daemon=True).start()
        pages = [route.app for route in app.routes if isinstance(route, Mount) and isinstance(route.app, GradioApp)]

        async def end(seconds: float) -> None:
            await run_in_threadpool(drain, generator, seconds)
            threading.Thread(target=generator.close, daemon=True).start()
            for page in pages:
                page.stop_event.set()

        with _at_signals({signal.SIGTERM: partial(end, chat.settings.shutdown_seconds), signal.SIGINT: partial(end, 0.0)}):
            yield
        ending.set()
        for report in reports:
            report.cancel()
        await run_in_threadpool(generator.close)

    return running


def drain(generator: Generator, seconds: float) -> None:
    """Takes no more questions, and returns when those that there are have been answered, or after `seconds`."""
    generator.refuse()
    ends = time.monotonic() + seconds
    busy = False
    while generator.queue_length and time.monotonic() < ends:
        busy = True
        time.sleep(POLL_SECONDS)
    if busy:
        time.sleep(LAST_WORDS_SECONDS)


async def _announce(generator: Generator) -> None:
    while generator.status == "loading":
        await asyncio.sleep(0.1)
    if loaded := generator.loaded:
        log.info("Ready: adapter %s on base %s.", public_name(loaded.name), public_name(loaded.base))


async def _report(chat: Chat) -> None:
    while True:
        await asyncio.sleep(REPORT_SECONDS)
        if line := chat.metrics.minute():
            log.info("%s", line)


@contextmanager
def _at_signals(actions: dict[int, Callable[[], Awaitable[None]]]) -> Iterator[None]:
    """Runs an action in the event loop at Ctrl-C or SIGTERM, before the server's own handler; a second signal does not wait for it.

    uvicorn waits for open responses before it tells the application that it ends, and a page keeps one open for as long as it
    is shown, so Ctrl-C and `--reload` would hang (https://github.com/Kludex/uvicorn/issues/451). This can go once uvicorn ends
    them itself (https://github.com/Kludex/uvicorn/pull/2829); 0.54 does not.
    """
    loop = asyncio.get_running_loop()
    previous: dict[int, Callable[[int, FrameType | None], Any]] = {}
    begun: list[asyncio.Task[None]] = []

    async def act(number: int) -> None:
        try:
            await actions[number]()
        finally:
            previous[number](number, None)

    def handle(number: int, frame: FrameType | None) -> None:
        if begun:
            previous[number](number, frame)
        else:
            loop.call_soon_threadsafe(lambda: begun.append(loop.create_task(act(number))))

    if threading.current_thread() is threading.main_thread():
        for number in actions:
            if callable(found := signal.getsignal(number)):
                previous[number] = found
                signal.signal(number, handle)
    try:
        yield
    finally:
        for caught, before in previous.items():
            signal.signal(caught, before)


def uvicorn_options(settings: Settings) -> dict[str, Any]:
    """How uvicorn serves the app."""
    return {
        "access_log": False,
        "server_header": False,
        "proxy_headers": False,  # `trusted_hops` says whom to believe
        "root_path": urlsplit(settings.public_url).path.rstrip("/"),  # a proxy may serve the app below a path, which it takes away
        "timeout_graceful_shutdown": 2,
    }


def serve(settings: Settings, listener: socket.socket) -> int:
    """Serves on a listening socket until Ctrl-C, or until it turns out that the adapter cannot be opened.

    Returns:
        The exit status: 1 when the adapter could not be opened.
    """
    generator = build_chat(settings).generator
    app = create_app(settings, generator)
    failed = False

    async def end_if_failed() -> None:
        nonlocal failed
        if generator.status == "failed":  # its sentence has been logged
            failed = server.should_exit = True

    server = uvicorn.Server(
        uvicorn.Config(app, log_level="warning", timeout_notify=0, callback_notify=end_if_failed, **uvicorn_options(settings))
    )
    # uvicorn sends itself the signal again once it has ended; to have ended as asked is no failure.
    signal.signal(signal.SIGTERM, lambda number, frame: None)
    server.run(sockets=[listener])
    return int(failed)


def serve_on_space(settings: Settings) -> int:
    """Serves through Gradio's `launch()`, which a Space with ZeroGPU needs, until it is told to end.

    Raises:
        ConfigError: The port is taken.
    """
    chat = build_chat(settings)
    page = build_demo(chat, settings)
    app_kwargs = {"middleware": middleware(chat, page), "routes": routes(chat), "lifespan": lifespan(chat), **NO_DOCS}
    # A Space is reached through its container's address.
    host = settings.host if "host" in settings.model_fields_set else "0.0.0.0"  # noqa: S104

    def end(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.default_int_handler)  # a second signal does not wait
        drain(chat.generator, settings.shutdown_seconds)
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, end)  # Gradio serves in another thread and knows Ctrl-C alone
    try:
        page.launch(server_name=host, server_port=settings.port, share=False, quiet=True, app_kwargs=app_kwargs, **LAUNCH_OPTIONS)
    except OSError as error:
        raise ConfigError(f"Cannot serve on {host}, port {settings.port}. Choose another port with --port.") from error
    finally:
        chat.generator.close()
    return 0
