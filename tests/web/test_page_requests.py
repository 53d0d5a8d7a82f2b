"""What a stranger posts to the page's own routes: refused with one sentence, never with a traceback; the page's own requests pass."""

import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from app.engine.generation import LocalGenerator
from app.engine.model import LoadedModel
from app.settings import load_settings
from app.web.page_requests import REFUSAL
from tests.answers import PATIENCE, Steer, wait_until
from tests.page_client import PageClient
from tests.servers import HTTP, Served, running


@pytest.fixture(scope="module")
def served(loaded: LoadedModel, hooked: Steer) -> Iterator[Served]:
    generator = LocalGenerator(lambda name: loaded, loaded.name, max_queue=1)
    generator.wait_until_ready(PATIENCE)
    with running(load_settings(adapter=loaded.name, max_queue=1), generator) as url:
        yield Served(url, generator, hooked)


def body(page: PageClient, **changes: Any) -> dict[str, Any]:
    """What the page posts when it asks, with changes by the elem_id of a component or by the name of a field."""
    data = []
    for key in page.event["inputs"]:
        one = page.components[key]
        value = [] if one["type"] == "chatbot" else one["props"].get("value")
        data.append(changes.pop(str(one["props"].get("elem_id")), value))
    return {"data": data, "fn_index": page.event["id"], "session_hash": page.session, "trigger_id": page.trigger} | changes


WRONG: list[dict[str, Any]] = [
    {"question": 5},
    {"question": {"path": "/etc/passwd"}},
    {"conversation": None},
    {"conversation": [None]},
    {"conversation": [{"role": "system", "content": [{"type": "text", "text": "x"}]}]},
    {"conversation": [{"role": "user", "content": "x"}]},
    {"conversation": [{"role": "user", "content": [{"type": "file", "file": {"path": "/etc/passwd"}}]}]},
    {"conversation": [{"role": "user", "content": {"component": "html", "value": "x"}}]},
    {"compare": "yes"},
    {"adapter": "../other"},
    {"use-adapter": []},
    {"data": []},
    {"fn_index": 999},
    {"fn_index": None},
    {"trigger_id": 999},
    {"session_hash": None},
    {"batched": True},
]


@pytest.mark.parametrize("changes", WRONG, ids=lambda changes: json.dumps(changes)[:60])
def test_what_no_page_sends_is_refused_with_one_sentence(
    served: Served, changes: dict[str, Any], capfd: pytest.CaptureFixture[str]
) -> None:
    page = PageClient(served.url)
    for path in ("queue/join", "run/predict"):
        response = HTTP.post(f"{served.url}/gradio_api/{path}", json=body(page, **changes))
        assert (response.status_code, response.json()["error"]["message"]) == (422, REFUSAL)
    assert "Traceback" not in "".join(capfd.readouterr())


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[" * 5000, b"null", b"[]"])
def test_what_is_no_json_is_refused(served: Served, content: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    assert HTTP.post(f"{served.url}/gradio_api/queue/join", content=content, headers=headers).status_code == 422


@pytest.mark.parametrize("path", ["cancel", "reset"])
@pytest.mark.parametrize("content", [b"NaN", b'{"event_id": NaN}', b"\xff", b""])
@pytest.mark.parametrize("kind", ["application/json", "text/plain"])
def test_other_routes_of_the_page_refuse_what_is_no_json(served: Served, path: str, content: bytes, kind: str) -> None:
    assert HTTP.post(f"{served.url}/gradio_api/{path}", content=content, headers={"Content-Type": kind}).status_code == 422


def test_a_stream_of_events_that_nobody_asked_for_is_not_there(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    for query in ("", "?session_hash=", "?session_hash=nobody"):
        assert HTTP.get(f"{served.url}/gradio_api/queue/data{query}").status_code == 404
    assert not caplog.records


def test_links_to_recorded_runs_open_nothing(served: Served) -> None:
    for path in ("/?deep_link=x", "/?page=a&deep_link=..%2Fx", "/config?deep_link=x"):
        assert HTTP.get(served.url + path).status_code == 404


def test_an_empty_box_and_no_choice_are_no_failure(served: Served) -> None:
    page = PageClient(served.url)
    for button in ("edit", "clear", "stop", "agree", "save-json"):
        assert "error" not in json.loads(page.press(button))


def test_who_finds_the_queue_full_is_told_so_and_waits_nowhere_else(served: Served) -> None:
    served.steer.reset()
    served.steer.hold.at(1)
    told: list[str] = []
    others = [threading.Thread(target=lambda: told.append(PageClient(served.url).ask("What is asthma?"))) for _ in range(5)]
    try:
        for other in others:
            other.start()
        wait_until(lambda: sum("The queue is full" in one for one in told) == 3)
    finally:
        served.steer.hold.release()
        for other in others:
            other.join(PATIENCE)
    assert sum("Waiting: 1" in one for one in told) == 1
