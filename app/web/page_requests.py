"""Checks what pages post to Gradio before Gradio reads it, so that nothing a stranger sends can make it fail.

Gradio answers a value that it cannot read with 500 and a traceback that holds the value. Our page sends nothing of the kind.
"""

import re
from typing import Any, Literal

from gradio import Blocks
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from pydantic_core import from_json
from starlette.datastructures import QueryParams
from starlette.types import ASGIApp, Receive, Scope, Send

from app.web.api import error_response

_POSTED = re.compile(r"/+gradio_api/")
_EVENTS = re.compile(r"/+gradio_api/+(?:queue/join|run/[^/]*)/?$")
_STREAM = re.compile(r"/+gradio_api/+queue/data/?$")
REFUSAL = "This is no request of the page as it is now. Reload the page and try again."


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    type: Literal["text"]
    text: str


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    role: Literal["user", "assistant"]
    content: list[_Part]
    metadata: None = None
    options: None = None


class _Posted(BaseModel):
    model_config = ConfigDict(strict=True)
    data: list[Any]
    fn_index: int
    session_hash: str
    trigger_id: int | None = None
    event_id: str | None = None
    simple_format: Literal[False] = False
    batched: Literal[False, None] = None


_STRICT = ConfigDict(strict=True, allow_inf_nan=False)
_TEXT: TypeAdapter[Any] = TypeAdapter(str | None)
_VALUES: dict[str, TypeAdapter[Any]] = {
    "chatbot": TypeAdapter(list[_Message]),
    "checkbox": TypeAdapter(bool | None, config=_STRICT),
    "slider": TypeAdapter(float | None, config=_STRICT),
    "state": TypeAdapter(Any),  # kept on the server: what is sent for it is not read
}


class PageRequests:
    """See the top of the file.

    Args:
        app: The application behind it.
        page: Whose events may be asked for, with the values that its components can have.
    """

    def __init__(self, app: ASGIApp, page: Blocks) -> None:
        self.app = app
        self.page = page

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request."""
        path = scope.get("path", "").removeprefix(scope.get("root_path", ""))
        if scope["type"] == "http" and scope["method"] == "GET" and _STREAM.match(path):
            # Gradio notices that nothing was asked for only after it has begun to answer.
            session = QueryParams(scope["query_string"]).get("session_hash")
            if session not in self.page._queue.pending_messages_per_session:
                await error_response(404, REFUSAL)(scope, receive, send)
                return
        if scope["type"] != "http" or scope["method"] != "POST" or not _POSTED.match(path):
            await self.app(scope, receive, send)
            return
        # `app.guard.BodyLimit` has read the body and hands it on in one message.
        first = await receive()
        try:
            posted = from_json(first.get("body", b""), allow_inf_nan=False)
            if _EVENTS.match(path):
                self._check(posted)
        except (ValidationError, ValueError):
            await error_response(422, REFUSAL, code="invalid")(scope, receive, send)
            return
        waiting = [first]

        async def replay() -> Any:
            return waiting.pop() if waiting else await receive()

        await self.app(scope, replay, send)

    def _check(self, body: Any) -> None:
        posted = _Posted.model_validate(body)
        event = self.page.fns.get(posted.fn_index)
        if (
            event is None
            or len(posted.data) != len(event.inputs)
            or posted.trigger_id not in {None, *(target for target, _ in event.targets)}
        ):
            raise ValueError("no event of the page")
        known = self.page.state_holder[posted.session_hash]  # choices may have changed on this page
        for component, value in zip(event.inputs, posted.data, strict=True):
            kind = component.get_block_name()
            _VALUES.get(kind, _TEXT).validate_python(value)
            if kind not in ("chatbot", "state"):
                try:
                    known[component._id].preprocess(value)
                except Exception as error:
                    raise ValueError("the component cannot have it") from error
