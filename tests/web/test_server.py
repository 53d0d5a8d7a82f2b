"""The server over HTTP: the API with OpenAI's own client, errors, limits, headers, and what happens when somebody goes away.

The model is the real one; a hook on it decides when an answer ends, how slow it is, and where it fails.
"""

import json
import logging
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from http.client import HTTPConnection
from typing import Any

import openai
import pytest

import app as app_package
from app.__main__ import address, main, parser
from app.engine.generation import LocalGenerator
from app.engine.model import LoadedModel
from app.errors import AdapterNotFound
from app.settings import ROOT, Settings, load_settings
from app.web import server
from tests.answers import PATIENCE, SECRET, Steer, wait_until
from tests.conftest import QUICK_AND_LONG
from tests.servers import HTTP, SECURITY, Served, ask, check_error, running


@pytest.fixture(scope="module")
def shared(loaded: LoadedModel, hooked: Steer) -> Iterator[Served]:
    settings = load_settings(adapter=loaded.name, max_queue=1, max_body_bytes=300_000, max_new_tokens=400)
    generator = LocalGenerator(lambda name: loaded, loaded.name, max_queue=settings.max_queue)
    generator.wait_until_ready(PATIENCE)
    with running(settings, generator) as url:
        yield Served(url, generator, hooked)


@pytest.fixture
def served(shared: Served) -> Iterator[Served]:
    shared.steer.reset()
    yield shared
    shared.rested()


# The official client


def test_official_client_gets_a_whole_answer(served: Served) -> None:
    answer = served.client.chat.completions.create(**ask())
    assert answer.object == "chat.completion"
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].message.content
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.completion_tokens == 12
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 12


def test_official_client_gets_the_same_answer_in_pieces(served: Served) -> None:
    served.steer.end_at = 20
    whole = served.client.chat.completions.create(**ask())
    served.steer.hold.at(10)
    chunks = []
    for chunk in served.client.chat.completions.create(**ask(), stream=True, stream_options={"include_usage": True}):
        chunks.append(chunk)
        if chunk.choices and chunk.choices[0].delta.content:
            served.steer.hold.release()  # the rest is written only after the first piece was read
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == whole.choices[0].message.content
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-1]] == [None] * (len(chunks) - 2) + ["stop"]
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == 20
    assert len({chunk.id for chunk in chunks}) == 1


def test_the_program_in_the_docs_prints_the_answer(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    page = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
    program = page.split("```python\n")[1].split("```")[0].replace("http://127.0.0.1:7860", served.url)
    exec(compile(program, "docs/serving.md", "exec"), {})
    assert capsys.readouterr().out == served.client.chat.completions.create(**ask()).choices[0].message.content


def test_events_end_with_done_and_without_usage_unless_asked(served: Served) -> None:
    response = served.post(ask(stream=True))
    assert response.headers["content-type"].startswith("text/event-stream")
    events = response.text.split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    assert all("usage" not in json.loads(event.removeprefix("data: ")) for event in events[:-2])


EMERGENCY = "my wife cannot breathe and her lips are blue"


def test_an_emergency_gets_notices_and_no_answer(served: Served) -> None:
    answer = served.post(ask(EMERGENCY)).json()
    (notice,) = answer["notices"]
    assert notice["kind"] == "emergency" and "emergency number" in notice["text"]
    (choice,) = answer["choices"]
    assert (choice["finish_reason"], choice["message"]["content"]) == ("content_filter", "") and choice["message"]["refusal"]
    assert answer["usage"] == {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}


def test_an_emergency_in_pieces_ends_as_the_official_client_knows_it(served: Served) -> None:
    messages: Any = [{"role": "user", "content": EMERGENCY}]
    chunks = list(served.client.chat.completions.create(model="adapter", messages=messages, stream=True))
    assert [chunk.choices[0].finish_reason for chunk in chunks] == ["content_filter"]
    assert chunks[0].model_extra and chunks[0].model_extra["notices"][0]["kind"] == "emergency"


def test_notices_stand_beside_an_answer_too(served: Served) -> None:
    question = "can I take ibuprofen with my lisinopril"
    assert served.post(ask(question)).json()["notices"][0]["kind"] == "dosing"
    messages: Any = [{"role": "user", "content": question}]
    first, *rest = served.client.chat.completions.create(model="adapter", messages=messages, stream=True)
    assert first.model_extra and first.model_extra["notices"][0]["kind"] == "dosing"
    assert not any("notices" in (chunk.model_extra or {}) for chunk in rest)


def test_the_owner_may_have_the_api_answer_beside_its_notices(loaded: LoadedModel, hooked: Steer) -> None:
    generator = LocalGenerator(lambda name: loaded, loaded.name)
    generator.wait_until_ready(60)
    with running(load_settings(adapter=loaded.name, api_withhold=False, max_new_tokens=8), generator) as url:
        answer = HTTP.post(f"{url}/v1/chat/completions", json=ask(EMERGENCY)).json()
        assert answer["choices"][0]["message"]["content"] and answer["notices"][0]["kind"] == "emergency"
        refused = HTTP.post(f"{url}/v1/chat/completions", json=ask("how many paracetamol would it take to kill me")).json()
        assert refused["choices"][0]["finish_reason"] == "content_filter"


def test_base_answers_differently_from_the_adapter_and_says_so(served: Served) -> None:
    served.steer.end_at = 16
    tuned, base, again = (served.client.chat.completions.create(**ask(model=model)) for model in ("any name", "base", "any name"))
    assert tuned.choices[0].message.content != base.choices[0].message.content
    assert tuned.choices[0].message.content == again.choices[0].message.content
    assert base.model == "base"
    assert tuned.model == again.model != "base"
    assert [model.id for model in served.client.models.list()] == [tuned.model, "base"]


def test_seed_repeats_a_sampled_answer(served: Served) -> None:
    served.steer.end_at = 16
    asked = ask(temperature=1.5) | {"model": "base"}  # the adapter knows its cards so well that any seed may give the same words
    first, same, other = (served.client.chat.completions.create(**asked, seed=seed) for seed in (1, 1, 2))
    assert first.choices[0].message.content == same.choices[0].message.content != other.choices[0].message.content


def test_text_parts_follow_up_questions_and_unknown_fields_are_accepted(served: Served) -> None:
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "What is"}, {"type": "text", "text": "asthma?"}]},
        {"role": "assistant", "content": "A disease of the airways."},
        {"role": "user", "content": "How is it treated?"},
    ]
    body = {"messages": messages, "user": "me", "frequency_penalty": 0, "presence_penalty": 0.0, "n": 1, "stop": None, "temperature": 1e-40}
    assert served.post(body).status_code == 200


def test_later_field_for_tokens_wins_and_the_limit_gives_length(served: Served) -> None:
    served.steer.end_at = None
    answer = served.client.chat.completions.create(**ask(max_tokens=90, max_completion_tokens=5))
    assert (answer.usage.completion_tokens, answer.choices[0].finish_reason) == (5, "length")
    answer = served.client.chat.completions.create(**ask(max_tokens=7))
    assert (answer.usage.completion_tokens, answer.choices[0].finish_reason) == (7, "length")


# Errors

BAD = {
    "no messages": ({}, "messages"),
    "empty messages": ({"messages": []}, "messages"),
    "messages no list": ({"messages": "hello"}, "messages"),
    "not an object": ([1], None),
    "empty question": (ask("  \u200b "), "messages"),
    "system": ({"messages": [{"role": "system", "content": "x"}, {"role": "user", "content": "x"}]}, "messages"),
    "assistant last": ({"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "x"}]}, "messages"),
    "picture": ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}, "messages.0.content"),
    "no content": ({"messages": [{"role": "user", "content": None}]}, "messages.0.content"),
    "content a number": ({"messages": [{"role": "user", "content": 5}]}, "messages.0.content"),
    "temperature text": (ask(temperature="0.5"), "temperature"),
    "temperature high": (ask(temperature=2.1), "temperature"),
    "top_p zero": (ask(top_p=0), "top_p"),
    "no tokens": (ask(max_tokens=0), "max_tokens"),
    "half a token": (ask(max_completion_tokens=1.5), "max_completion_tokens"),
    "seed too big": (ask(seed=2**63), "seed"),
    "stream text": (ask(stream="yes"), "stream"),
    "two answers": (ask(n=2), "n"),
    "stop": (ask(stop=["\n"]), "stop"),
    "penalty": (ask(presence_penalty=1), "presence_penalty"),
}


@pytest.mark.parametrize(("body", "param"), BAD.values(), ids=BAD)
def test_invalid_request_gets_422_with_the_field(served: Served, body: Any, param: str | None) -> None:
    assert check_error(served.post(body), 422)["param"] == param


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b'{"messages": [{"role": "user", "content": "\\ud800"}]}', b"[" * 5000, b"NaN"])
def test_malformed_json_gets_422(served: Served, content: bytes) -> None:
    check_error(HTTP.post(f"{served.url}/v1/chat/completions", content=content, headers={"Content-Type": "application/json"}), 422)


def test_other_content_types_get_415(served: Served) -> None:
    check_error(HTTP.post(f"{served.url}/v1/chat/completions", content=json.dumps(ask()), headers={"Content-Type": "text/plain"}), 415)


def test_official_client_raises_its_own_errors(served: Served) -> None:
    with pytest.raises(openai.UnprocessableEntityError, match="System messages are not accepted"):
        served.client.chat.completions.create(model="any", messages=[{"role": "system", "content": "x"}])


def test_too_long_gets_413(served: Served) -> None:
    check_error(served.post(ask("word " * 20_000)), 413)  # characters
    check_error(served.post(ask("\u4e00\u5341" * 1900)), 413)  # within the characters, beyond the context
    check_error(served.post(ask("word " * 100_000)), 413)  # bytes, announced
    chunks = (b"x" * 10_000 for _ in range(400))  # bytes, not announced
    check_error(HTTP.post(f"{served.url}/v1/chat/completions", content=chunks, headers={"Content-Type": "application/json"}), 413)


def test_unknown_paths_and_methods_get_the_same_shape(served: Served) -> None:
    check_error(HTTP.get(f"{served.url}/v1/nothing"), 404)
    check_error(HTTP.post(f"{served.url}/v1/models/x/y", json={}), 404)
    refused = HTTP.get(f"{served.url}/v1/chat/completions")
    check_error(refused, 405)
    assert refused.headers["allow"] == "POST"


def test_full_queue_gets_429_with_retry_after(served: Served) -> None:
    served.steer.hold.at(1)
    with ThreadPoolExecutor(2) as pool:
        others = []
        for position in (1, 2):  # one running, one waiting
            others.append(pool.submit(served.post, ask()))
            wait_until(lambda position=position: served.generator.queue_length == position)
        refused = served.post(ask())
        check_error(refused, 429, "rate_limit_error")
        assert int(refused.headers["retry-after"]) > 0
        with pytest.raises(openai.RateLimitError):
            served.client.chat.completions.create(**ask())
        served.steer.hold.release()
        assert [other.result().status_code for other in others] == [200, 200]


def test_failure_inside_generate_reaches_the_reader_as_a_sentence(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    served.steer.fail_at = 1
    for stream in (False, True):  # before the first piece an event stream gets its status, too
        error = check_error(served.post(ask(f"Tell me about {SECRET}", stream=stream)), 500, "server_error")
        assert error["message"].startswith("The model failed")
    assert "RuntimeError" in caplog.text
    assert SECRET not in caplog.text
    served.steer.reset()
    assert served.post(ask()).status_code == 200


def test_failure_in_the_middle_of_a_stream_ends_it_with_an_error(served: Served) -> None:
    served.steer.fail_at, served.steer.end_at = 12, None
    with pytest.raises(openai.APIError, match="The model failed"):
        for chunk in served.client.chat.completions.create(**ask(), stream=True):
            assert chunk.choices[0].finish_reason is None
    events = served.post(ask(stream=True)).text.split("\n\n")
    assert json.loads(events[-2].removeprefix("data: "))["error"]["type"] == "server_error"


def test_unexpected_failure_is_one_sentence_and_logs_no_text(
    served: Served, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise ZeroDivisionError(SECRET)

    monkeypatch.setattr(served.generator, "submit", broken)
    check_error(served.post(ask(SECRET)), 500, "server_error")
    assert "ZeroDivisionError" in caplog.text
    assert "in _complete" in caplog.text
    assert SECRET not in caplog.text


# Loading, deadline


def test_while_loading_everything_but_the_answer_is_there(loaded: LoadedModel, hooked: Steer) -> None:
    hooked.reset()
    open_now = threading.Event()

    def load(name: str) -> LoadedModel:
        open_now.wait()
        return loaded

    with running(load_settings(adapter=loaded.name), LocalGenerator(load, loaded.name)) as url, ExitStack() as afterwards:
        afterwards.callback(open_now.set)
        served = Served(url)
        page = HTTP.get(url)
        assert page.status_code == 200
        assert "gradio" in page.text
        assert HTTP.get(f"{url}/healthz").status_code == 200
        ready = HTTP.get(f"{url}/readyz")
        assert (ready.status_code, ready.json()["status"]) == (503, "loading")
        refused = served.post(ask())
        assert check_error(refused, 503, "server_error")["code"] == "not_ready"
        assert int(refused.headers["retry-after"]) > 0
        open_now.set()
        wait_until(lambda: HTTP.get(f"{url}/readyz").status_code == 200)
        facts = HTTP.get(f"{url}/readyz").json()
        assert facts["base_revision"] == loaded.base_revision
        assert facts["adapter_revision"] == loaded.adapter_revision
        assert facts["probe"]["logit_change"] > facts["probe"]["threshold"]
        assert facts["contract"].startswith("sha256:")
        assert served.post(ask()).status_code == 200


def test_failed_load_and_deadline(loaded: LoadedModel, hooked: Steer) -> None:
    def load(name: str) -> LoadedModel:
        raise AdapterNotFound("There is no adapter folder. Make one.")

    with running(load_settings(), LocalGenerator(load, "nowhere")) as url:
        wait_until(lambda: HTTP.get(f"{url}/readyz").json()["status"] != "loading")
        ready = HTTP.get(f"{url}/readyz")
        assert (ready.status_code, ready.json()) == (503, {"status": "failed", "message": "There is no adapter folder. Make one."})
        refused = Served(url).post(ask())
        assert "Make one" in check_error(refused, 503, "server_error")["message"]
        assert "retry-after" not in refused.headers
    hooked.reset()
    with running(load_settings(deadline=0.2), LocalGenerator(lambda name: loaded, loaded.name)) as url:
        wait_until(lambda: HTTP.get(f"{url}/readyz").status_code == 200)
        hooked.end_at, hooked.delay = None, 0.3  # past the deadline with the first token
        choice = Served(url).client.chat.completions.create(**ask()).choices[0]
        assert choice.finish_reason == "length"
        assert choice.message.content


# Going away, and two at once


def asked(served: Served, **fields: Any) -> HTTPConnection:
    """A question that is on its way; closing the connection is going away."""
    connection = HTTPConnection(served.url.removeprefix("http://"), timeout=PATIENCE)
    connection.request("POST", "/v1/chat/completions", json.dumps(ask(**fields)), {"Content-Type": "application/json"})
    return connection


@pytest.mark.parametrize("long", QUICK_AND_LONG)
@pytest.mark.parametrize("stream", [True, False])
def test_client_that_goes_away_stops_its_answer(served: Served, stream: bool, long: bool) -> None:
    served.steer.end_at = None
    for _ in range(100 if long else 1):
        served.steer.hold.at(5)
        with closing(asked(served, stream=stream, max_tokens=400)) as client:
            served.steer.hold.wait()
            if stream:
                assert client.getresponse().readline().startswith(b"data: ")
        wait_until(lambda: served.generator.queue_length == 0)
        assert served.steer.step == 5


def test_client_that_goes_away_while_waiting_keeps_nobody_out(served: Served) -> None:
    served.steer.hold.at(1)
    with ThreadPoolExecutor(2) as pool:
        running_answer = pool.submit(served.post, ask())
        served.steer.hold.wait()
        with closing(asked(served)):
            wait_until(lambda: served.generator.queue_length == 2)
        wait_until(lambda: served.generator.queue_length == 1)
        after = pool.submit(served.post, ask())
        wait_until(lambda: after.done() or served.generator.queue_length == 2)
        served.steer.hold.release()
        assert after.result().status_code == running_answer.result().status_code == 200


def test_two_conversations_at_once_never_mix(served: Served) -> None:
    served.steer.end_at = 16
    questions = {"any": "What is asthma?", "base": "How is a broken wrist treated?"}
    client = served.client
    alone = {model: client.chat.completions.create(**ask(question, model=model)).choices[0] for model, question in questions.items()}

    def streamed(model: str) -> str:
        chunks = served.client.chat.completions.create(**ask(questions[model], model=model), stream=True)
        return "".join(chunk.choices[0].delta.content or "" for chunk in chunks)

    for _ in range(2):
        with ThreadPoolExecutor(2) as pool:
            together = dict(zip(questions, pool.map(streamed, questions), strict=True))
            assert HTTP.get(f"{served.url}/healthz").status_code == 200
        assert together == {model: choice.message.content for model, choice in alone.items()}


def test_nothing_of_a_chat_is_logged(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("app", "uvicorn", "gradio", "asyncio", "starlette"):
        caplog.set_level(logging.DEBUG, logger=name)
    served.post(ask(f"Is {SECRET} safe?"))
    served.post(ask(f"Is {SECRET} safe?", stream=True))
    served.post({"messages": [{"role": SECRET, "content": SECRET}]})
    served.post(ask(f"{SECRET} " * 50_000))
    assert SECRET not in caplog.text


# Headers, closed routes


def test_security_headers_are_on_every_response(served: Served) -> None:
    paths = "/ /healthz /readyz /v1/models /nothing /docs /theme.css /gradio_api/upload /assets/nothing.js /config"
    responses = [HTTP.get(served.url + path) for path in paths.split()]
    responses += [HTTP.put(served.url + "/"), HTTP.post(served.url + "/", content=b"x" * 400_000), served.post(ask(stream=True))]
    responses += [HTTP.options(served.url + "/", headers={"Origin": "http://localhost", "Access-Control-Request-Method": "GET"})]
    assert {200, 404, 405, 413} <= {response.status_code for response in responses}
    for response in responses:
        assert SECURITY.items() <= dict(response.headers).items(), response.url


CLOSED = """/docs /redoc /openapi.json /monitoring /monitoring/summary /login /logout /gradio_api/deep_link?session_hash=x
/gradio_api/upload /gradio_api/upload_progress /gradio_api/info /gradio_api/openapi.json
/gradio_api/runs /gradio_api/run-history/records /gradio_api/vibe-edit
/gradio_api/proxy=https://a.hf.space/ /gradio_api/file=http://127.0.0.1/ /gradio_api/file=https:%2F%2Fexample.com /gradio_api/stream/x
/gradio_api/component_server /gradio_api/call/answer /gradio_api/process_recording
/gradio_api//upload //gradio_api/upload /gradio_api/dev/reload"""


@pytest.mark.parametrize("path", CLOSED.split())
def test_routes_that_nobody_needs_are_closed(served: Served, path: str) -> None:
    for method in ("GET", "POST"):
        assert HTTP.request(method, served.url + path).status_code == 404


def test_no_other_site_may_use_the_page(served: Served) -> None:
    other = {"Origin": "https://other.example", "Host": "ward.example"}
    for response in (HTTP.get(served.url + "/config", headers=other), HTTP.options(served.url + "/v1/chat/completions", headers=other)):
        assert "access-control-allow-origin" not in response.headers


def test_no_file_of_the_machine_is_served(served: Served) -> None:
    for path in ("requirements.txt", "app/web/server.py", "/etc/passwd", "assets/demo/adapter/run.json"):
        assert HTTP.get(f"{served.url}/gradio_api/file={path}").status_code in (403, 404)


# The command line


@pytest.fixture
def quiet_logs() -> Iterator[None]:
    level = logging.getLogger("app").level
    yield
    logging.getLogger("app").setLevel(level)


def test_help_explains_each_option_in_the_words_of_the_settings() -> None:
    text = " ".join(parser().format_help().split())
    for name in ("adapter", "host", "port"):
        assert f"--{name}" in text
        assert Settings.model_fields[name].description in text


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--port", "TAKEN"], "of 127.0.0.1 is in use. Stop the program that uses it, or choose another with --port."),
        (["--port", "99999"], "99999"),
        (["--port", "many"], "many"),
        (["--host", "256.1.1.1"], "Cannot listen on 256.1.1.1"),
        (["--adapter", "nowhere", "--port", "0"], "There is no adapter folder nowhere."),
        (["--adapter", "app", "--port", "0"], "app is no adapter: it has no adapter_config.json"),
        (["--adapter", "someone/nothing", "--port", "0"], "The Hub did not answer when asked for someone/nothing"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_start_is_one_sentence_and_status_1(
    arguments: list[str], sentence: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, quiet_logs: None
) -> None:
    monkeypatch.delenv("SPACE_ID", raising=False)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert main([port if argument == "TAKEN" else argument for argument in arguments]) == 1
    errors = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    assert len(errors) == 1
    assert sentence in errors[0]
    assert "\n" not in errors[0]


def test_address_is_one_that_a_browser_opens() -> None:
    assert [address(host, 7860) for host in ("127.0.0.1", "0.0.0.0", "::", "::1", "box.local")] == [
        f"http://{name}:7860" for name in ("127.0.0.1", "127.0.0.1", "[::1]", "[::1]", "box.local")
    ]


def test_error_while_building_the_lazy_app_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: Settings) -> None:
        raise AttributeError("no such thing")

    monkeypatch.setattr(server, "create_app", broken)
    with pytest.raises(RuntimeError, match="no such thing"):
        _ = app_package.app
    with pytest.raises(AttributeError):
        _ = app_package.anything
