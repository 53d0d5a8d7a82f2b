"""What the owner sees: metrics, request ids and log lines. Never a word of a chat."""

import io
import json
import logging
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.datastructures import Headers

from app.conversation.metrics import Metrics
from app.engine.generation import LocalGenerator
from app.engine.model import LoadedModel
from app.errors import GenerationFailed
from app.logs import EACH, JsonLines
from app.settings import load_settings
from app.web.trace import client_address
from tests.answers import PATIENCE, SECRET, Steer, wait_until
from tests.page_client import PageClient
from tests.servers import HTTP, Served, ask, running


@pytest.fixture(scope="module")
def shared(loaded: LoadedModel, hooked: Steer) -> Iterator[Served]:
    settings = load_settings(adapter=loaded.name, max_queue=1)
    generator = LocalGenerator(lambda name: loaded, loaded.name, max_queue=1)
    generator.wait_until_ready(PATIENCE)
    with running(settings, generator) as url:
        yield Served(url, generator, hooked)


@pytest.fixture
def served(shared: Served) -> Iterator[Served]:
    shared.steer.reset()
    yield shared
    shared.rested()


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    """The JSON log of everything that is said at any level."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLines())
    # Left out: this test's own client, and the lines of uvicorn that `python -m app` switches off.
    handler.addFilter(lambda record: not record.name.startswith(("http", "uvicorn.access")))
    root, each = logging.getLogger(), logging.getLogger(EACH)
    levels = root.level, each.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    each.setLevel(logging.INFO)
    yield stream
    root.removeHandler(handler)
    root.setLevel(levels[0])
    each.setLevel(levels[1])


def records(stream: io.StringIO, message: str) -> list[dict]:
    return [record for record in map(json.loads, stream.getvalue().splitlines()) if record["message"] == message]


def read(url: str) -> dict[str, float]:
    """Each sample of /metrics by its name and labels."""
    response = HTTP.get(f"{url}/metrics")
    assert response.headers["content-type"].startswith("text/plain")
    return {
        f"{sample.name}{sorted(sample.labels.items()) or ''}": sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
    }


def test_metrics_count_requests_answers_tokens_and_times(served: Served) -> None:
    before = read(served.url)
    usage = served.client.chat.completions.create(**ask()).usage
    served.client.chat.completions.create(**ask(model="base"))
    after = read(served.url)

    def grown(name: str) -> float:
        return after[name] - before.get(name, 0.0)

    assert grown("app_answers_total[('end', 'stop'), ('model', 'adapter')]") == 1
    assert grown("app_answers_total[('end', 'stop'), ('model', 'base')]") == 1
    assert grown("app_tokens_total[('kind', 'prompt')]") == 2 * usage.prompt_tokens
    assert grown("app_tokens_total[('kind', 'completion')]") == 2 * usage.completion_tokens == 24
    assert grown("app_http_requests_total[('method', 'POST'), ('route', '/v1/chat/completions'), ('status', '200')]") == 2
    for histogram in ("queue_wait_seconds", "first_token_seconds", "tokens_per_second"):
        assert grown(f"app_{histogram}_count") == 2
        assert grown(f"app_{histogram}_sum") > 0
    assert after["app_queue_length"] == 0
    assert after["app_ready"] == 1
    (info,) = [name for name in after if name.startswith("app_adapter_info")]
    assert f"('adapter_commit', '{served.generator.loaded.adapter_revision}')" in info


def test_metrics_count_errors_by_kind(served: Served) -> None:
    before = read(served.url)
    served.post(ask(""))
    served.post(ask("word " * 20_000))
    served.post({"messages": 5})
    served.steer.fail_at = 2
    served.post(ask())
    served.steer.reset()
    served.steer.hold.at(1)
    with ThreadPoolExecutor(2) as pool:
        others = []
        for position in (1, 2):
            others.append(pool.submit(served.post, ask()))
            wait_until(lambda position=position: served.generator.queue_length == position)
        assert read(served.url)["app_queue_length"] == 2
        assert served.post(ask()).status_code == 429
        served.steer.hold.release()
        assert [other.result().status_code for other in others] == [200, 200]
    after = read(served.url)
    for kind in ("InvalidQuestion", "QuestionTooLong", "ValidationError", "GenerationFailed", "Busy"):
        name = f"app_errors_total[('kind', '{kind}')]"
        assert after[name] - before.get(name, 0.0) == 1, kind


def test_each_response_has_a_request_id_and_the_log_the_same_one(served: Served, lines: io.StringIO) -> None:
    given = "0123456789abcdef0123456789abcdef"
    responses = [HTTP.get(served.url + path, headers={"X-Request-ID": given}) for path in ("/", "/healthz", "/nothing", "/v1/models")]
    assert {response.headers["x-request-id"] for response in responses} == {given}
    asked = served.post(ask())
    fresh = asked.headers["x-request-id"]
    assert re.fullmatch(r"[0-9a-f]{32}", fresh)
    words = HTTP.get(served.url + "/healthz", headers={"X-Request-ID": SECRET}).headers["x-request-id"]
    assert words != SECRET
    wait_until(lambda: any(record["request_id"] == fresh for record in records(lines, "request")))
    (answer,) = records(lines, "answer")
    assert answer["request_id"] == fresh
    assert (answer["model"], answer["end"], answer["completion_tokens"]) == ("adapter", "stop", 12)
    (request,) = [record for record in records(lines, "request") if record["request_id"] == fresh]
    assert (request["method"], request["route"], request["status"]) == ("POST", "/v1/chat/completions", 200)


def test_the_page_counts_too_and_its_answers_carry_the_id_of_their_request(served: Served, lines: io.StringIO) -> None:
    client = PageClient(served.url)
    assert "process_completed" in client.ask("What is asthma?")
    (answer,) = records(lines, "answer")
    assert answer["request_id"] == client.joined.headers["x-request-id"]


def test_no_word_of_a_chat_is_in_the_log_or_the_metrics(served: Served, lines: io.StringIO) -> None:
    question = f"Is {SECRET} safe?"
    for body in (
        ask(question),
        ask(question, stream=True),
        ask(f"{SECRET} " * 50_000),
        {"messages": [{"role": SECRET, "content": SECRET}]},
    ):
        served.post(body)
    HTTP.get(f"{served.url}/{SECRET}?q={SECRET}", headers={"X-Request-ID": SECRET, "User-Agent": SECRET})
    HTTP.request(SECRET.upper(), served.url)
    PageClient(served.url).ask(question)
    served.steer.fail_at = 2  # its exception's message has the word
    served.post(ask(question))
    PageClient(served.url).ask(question)
    assert len(records(lines, "answer")) >= 4
    assert SECRET.lower() not in lines.getvalue().lower()
    assert SECRET.lower() not in HTTP.get(f"{served.url}/metrics").text.lower()


def test_an_exceptions_message_is_left_out_of_the_log(lines: io.StringIO) -> None:
    try:
        raise ValueError(SECRET)
    except ValueError:
        logging.getLogger("app").exception("it failed")
    (record,) = records(lines, "it failed")
    assert record["exception"] == "ValueError"
    assert "test_an_exceptions_message" in record["stack"]
    assert SECRET not in lines.getvalue()


def test_metrics_want_their_key_where_there_is_one(loaded: LoadedModel) -> None:
    with running(load_settings(metrics_key="key"), LocalGenerator(lambda name: loaded, loaded.name)) as url:
        assert HTTP.get(f"{url}/metrics").status_code == 401
        assert HTTP.get(f"{url}/metrics", headers={"Authorization": "Bearer other"}).status_code == 401
        assert HTTP.get(f"{url}/metrics", headers={"Authorization": "Bearer key"}).status_code == 200


def test_the_owner_gets_a_line_when_something_happened_and_none_else(generator: LocalGenerator) -> None:
    metrics = Metrics(generator)
    assert metrics.minute() is None
    metrics.error(GenerationFailed(SECRET))
    line = metrics.minute()
    assert "1 refused or failed" in line
    assert SECRET not in line
    assert metrics.minute() is None


@pytest.mark.parametrize(
    ("hops", "forwarded", "expected"),
    [
        (0, ["1.1.1.1"], "peer"),
        (1, [], "peer"),
        (1, ["1.1.1.1"], "1.1.1.1"),
        (1, ["6.6.6.6, 1.1.1.1"], "1.1.1.1"),
        (2, ["6.6.6.6, 1.1.1.1", "2.2.2.2"], "1.1.1.1"),
        (2, ["2.2.2.2"], "peer"),
    ],
)
def test_a_clients_address_is_believed_as_far_as_our_own_proxies_saw_it(hops: int, forwarded: list[str], expected: str) -> None:
    headers = Headers(raw=[(b"x-forwarded-for", value.encode()) for value in forwarded])
    assert client_address(headers, "peer", hops) == expected
