"""Requests that nobody should send, over every route: schemathesis makes those for `/v1` from a description of it, and we those for the
page's own routes. Each is answered without a 5xx and without a traceback, and the next proper question is answered."""

import json
import logging
import random
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode

from app.web.api import CompletionRequest
from tests.page_client import PageClient
from tests.reliability.server import Row, Server, running

JUNK: list[Any] = [
    None,
    True,
    -1,
    0,
    10**30,
    1e308,
    "",
    "x",
    "\u202e\x00\ud7ff",
    "../../etc/passwd",
    "a" * 5000,
    [],
    [[]],
    [None],
    {},
    {"path": "/etc/passwd"},
]
JUNK += [
    {"__type__": "update"},
    [{"role": "user"}],
    [{"role": "system", "content": 5}],
    [{"role": "user", "content": [{"type": "file", "file": {"path": "/etc/passwd"}}]}],
]
JUNK += [
    {"path": "x", "meta": {"_type": "gradio.FileData"}, "url": "http://127.0.0.1:9/"},
    [{"role": "user", "content": {"component": "html", "value": "x"}}],
]
GETS = """/ /config /config?deep_link=JUNK /?deep_link=JUNK&page=JUNK /gradio_api/queue/data /gradio_api/queue/data?session_hash=JUNK&x=1
/gradio_api/file=JUNK /gradio_api/file/JUNK /gradio_api/heartbeat/ /gradio_api/app_id /gradio_api/user /gradio_api/login_check
/gradio_api/theme.css /gradio_api/reset /gradio_api/run/JUNK /gradio_api/call/ask/JUNK /gradio_api/upload_progress?upload_id=JUNK
/gradio_api/stream/JUNK/JUNK/0/playlist.m3u8 /gradio_api/custom_component/JUNK/client/JUNK/JUNK /gradio_api/proxy=JUNK /gradio_api/info
/static/JUNK /assets/JUNK /svelte/JUNK /pwa_icon/JUNK /manifest.json /robots.txt /theme.css /favicon.ico /monitoring/JUNK /JUNK /JUNK/JUNK
/healthz /readyz /metrics /v1 /v1/ /v1/JUNK /v1/models/JUNK /gradio_api/JUNK //gradio_api//run/JUNK
/gradio_api/deep_link?session_hash=JUNK"""
POSTS = """/gradio_api/queue/join /gradio_api/queue/join/ /gradio_api/run/predict /gradio_api/run/ask /gradio_api/run/JUNK
/gradio_api/api/predict /gradio_api/call/ask /gradio_api/call/v2/ask /gradio_api/cancel /gradio_api/reset /gradio_api/upload
/gradio_api/component_server /gradio_api/stream/JUNK /gradio_api/startup-events /gradio_api/process_recording
/login /v1/chat/completions /v1/models /healthz /"""


@dataclass
class Found:
    """What was sent and what came back."""

    sent: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    bad: list[str] = field(default_factory=list)

    def note(self, what: str, response: httpx.Response | Any) -> None:
        """Counts an answer, and keeps one that should not have been given."""
        self.sent += 1
        self.statuses[response.status_code] += 1
        if response.status_code >= 500 or "Traceback" in response.text[:100_000]:
            self.bad.append(f"{response.status_code} {what[:300]}")


def description() -> dict[str, Any]:
    """`/v1` in OpenAPI 3.1, made from the model that reads its requests; the app itself serves none."""
    body = CompletionRequest.model_json_schema(ref_template="#/components/schemas/{model}")
    parts = body.pop("$defs", {})
    answers = {"200": {"description": "An answer"}}
    content = {"required": True, "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Request"}}}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "v1", "version": "1"},
        "paths": {
            "/v1/chat/completions": {"post": {"operationId": "complete", "requestBody": content, "responses": answers}},
            "/v1/models": {"get": {"operationId": "models", "responses": answers}},
        },
        "components": {"schemas": {**parts, "Request": body}},
    }


def by_schema(server: Server, count: int, seed: int) -> Found:
    """Bodies that break the description of `/v1`, and some that keep to it."""
    found, schema = Found(), schemathesis.openapi.from_dict(description())
    with httpx.Client(base_url=server.url, timeout=120) as client:
        for mode, share in ((GenerationMode.NEGATIVE, 0.95), (GenerationMode.POSITIVE, 0.05)):
            operation = schema["/v1/chat/completions"]["POST"]

            @settings(
                max_examples=max(1, int(count * share)),
                deadline=None,
                database=None,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            )
            @given(case=operation.as_strategy(generation_mode=mode))
            def send(case: Any) -> None:
                made = case.as_transport_kwargs(base_url=server.url)
                given = {key: made[key] for key in ("json", "data", "params") if made.get(key) is not None}
                if "data" in given:
                    given["content"] = given.pop("data")
                headers = {name: value for name, value in dict(made.get("headers") or {}).items() if name.lower() != "user-agent"}
                try:
                    request = client.build_request(made["method"], made["url"].removeprefix(server.url), headers=headers, **given)
                except (TypeError, ValueError, UnicodeError):
                    return  # not a request that HTTP can carry
                found.note(f"{made.get('json')!r}", client.send(request))

            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                send()
    return found


def junk(choose: random.Random, depth: int = 0) -> Any:
    """A value of any kind."""
    if depth < 2 and choose.random() < 0.2:
        return [junk(choose, depth + 1) for _ in range(choose.randrange(4))]
    if depth < 2 and choose.random() < 0.2:
        return {str(junk(choose, 2))[:20]: junk(choose, depth + 1) for _ in range(choose.randrange(4))}
    return choose.choice(JUNK)


def bodies(page: PageClient, choose: random.Random) -> Iterator[bytes]:
    """What the page posts, with one thing or several changed; and things that are no JSON."""
    while True:
        event = choose.choice(page.config["dependencies"])
        data = [page.components[key]["props"].get("value") for key in event["inputs"]]
        target = choose.choice(event["targets"])[0]
        body: dict[str, Any] = {"data": data, "fn_index": event["id"], "session_hash": f"bad{choose.randrange(50)}", "trigger_id": target}
        body |= {"event_data": None}
        for _ in range(choose.randrange(1, 4)):
            kind = choose.randrange(6)
            if kind < 3 and data:
                data[choose.randrange(len(data))] = junk(choose)
            elif kind == 3:
                body[choose.choice(list(body))] = junk(choose)
            elif kind == 4:
                body.pop(choose.choice(list(body)))
                break
            else:
                body[choose.choice(["event_id", "batched", "simple_format", "request", "event_data", "oauth_token"])] = junk(choose)
        text = json.dumps(body).encode()
        yield choose.choice([text] * 9 + [text[: choose.randrange(len(text))], b"\xff" + text, b"", b"[" * 3000, b"NaN", b"null", b"[1]"])


def by_hand(server: Server, count: int, seed: int) -> Found:
    """Our own, for the page's routes and every other path."""
    found, choose = Found(), random.Random(seed)
    page = PageClient(server.url)
    posted, methods = bodies(page, choose), ["GET"] * 5 + ["HEAD", "PUT", "DELETE", "OPTIONS", "PATCH"]
    odd = [str(value) for value in JUNK if isinstance(value, str) and value.isprintable()] + [
        "%00",
        "..%2f..%2fetc%2fpasswd",
        "%ff",
        "C:%5Cx",
        "a?b=c",
    ]
    gets, posts = GETS.split(), POSTS.split()
    with httpx.Client(base_url=server.url, timeout=60) as client:
        while found.sent < count:
            body = choose.random() < 0.6
            method, path = (
                ("POST", choose.choice(posts[:4] if choose.random() < 0.7 else posts))
                if body
                else (choose.choice(methods), choose.choice(gets))
            )
            while "JUNK" in path:
                path = path.replace("JUNK", choose.choice(odd)[:200] or "x", 1)
            kind = choose.choice(
                ["application/json"] * 8 + ["text/plain", "multipart/form-data; boundary=x", "application/x-www-form-urlencoded"]
            )
            content = next(posted) if body else None
            try:
                with client.stream(method, path, content=content, headers={"Content-Type": kind} if body else {}) as response:
                    endless = response.headers.get("content-type", "").startswith("text/event-stream")
                    if not endless:
                        response.read()
                    else:
                        response._content = b""  # a stream of events has no end of its own
                    found.note(f"{method} {path} {(content or b'')[:400]!r}", response)
            except httpx.TimeoutException:
                found.sent += 1
                found.bad.append(f"no answer to {method} {path} {(content or b'')[:200]!r}")
            except (httpx.InvalidURL, httpx.LocalProtocolError, UnicodeError):
                continue
    return found


def run(folder: Path, count: int, seed: int) -> list[Row]:
    """Half of the requests by schemathesis, half by hand."""
    logging.getLogger("hypothesis").setLevel(logging.WARNING)
    with running(folder, MAX_NEW_TOKENS="4") as server, httpx.Client(timeout=60) as client:
        made = []
        for what, way in (("bad requests to /v1, by schemathesis", by_schema), ("bad requests to the page's routes and others", by_hand)):
            found = way(server, count // 2, seed)
            fine = server.answers(client)
            statuses = ", ".join(f"{number} of {status}" for status, number in sorted(found.statuses.items()))
            result = f"{statuses}; then a proper answer: {'yes' if fine else 'NO'}" + "".join(f"; {one}" for one in found.bad[:5])
            made.append(Row(what, found.sent, result, not found.bad and fine))
        trouble = server.trouble()
        return [*made, Row("... lines of trouble in the log", len(trouble), "; ".join(trouble[:3])[:300] or "none", not trouble)]
