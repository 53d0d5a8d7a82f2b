"""The outermost middleware: gives each request an id and its client's address, counts it, and logs a line about it.

Knows nothing of what a request says: a line has its method, its path where that is one of ours, its status and its time.
"""

import logging
import time

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.conversation.metrics import ROUTES, Metrics, known_method
from app.logs import EACH, ID_HEADER, new_request_id, request_id

each = logging.getLogger(EACH)


class Trace:
    """See the top of the file. The id stands on the response, and on the request for whoever reads its headers later.

    Args:
        app: The application behind it.
        metrics: Counts the requests.
        trusted_hops: How many proxies of ours stand before the app; see `client_address`.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, trusted_hops: int = 0) -> None:
        self.app = app
        self.metrics = metrics
        self.trusted_hops = trusted_hops

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = MutableHeaders(scope=scope)
        identity = new_request_id(headers.get(ID_HEADER, ""))
        headers[ID_HEADER] = identity
        if self.trusted_hops:
            peer = scope.get("client")
            scope["client"] = (client_address(headers, peer[0] if peer else "", self.trusted_hops), 0)
        token, started, status = request_id.set(identity), time.monotonic(), 499  # nginx' number for a client that went away

        async def send_marked(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[ID_HEADER] = identity
            await send(message)

        path = scope["path"].removeprefix(scope.get("root_path", ""))
        try:
            await self.app(scope, receive, send_marked)
        finally:
            self.metrics.request(scope["method"], path, status)
            facts = {
                "method": known_method(scope["method"]),
                "route": path if path in ROUTES else "other",
                "status": status,
                "seconds": round(time.monotonic() - started, 3),
            }
            each.info("request", extra={"facts": facts})
            request_id.reset(token)


def client_address(headers: Headers, peer: str, trusted_hops: int) -> str:
    """The address that a request came from.

    Each proxy appends the address that it was called from to X-Forwarded-For, and anybody may write what stands before. So with N
    proxies of ours the N-th address from the end is the last that one of ours has seen.

    Args:
        headers: The request's.
        peer: Who opened the connection to us.
        trusted_hops: How many proxies of ours stand before the app; 0 believes no header.
    """
    if trusted_hops == 0:
        return peer
    forwarded = [part.strip() for value in headers.getlist("X-Forwarded-For") for part in value.split(",")]
    return forwarded[-trusted_hops] if len(forwarded) >= trusted_hops else peer
