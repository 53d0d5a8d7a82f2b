"""Servers for tests: one in this process, over a generator that the test steers, and real processes on ports of their own."""

import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import httpx
import openai
import uvicorn

from app.engine.generation import LocalGenerator
from app.settings import ROOT, Settings
from app.web import guard, server
from tests.answers import PATIENCE, QUESTIONS, SECRET, Steer, wait_until

HTTP = httpx.Client(timeout=PATIENCE, verify=False)  # one for all: each would read the system's certificates anew
SECURITY = {name.lower(): value for name, value in guard.HEADERS.items()}
BELOW_EPHEMERAL = range(20_000, 32_000)  # the system gives none of these to whoever asks for any port


@dataclass
class Served:
    """A running server."""

    url: str
    generator: LocalGenerator | None = None
    steer: Steer | None = None
    folder: Path | None = None

    def __post_init__(self) -> None:
        if self.steer:
            self.steer.hold.generator = self.generator

    @cached_property
    def client(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0, http_client=HTTP)

    def post(self, body: Any) -> httpx.Response:
        return HTTP.post(f"{self.url}/v1/chat/completions", json=body)

    def rested(self) -> None:
        """Lets everything go on as at first, and waits until nobody is being answered."""
        self.steer.reset()
        wait_until(lambda: self.generator.queue_length == 0)


def ask(question: str = QUESTIONS[0], **fields: Any) -> dict[str, Any]:
    """The body of a request to the API."""
    return {"model": "any", "messages": [{"role": "user", "content": question}], **fields}


def check_error(response: httpx.Response, status: int, kind: str = "invalid_request_error") -> dict[str, Any]:
    """The error of a response that refuses, in the form that the API promises."""
    assert response.status_code == status, response.text
    assert set(response.json()) == {"error"}
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == kind
    assert error["message"].endswith(".")
    assert "Traceback" not in response.text
    assert SECURITY.items() <= dict(response.headers).items()
    return error


@contextmanager
def running(settings: Settings, generator: LocalGenerator, port: int = 0) -> Iterator[str]:
    """A server in this process; gives its address."""
    listener = socket.create_server(("127.0.0.1", port))
    # requirements.txt brings this parser alone; what the tests need brings a quicker one, which refuses more by itself.
    app = server.create_app(settings, generator)
    options = server.uvicorn_options(settings)
    uvicorn_server = uvicorn.Server(uvicorn.Config(app, log_config=None, http="h11", loop="asyncio", **options))
    thread = threading.Thread(target=uvicorn_server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        uvicorn_server.should_exit = True
        thread.join(PATIENCE)


@dataclass
class Process:
    """A server in a process of its own; what it says goes into a file, which never fills up as a pipe does."""

    popen: subprocess.Popen[bytes]
    url: str
    said: IO[bytes]

    @property
    def output(self) -> str:
        """All that it said so far."""
        place = self.said.fileno()
        return os.pread(place, os.fstat(place).st_size, 0).decode()  # its own place in the file stays where it is

    def wait_until_ready(self) -> None:
        """Returns once the model is open; fails with what the process said when it has ended."""
        wait_until(lambda: self.popen.poll() is not None or ready(self.url), every=0.05)
        assert self.popen.poll() is None, self.output

    def end(self, number: int = signal.SIGTERM) -> str:
        """Asks it to end, and gives all that it said."""
        self.popen.send_signal(number)
        self.popen.wait(PATIENCE)
        return self.output

    def kill(self) -> None:
        """Ends it for certain."""
        self.popen.kill()
        self.popen.wait()


_ports = iter(random.SystemRandom().sample(BELOW_EPHEMERAL, len(BELOW_EPHEMERAL)))


def free_port() -> int:
    """A port that nobody has, and that nobody is given by chance until it is used."""
    for port in _ports:
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise AssertionError("no port is free")


def unmeasured(environment: Mapping[str, str]) -> dict[str, str]:
    """Variables for a process whose coverage is not measured: its imports alone would take half as long again."""
    return {name: value for name, value in environment.items() if not name.startswith("COVERAGE_")}


def launch(line: Sequence[str | Path], port: int, env: Mapping[str, str] = os.environ, **options: Any) -> Process:
    """Starts a command that serves on a port."""
    said = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the process
    popen = subprocess.Popen(line, stdout=said, stderr=subprocess.STDOUT, env=unmeasured(env), **{"cwd": ROOT, **options})
    return Process(popen, f"http://127.0.0.1:{port}", said)


def start(command: list[str], **environment: str) -> Process:
    """Starts a server of Python's, on a port of its own."""
    port = free_port()
    return launch([sys.executable, *command, "--port", str(port)], port, env={**os.environ, "PYTHONUNBUFFERED": "1", **environment})


def ready(url: str) -> bool:
    """Whether a server answers and its model is open."""
    try:
        return HTTP.get(f"{url}/readyz").status_code == 200
    except httpx.HTTPError:
        return False


def check_from_outside(url: str) -> None:
    """What is the same in every way of serving: the page, the API, what is closed, and the headers of each response."""
    page = HTTP.get(url)
    assert page.status_code == 200
    assert "gradio_config" in page.text
    responses = [HTTP.get(url + path) for path in ("/", "/v1/nothing", "/nothing", "/v1/chat/completions", "/gradio_api/upload")]
    responses += [HTTP.post(f"{url}/v1/chat/completions", content=b"x" * 2_000_000)]
    assert [response.status_code for response in responses] == [200, 404, 404, 405, 404, 413]
    for response in responses:
        assert SECURITY.items() <= dict(response.headers).items(), response.url
    client = Served(url).client
    events = client.chat.completions.create(**ask(f"What is {SECRET}?", max_tokens=20), stream=True)
    assert "".join(event.choices[0].delta.content or "" for event in events)
    assert client.chat.completions.create(**ask(max_tokens=20)).choices[0].message.content
