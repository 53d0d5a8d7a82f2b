"""Middleware between a stranger and the app: headers on every response, closed routes, a limit on bodies, no chat in the log on failure."""

import logging
import re
import traceback

from starlette.datastructures import MutableHeaders, QueryParams
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.web.api import error_response

log = logging.getLogger(__name__)

HEADERS = {
    # Text of the model is shown as it is; should markup in it ever be taken for such, nothing is fetched from another host. Gradio's
    # page has inline scripts and styles. Hugging Face shows a Space in a frame.
    "Content-Security-Policy": (
        "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
        "font-src 'self' data:; connect-src 'self'; form-action 'self'; base-uri 'self'; object-src 'none'; "
        "frame-ancestors 'self' https://huggingface.co"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=(), payment=(), usb=()",
    "Cross-Origin-Opener-Policy": "same-origin",
}

# Gradio has routes for uploads, shared and recorded runs, proxies, code editing and more. The page needs these.
_PAGE_NEEDS = "app_id|cancel|file=(?!.*://)|heartbeat/|login_check|queue/(?:data|join)|reset|run/|startup-events|theme\\.css|user"
_CLOSED = re.compile(rf"/+(?:gradio_api/+(?!{_PAGE_NEEDS})|(?:docs|login|logout|monitoring|openapi\.json|redoc)(?:/|$))")

DRAINED = 20  # a body is read to its end up to this many times the limit


class Guard:
    """Puts `HEADERS` on every response, closes the routes that nobody needs, and keeps chats out of the log when something fails.

    On a Space Gradio puts its own answers to CORS preflights, which have no content, in front of this.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = False

        async def send_guarded(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = MutableHeaders(scope=message)
                headers.update(HEADERS)
                # Away from localhost Gradio lets every other site use the page in its reader's name.
                del headers["Access-Control-Allow-Origin"]
            await send(message)

        path = scope["path"].removeprefix(scope.get("root_path", ""))
        try:
            if _CLOSED.match(path) or "deep_link" in QueryParams(scope["query_string"]):
                await error_response(404, "There is nothing here.")(scope, receive, send_guarded)
            else:
                await self.app(scope, receive, send_guarded)
        except ClientDisconnect:
            pass
        except Exception as error:
            # The message of an exception may hold text of a chat; its stack holds our code alone.
            stack = "".join(traceback.format_tb(error.__traceback__))
            log.error("a request failed: %s\n%s", type(error).__name__, stack)
            if not started:
                response = error_response(500, "Something went wrong here. Try again; if it happens twice, tell the owner of this page.")
                await response(scope, receive, send_guarded)


class BodyLimit:
    """Refuses requests with a body above a limit, whether its length was announced or not, before anything reads it.

    Args:
        app: The application behind it.
        limit: Bytes a body may have.
    """

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self.app = app
        self.limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request."""
        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD", "OPTIONS"):
            await self.app(scope, receive, send)
            return
        body = await self._read(receive)
        if body is None:
            text = f"The request has more than {self.limit:,} bytes. Shorten the conversation or start a new one."
            await error_response(413, text, code="too_long")(scope, receive, send)
            return
        waiting = [body]

        async def replay() -> Message:
            return {"type": "http.request", "body": waiting.pop(), "more_body": False} if waiting else await receive()

        await self.app(scope, replay, send)

    async def _read(self, receive: Receive) -> bytes | None:
        body, size = bytearray(), 0
        # A client that is cut off while it sends may never read the refusal, so the rest is read, within reason, and forgotten.
        while size <= DRAINED * self.limit:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            piece = message.get("body", b"")
            size += len(piece)
            if size <= self.limit:
                body += piece
            if not message.get("more_body"):
                return bytes(body) if size <= self.limit else None
        return None
