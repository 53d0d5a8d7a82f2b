"""Answers from another server, for real: `transformers serve` with the demo model, and our own API in front of it."""

import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from app.conversation.chat import Chat, Finished, Text
from app.engine.answer import GenerationRequest
from app.engine.generation import LocalGenerator
from app.engine.model import LoadedModel
from app.engine.remote import RemoteGenerator
from app.errors import AdapterError, Busy, GenerationFailed, NotReady
from app.settings import ROOT, load_settings
from tests.answers import PATIENCE, QUESTIONS, ask, text_of, wait_until
from tests.conftest import assert_is_for_people
from tests.servers import free_port, launch

pytestmark = pytest.mark.timeout(600)


def served_folder(loaded: LoadedModel, folder: Path, template: str | None = None) -> Path:
    """The adapter directory with its base's files beside it, as `transformers serve` wants it."""
    adapter = ROOT / loaded.name
    base = ROOT / "assets" / "demo" / "base"
    for name in ("config.json", "model.safetensors"):
        shutil.copy(base / name, folder / name)
    for path in adapter.iterdir():
        if path.name in (
            "adapter_model.safetensors",
            "adapter_config.json",
            "tokenizer.json",
            "tokenizer_config.json",
            "chat_template.jinja",
        ):
            shutil.copy(path, folder / path.name)
    eos = loaded.tokenizer.convert_tokens_to_ids("<|start_header_id|>")  # which no answer has: only a limit or a reader ends one
    settings = {"eos_token_id": eos, "pad_token_id": loaded.tokenizer.pad_token_id, "bos_token_id": loaded.tokenizer.bos_token_id}
    (folder / "generation_config.json").write_text(json.dumps(settings), encoding="utf-8")
    if template:
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def serve(loaded: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., tuple[str, str]]]:
    """One `transformers serve`, which opens the folders that it is asked for; gives its address and its name for the model."""
    port = free_port()
    command = [Path(sys.executable).with_name("transformers"), "serve", "--device", "cpu", "--port", str(port), "--dtype", "float32"]
    quiet = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_UPDATE_CHECK": "1", "OMP_NUM_THREADS": "1"}
    process = launch(command, port, env=os.environ | quiet)

    def folder(template: str | None = None) -> tuple[str, str]:
        return f"{process.url}/v1", str(served_folder(loaded, tmp_path_factory.mktemp("served"), template))

    yield folder
    process.kill()


@pytest.fixture(scope="module")
def remote(serve: Callable[..., tuple[str, str]], loaded: LoadedModel) -> Iterator[RemoteGenerator]:
    url, name = serve()
    generator = RemoteGenerator(loaded.name, url, model=name)
    generator.wait_until_ready(PATIENCE)
    yield generator
    generator.close()


def test_a_server_is_waited_for_and_then_answers_as_the_model_here(remote: RemoteGenerator, generator: LocalGenerator) -> None:
    requests = [ask(question, max_new_tokens=16) for question in QUESTIONS[:2]]
    answers = [remote.submit(request) for request in requests]
    assert [text_of(answer) for answer in answers] == [text_of(generator.submit(request)) for request in requests]
    assert answers[0].prompt_tokens > 20 and answers[0].finish_reason in ("length", "stop")
    assert remote.loaded is not None and remote.loaded.cards


def test_the_chat_streams_from_it_and_tells_what_made_the_answer(remote: RemoteGenerator) -> None:
    chat = Chat(remote, load_settings())
    events = list(chat.turn([{"role": "user", "content": QUESTIONS[0]}], max_new_tokens=24, interval=0.0))
    assert len([event for event in events if isinstance(event, Text)]) > 2
    assert isinstance(events[-1], Finished) and events[-1].error is None
    assert events[-1].details["adapter_active"] is True and events[-1].details["completion_tokens"] > 2


def test_stop_ends_an_answer_of_the_server_and_keeps_its_text(remote: RemoteGenerator) -> None:
    answer = remote.submit(ask(max_new_tokens=900, repetition_penalty=1.0))
    next(iter(answer))
    answer.stop()
    assert answer.done.wait(PATIENCE)
    text_of(answer)
    assert answer.finish_reason == "stopped" and answer.text
    wait_until(lambda: remote.queue_length == 0)


def test_a_deadline_ends_an_answer_of_the_server(remote: RemoteGenerator) -> None:
    answer = remote.submit(ask(max_new_tokens=900, deadline=0.05))
    text_of(answer)
    assert answer.finish_reason == "deadline"


def test_without_a_name_for_the_base_the_adapter_cannot_be_switched_off(remote: RemoteGenerator) -> None:
    with pytest.raises(AdapterError, match="ENGINE_BASE") as caught:
        text_of(remote.submit(ask(use_adapter=False)))
    assert_is_for_people(caught.value)


def test_a_server_with_another_template_is_refused(serve: Callable[..., tuple[str, str]], loaded: LoadedModel) -> None:
    template = "{{ bos_token }}{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
    url, name = serve(template)
    generator = RemoteGenerator(loaded.name, url, model=name)
    try:
        with pytest.raises(NotReady, match="chat template") as caught:
            generator.wait_until_ready(PATIENCE)
        assert generator.status == "failed"
        assert_is_for_people(caught.value)
        with pytest.raises(NotReady):
            generator.submit(ask())
    finally:
        generator.close()


# Servers that fail in ways that a real one does only when it is ill. The contract's check is passed by telling what it wants.


class Patient(ThreadingHTTPServer):
    request_queue_size = 64  # as many may knock at once as a test has questions


@pytest.fixture
def ill(loaded: LoadedModel) -> Iterator[Callable[..., RemoteGenerator]]:
    made: list[tuple[ThreadingHTTPServer, RemoteGenerator]] = []
    golden = {json.dumps(g.messages): g.prompt_ids for g in loaded.contract.golden}

    def make(respond: Callable[[BaseHTTPRequestHandler], None], tokenize: bool = True, **options: Any) -> RemoteGenerator:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def reply(self, status: int, body: Any) -> None:
                data = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def do_GET(self) -> None:
                lora = {"id": loaded.name.rsplit("/", 1)[-1], "object": "model", "parent": "demo-base"}
                self.reply(200, {"object": "list", "data": [{"id": "demo-base", "object": "model"}, lora]})

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if self.path == "/tokenize":
                    ids = golden[json.dumps(body["messages"])]
                    self.reply(200, {"tokens": ids if tokenize else [*ids[:-1], ids[-1] + 1]})
                else:
                    self.asked = body
                    respond(self)

            def log_message(self, *_: Any) -> None:
                pass

        server = Patient(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        generator = RemoteGenerator(loaded.name, f"http://127.0.0.1:{server.server_port}/v1", **options)
        made.append((server, generator))
        return generator

    yield make
    for server, generator in made:
        generator.close()
        server.shutdown()
        server.server_close()


def stream(handler: Any, *pieces: str, end: bool = True) -> None:
    handler.send_response(200)
    handler.send_header("Content-Type", "text/event-stream")
    handler.send_header("Connection", "close")
    handler.end_headers()
    for piece in pieces:
        choice = {"index": 0, "delta": {"content": piece}, "finish_reason": None}
        handler.wfile.write(f"data: {json.dumps({'id': 'x', 'object': 'chat.completion.chunk', 'choices': [choice]})}\n\n".encode())
        handler.wfile.flush()
    if end:
        choice = {"index": 0, "delta": {}, "finish_reason": "stop"}
        handler.wfile.write(f"data: {json.dumps({'id': 'x', 'object': 'chat.completion.chunk', 'choices': [choice]})}\n\n".encode())
        handler.wfile.write(b"data: [DONE]\n\n")


def test_names_are_looked_up_and_the_adapter_switched_by_name(ill: Callable[..., RemoteGenerator]) -> None:
    asked = []

    def respond(handler: Any) -> None:
        asked.append(handler.asked)
        stream(handler, "Two", " words")

    generator = ill(respond)
    generator.wait_until_ready(PATIENCE)
    assert [text_of(generator.submit(ask(use_adapter=on, seed=5))) for on in (True, False)] == ["Two words"] * 2
    assert [body["model"] for body in asked] == ["adapter", "demo-base"]
    assert asked[0]["seed"] == 5 and asked[0]["max_tokens"] == 24


def test_other_token_ids_are_refused_where_the_server_tells_them(ill: Callable[..., RemoteGenerator]) -> None:
    with pytest.raises(NotReady, match=r"other ones from place [0-9]+ on"):
        ill(lambda handler: None, tokenize=False).wait_until_ready(PATIENCE)


@pytest.mark.parametrize(
    ("respond", "kind", "message"),
    [
        (lambda handler: stream(handler, "half of", end=False), GenerationFailed, "in the middle"),
        (lambda handler: handler.reply(429, {"error": {"message": "secret"}}), Busy, "busy"),
        (lambda handler: handler.reply(500, {"error": {"message": "secret"}}), GenerationFailed, "status 500"),
        (lambda handler: handler.reply(401, {"error": {"message": "secret"}}), GenerationFailed, "ENGINE_KEY"),
        (lambda handler: handler.connection.shutdown(2), GenerationFailed, "does not answer"),
        (lambda handler: handler.wfile.write(b"nonsense\r\n\r\n"), GenerationFailed, "server"),
    ],
    ids=["ends early", "busy", "broken", "key", "hangs up", "nonsense"],
)
def test_a_failure_of_the_server_reaches_the_reader_in_words(
    ill: Callable[..., RemoteGenerator], respond: Callable[..., None], kind: type[Exception], message: str
) -> None:
    generator = ill(respond)
    generator.wait_until_ready(PATIENCE)
    answer = generator.submit(ask())
    with pytest.raises(kind, match=message) as caught:
        text_of(answer)
    assert_is_for_people(caught.value)
    assert "secret" not in str(caught.value)
    assert generator.queue_length == 0 and generator.status == "ready"


def test_many_answers_at_once_keep_apart_and_the_server_is_told_when_readers_go(ill: Callable[..., RemoteGenerator]) -> None:
    gone = threading.Event()

    def respond(handler: Any) -> None:
        question = handler.asked["messages"][0]["content"]
        if question == "endless":
            try:
                while True:
                    handler.wfile.flush()
                    stream(handler, "on ", end=False) if not getattr(handler, "begun", False) else handler.wfile.write(b": more\n\n")
                    handler.begun = True
                    time.sleep(0.01)
            except OSError:
                gone.set()
        else:
            stream(handler, *f"You asked: {question}".split(" "))

    generator = ill(respond)
    generator.wait_until_ready(PATIENCE)
    answers = [generator.submit(ask(f"number{n}")) for n in range(32)]
    assert [text_of(answer) for answer in answers] == [f"Youasked:number{n}" for n in range(32)]
    answer = generator.submit(ask("endless"))
    next(iter(answer))
    answer.stop()
    assert gone.wait(PATIENCE), "the server went on writing"


def test_a_full_house_is_refused_and_closing_ends_every_answer(ill: Callable[..., RemoteGenerator]) -> None:
    release = threading.Event()

    def respond(handler: Any) -> None:
        release.wait()

    generator = ill(respond, max_queue=1)
    generator.wait_until_ready(PATIENCE)
    try:
        answers = [generator.submit(GenerationRequest([{"role": "user", "content": "x"}])) for _ in range(2)]
        with pytest.raises(Busy, match="full") as caught:
            generator.submit(ask())
        assert_is_for_people(caught.value)
        generator.close()
        for answer in answers:
            text_of(answer)
        assert {answer.finish_reason for answer in answers} == {"stopped"}
    finally:
        release.set()
    with pytest.raises(NotReady, match="shutting down"):
        generator.submit(ask())


def test_a_server_that_is_not_there_is_waited_for_in_words() -> None:
    generator = RemoteGenerator("assets/demo/adapter", "http://127.0.0.1:9/v1")  # a port that is closed
    try:
        wait_until(lambda: "does not answer" in generator.message)
        assert generator.status == "loading"
        with pytest.raises(NotReady, match="127.0.0.1"):
            generator.submit(ask())
    finally:
        generator.close()
