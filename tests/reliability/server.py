"""`python -m app` in a process of its own, with its log in a file, and the lines of the table.

Shares nothing with tests that open a model: who asks should not take the processor from who answers.
"""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil

from app.settings import ROOT

MEGABYTE = 2**20
# What must not stand in a log: Python's own traceback, and our words for an answer or a request that failed.
TROUBLE = ("Traceback", "request failed:", "an answer failed:", "The generation failed")


@dataclass
class Row:
    """A line of the table."""

    what: str
    n: int
    result: str
    passed: bool


@dataclass
class Server:
    """A running app."""

    popen: subprocess.Popen[bytes]
    url: str
    log: Path

    def memory(self) -> float:
        """Resident memory in MB."""
        return float(psutil.Process(self.popen.pid).memory_info().rss) / MEGABYTE

    def said(self) -> str:
        """The log."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def trouble(self) -> list[str]:
        """Lines of the log that should not be there."""
        return [line for line in self.said().splitlines() if any(word in line for word in TROUBLE)]

    def complete(self, messages: list[dict[str, str]], client: httpx.Client, **fields: Any) -> httpx.Response:
        """Asks for a whole answer."""
        return client.post(f"{self.url}/v1/chat/completions", json={"messages": messages, **fields})

    def answers(self, client: httpx.Client) -> bool:
        """Whether a proper question gets its answer."""
        question = [{"role": "user", "content": "What are the common symptoms of diabetes?"}]
        response = self.complete(question, client, max_tokens=8)
        return response.status_code == 200 and bool(response.json()["choices"][0]["message"]["content"])


def wait_for(condition: Callable[[], bool], seconds: float) -> bool:
    """Looks again and again until the condition holds or the time is over; says which."""
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)
    return condition()


def ready(url: str) -> bool:
    """Whether the server answers questions."""
    try:
        return httpx.get(f"{url}/readyz", timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


def launch(folder: Path, *arguments: str, **environment: str) -> Server:
    """Starts the app and returns at once; its log and ratings go into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    log = folder / "log.txt"
    kept = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_XET": "1", "PYTHONUNBUFFERED": "1"}
    settings = {"FEEDBACK_FOLDER": str(folder / "feedback"), "LOG_FORMAT": "json"}
    with log.open("wb") as file:
        popen = subprocess.Popen(
            [sys.executable, "-m", "app", "--port", str(port), *arguments],
            cwd=ROOT,
            env={**os.environ, **kept, **settings, **environment},
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    return Server(popen, f"http://127.0.0.1:{port}", log)


@contextmanager
def running(folder: Path, *arguments: str, **environment: str) -> Iterator[Server]:
    """A server that answers; it is killed at the end where it still runs."""
    server = launch(folder, *arguments, **environment)
    try:
        wait_for(lambda: server.popen.poll() is not None or ready(server.url), 300)
        if server.popen.poll() is not None:
            raise SystemExit(f"The server did not start: {server.said()}")
        yield server
    finally:
        server.popen.kill()
        server.popen.wait()
