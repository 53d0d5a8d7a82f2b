"""The API in OpenAI's format: `/v1/models` and `/v1/chat/completions`, whole or as server-sent events.

Knows no page and no torch: it turns HTTP into a request for `Chat`, and an `Answer` into HTTP. The event loop is never
blocked, and a client that goes away ends its answer at the next token.
Format: https://platform.openai.com/docs/api-reference/chat
"""

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic_core import PydanticCustomError
from starlette.exceptions import HTTPException
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from app.adapter.contract import GenerationDefaults
from app.adapter.directory import public_name
from app.conversation.chat import Chat
from app.engine.answer import Answer
from app.errors import BudgetSpent, Busy, GenerationFailed, InvalidQuestion, NotReady, QuestionTooLong, RateLimited, UserError
from app.logs import request_id
from app.notices import safety

BASE_NAME = "base"  # the model name that switches the adapter off

# How OpenAI's format calls the end of an answer.
FINISH_REASONS = {"stop": "stop", "length": "length", "deadline": "length", "stopped": "stop"}
# A temperature below this divides the logits into infinities; it means greedy.
LOWEST_TEMPERATURE = 1e-3
# Seconds between two looks at an answer that says nothing: only its longest wait in the queue depends on them.
LOOK_SECONDS = 1.0
RETRY_SECONDS = {"loading": 3, "ending": 60}  # Retry-After while the model loads and while the server ends

Notices = list[dict[str, str]]  # kind and text of what the reader should be told

_STATUSES: dict[type[UserError], tuple[int, str]] = {
    QuestionTooLong: (413, "too_long"),
    InvalidQuestion: (422, "invalid"),
    RateLimited: (429, "rate_limited"),
    BudgetSpent: (429, "budget_spent"),
    Busy: (429, "busy"),
    NotReady: (503, "not_ready"),
    GenerationFailed: (500, "generation_failed"),
}


class _Part(BaseModel):
    model_config = ConfigDict(strict=True)
    type: str
    text: str | None = None


class _Message(BaseModel):
    model_config = ConfigDict(strict=True)
    role: str = Field(max_length=20)
    content: str | list[_Part] | None = None

    @field_validator("content")
    @classmethod
    def _text_only(cls, content: str | list[_Part] | None) -> str:
        if isinstance(content, str):
            return content
        if not content or any(part.type != "text" or part.text is None for part in content):
            raise PydanticCustomError("text_only", "This model reads text only: give a string, or parts of the type text")
        return "\n".join(part.text or "" for part in content)


class _StreamOptions(BaseModel):
    model_config = ConfigDict(strict=True)
    include_usage: bool | None = False


class CompletionRequest(BaseModel):
    """The fields of OpenAI's request that mean something here; others are ignored, those that would change the answer are refused."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)
    model: str = Field("", max_length=300)
    messages: list[_Message]
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    repetition_penalty: float | None = Field(None, ge=0.5, le=2)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stream: bool | None = False
    stream_options: _StreamOptions | None = None
    n: int | None = None
    stop: str | list[str] | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None

    @field_validator("n")
    @classmethod
    def _one(cls, value: int | None) -> int | None:
        if value not in (None, 1):
            raise PydanticCustomError("one_answer", "A request makes one answer. Leave n out, or send the request again for another")
        return value

    @field_validator("stop")
    @classmethod
    def _no_stop(cls, value: Any) -> Any:
        if value:
            raise PydanticCustomError("no_stop", "Stop sequences are not supported: an answer ends where the model ends it. Leave stop out")
        return value

    @field_validator("frequency_penalty", "presence_penalty")
    @classmethod
    def _no_penalty(cls, value: float | None) -> float | None:
        if value:
            raise PydanticCustomError("no_penalty", "This penalty is not supported. Leave it out, or use repetition_penalty")
        return value

    def options(self, defaults: GenerationDefaults) -> dict[str, Any]:
        """Fields of `GenerationRequest`; the adapter's defaults where the client said nothing."""
        chosen = {
            "max_new_tokens": self.max_completion_tokens or self.max_tokens,
            "temperature": self.temperature if self.temperature is None or self.temperature >= LOWEST_TEMPERATURE else 0.0,
            "top_p": self.top_p,
            "repetition_penalty": self.repetition_penalty,
        }
        given = {key: value for key, value in chosen.items() if value is not None}
        return {**defaults.model_dump(), **given, "seed": self.seed, "use_adapter": self.model != BASE_NAME}


def error_body(status: int, message: str, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    """An error in OpenAI's shape."""
    kind = "rate_limit_error" if status == 429 else "server_error" if status >= 500 else "invalid_request_error"
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def error_response(
    status: int, message: str, *, param: str | None = None, code: str | None = None, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    """A response that carries `error_body`."""
    return JSONResponse(error_body(status, message, param, code), status, {"Cache-Control": "no-store", **(headers or {})})


def _status(error: UserError) -> tuple[int, str]:
    return next((found for kind, found in _STATUSES.items() if isinstance(error, kind)), (500, "failed"))


def api(chat: Chat) -> ASGIApp:
    """The routes below `/v1`, with every error in OpenAI's shape."""

    async def models(_: Request) -> Response:
        created = int(time.time())
        names = (public_name(chat.generator.default_adapter), BASE_NAME)
        data = [{"id": name, "object": "model", "created": created, "owned_by": "local"} for name in names]
        return JSONResponse({"object": "list", "data": data})

    async def completions(request: Request) -> Response:
        return await _complete(chat, request)

    async def http_error(request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 500
        headers = error.headers if isinstance(error, HTTPException) else None
        cure = "POST /v1/chat/completions and GET /v1/models are what there is."
        text = f"{request.method} is not allowed here. {cure}" if status == 405 else f"There is no such path. {cure}"
        return error_response(status, text, headers=headers)

    async def user_error(_: Request, error: Exception) -> Response:
        status, code = _status(error) if isinstance(error, UserError) else (500, "failed")
        wait = error.retry_after if isinstance(error, Busy) else RETRY_SECONDS.get(chat.generator.status)
        headers = {"Retry-After": str(wait)} if wait and status in (429, 503) else None
        param = "messages" if isinstance(error, InvalidQuestion) else None
        return error_response(status, str(error), param=param, code=code, headers=headers)

    async def invalid(_: Request, error: Exception) -> Response:
        chat.metrics.error(error)
        param, text = _first_error(error) if isinstance(error, ValidationError) else (None, "")
        return error_response(422, text, param=param, code="invalid")

    router = Router([Route("/models", models), Route("/chat/completions", completions, methods=["POST"])], redirect_slashes=False)
    return ExceptionMiddleware(router, {HTTPException: http_error, UserError: user_error, ValidationError: invalid})


def _first_error(error: ValidationError) -> tuple[str | None, str]:
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    fields = [str(part) for part in first["loc"] if isinstance(part, int) or part in _FIELDS]
    if first["type"] == "json_invalid":
        return None, "The body is not valid JSON. Send an object with a list of messages."
    name = ".".join(fields)
    return name or None, f"{name or 'The body'}: {first['msg']}."


_FIELDS = {*CompletionRequest.model_fields, *_Message.model_fields, *_Part.model_fields, *_StreamOptions.model_fields}


async def _complete(chat: Chat, request: Request) -> Response:
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        # A page of another site may send any other type without asking first.
        return error_response(415, "The body must be JSON. Send it with the header Content-Type: application/json.", code="invalid")
    body = CompletionRequest.model_validate_json(await request.body())
    loaded = chat.generator.loaded
    defaults = loaded.contract.generation if loaded else GenerationDefaults()
    messages = [{"role": message.role, "content": str(message.content)} for message in body.messages]
    address = request.client.host if request.client else ""
    asked = chat.request(messages, request_id=request_id.get(), **body.options(defaults))
    findings = chat.findings(asked.messages)
    notices = [{"kind": notice.kind, "text": notice.text} for notice in chat.notices(asked.messages, findings)]
    if any(finding.final or (finding.withholds and chat.settings.api_withhold) for finding in findings):
        return _withheld(body, notices)
    answer = chat.submit(asked, address)
    pieces = _pieces(answer)
    watcher = asyncio.create_task(_stop_when_gone(request, answer))
    try:
        if not body.stream:
            text = "".join([piece async for piece in pieces])
            return JSONResponse({**_whole(answer, text), "notices": notices}, headers={"Cache-Control": "no-store"})
        first = await anext(pieces, "")  # an error before the first piece still gets its status
    except BaseException:
        answer.stop()
        raise
    finally:
        watcher.cancel()
    usage = bool(body.stream_options and body.stream_options.include_usage)
    return _EventStream(answer, _events(answer, first, pieces, usage, notices))


async def _stop_when_gone(request: Request, answer: Answer) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
    answer.stop()


async def _pieces(answer: Answer) -> AsyncIterator[str]:
    """Pieces of text as they are made; raises `UserError` as `Answer.poll` does."""
    loop, news = asyncio.get_running_loop(), asyncio.Event()

    def tell() -> None:
        with suppress(RuntimeError):  # the server has ended before the answer
            loop.call_soon_threadsafe(news.set)

    answer.listen(tell)
    while True:
        news.clear()
        piece = answer.poll()
        if piece is None:
            return
        if piece:
            yield piece
        elif not answer.done.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(news.wait(), LOOK_SECONDS)


class _EventStream(StreamingResponse):
    """Server-sent events whose answer ends with the connection."""

    def __init__(self, answer: Answer, events: AsyncIterator[str]) -> None:
        super().__init__(events, media_type="text/event-stream", headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._answer.stop()


def _withheld(body: CompletionRequest, notices: Notices) -> Response:
    """The response to a question that gets notices and no answer, in the form that was asked for."""
    head = {"id": f"chatcmpl-{secrets.token_hex(12)}", "created": int(time.time()), "model": body.model or "adapter", "notices": notices}
    usage = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
    if not body.stream:
        message = {"role": "assistant", "content": "", "refusal": safety.WITHHELD}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "content_filter"}
        whole = {**head, "object": "chat.completion", "choices": [choice], "usage": usage}
        return JSONResponse(whole, headers={"Cache-Control": "no-store"})
    delta = {"role": "assistant", "content": "", "refusal": safety.WITHHELD}
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": "content_filter"}
    last = {"choices": [], "usage": usage} if body.stream_options and body.stream_options.include_usage else None
    events = [{**head, "object": "chat.completion.chunk", **part} for part in ({"choices": [choice]}, last) if part]
    return Response(
        "".join(map(_event, events)) + "data: [DONE]\n\n", media_type="text/event-stream", headers={"Cache-Control": "no-store"}
    )


async def _events(answer: Answer, first: str, pieces: AsyncIterator[str], with_usage: bool, notices: Notices) -> AsyncIterator[str]:
    head = {**_head(answer, "chat.completion.chunk"), **({"usage": None} if with_usage else {})}

    def chunk(delta: dict[str, str], finish_reason: str | None = None) -> str:
        return _event({**head, "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}]})

    begin = {"index": 0, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}
    yield _event({**head, "choices": [begin], "notices": notices})
    try:
        if first:
            yield chunk({"content": first})
        async for piece in pieces:
            yield chunk({"content": piece})
    except UserError as error:
        status, code = _status(error)
        yield _event(error_body(status, str(error), code=code))
        return
    yield chunk({}, _finish_reason(answer))
    if with_usage:
        yield _event({**head, "choices": [], "usage": _usage(answer)})
    yield "data: [DONE]\n\n"


def _event(data: dict[str, Any]) -> str:
    return f"data: {json.dumps(data, separators=(',', ':'))}\n\n"


def _head(answer: Answer, kind: str) -> dict[str, Any]:
    loaded, tuned = answer.loaded, answer.request.use_adapter
    revision = None if loaded is None else loaded.adapter_revision if tuned else loaded.base_revision
    return {
        "id": f"chatcmpl-{secrets.token_hex(12)}",
        "object": kind,
        "created": int(time.time()),
        "model": public_name(loaded.name) if loaded and tuned else BASE_NAME,
        "system_fingerprint": revision,
    }


def _whole(answer: Answer, text: str) -> dict[str, Any]:
    message = {"role": "assistant", "content": text, "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": _finish_reason(answer)}
    return {**_head(answer, "chat.completion"), "choices": [choice], "usage": _usage(answer)}


def _finish_reason(answer: Answer) -> str:
    return FINISH_REASONS.get(answer.finish_reason or "stop", "stop")


def _usage(answer: Answer) -> dict[str, int]:
    prompt, completion = answer.prompt_tokens, answer.completion_tokens
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
