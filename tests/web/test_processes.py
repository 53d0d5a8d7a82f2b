"""The app as a process of its own: what it must be able to do without, how it looks from outside, and how it ends."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path

import pytest
import torch

from app.settings import ROOT
from tests.answers import PATIENCE, SECRET, wait_until
from tests.pins import normal
from tests.servers import HTTP, Process, Served, ask, check_from_outside, free_port, launch, start
from tests.test_pins import brought_by, named_in

NOBODY = 65534

# Run before the app: packages that requirements.txt does not bring are as good as not installed, and while there is the file HOLD,
# an answer stands still at its sixth token.
BEFORE = """
import importlib.machinery, pathlib, runpy, sys, time
class Finder(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        spec = None if name.split(".")[0] in HIDDEN else super().find_spec(name, path, target)
        if name == "app.engine.decoder":
            load = spec.loader.exec_module
            spec.loader.exec_module = lambda module: (load(module), held(module.Decoder))
        return spec
def held(decoder):
    logits, step = decoder.logits, 0
    def passed(self, ids, start):
        nonlocal step
        step = 1 if start == 0 else step + 1
        while step == 6 and pathlib.Path(HOLD).exists():
            time.sleep(0.005)
        return logits(self, ids, start)
    decoder.logits = passed
sys.meta_path[sys.meta_path.index(importlib.machinery.PathFinder)] = Finder
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A folder that other users may enter, outside pytest's own, which each run of pytest on this machine closes to them again."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def as_nobody() -> list[str]:
    """How a command is started as somebody without rights; empty where this may not be done or that one may not read the repository."""
    command = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--no-new-privs"]
    if os.geteuid() != 0 or not shutil.which("setpriv"):
        return []
    read = f"open({str(ROOT / 'app' / '__main__.py')!r}).close(); open({torch.__file__!r}).close()"
    return [] if subprocess.run([*command, sys.executable, "-c", read], cwd=ROOT, capture_output=True).returncode else command


@pytest.fixture(scope="module")
def hold(place: Path) -> Path:
    """The file that holds answers while it is there."""
    return place / "hold"


@pytest.fixture(scope="module")
def bare(adapter: str, place: Path, hold: Path, as_nobody: list[str]) -> Iterator[Process]:
    """The app where little is allowed: the packages of requirements.txt alone, nobody's rights, a home that is closed, one cache."""
    brought = set(brought_by(named_in("requirements.txt")))
    assert "gradio" in brought and "unsloth" not in brought and "trl" not in brought and "datasets" not in brought
    hidden = {module for module, owners in metadata.packages_distributions().items() if not {normal(owner) for owner in owners} & brought}
    assert {"unsloth", "trl", "datasets", "pytest"} <= hidden
    hidden -= {"pip", "setuptools", "pkg_resources", "_distutils_hack"}
    home, cache, port = place / "home", place / "cache", free_port()
    for folder in (home, cache):
        folder.mkdir()
    home.chmod(0o555)
    if as_nobody:
        os.chown(cache, NOBODY, NOBODY)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "XDG_", "GRADIO_TEMP"))}
    environment = kept | {"HOME": str(home), "HF_HOME": str(cache), "TMPDIR": str(cache), "HF_ENDPOINT": os.environ["HF_ENDPOINT"]}
    environment |= {"LOG_FORMAT": "json", "SHUTDOWN_SECONDS": str(PATIENCE)}
    code = f"HIDDEN, HOLD = {hidden!r}, {str(hold)!r}\n{BEFORE}"
    line = [*as_nobody, sys.executable, "-c", code, str(ROOT / "app" / "__main__.py"), "--adapter", adapter, "--port", str(port)]
    process = launch(line, port, env=environment)
    yield process
    process.kill()


def test_the_app_starts_and_answers_with_nothing_but_what_requirements_txt_brings(bare: Process) -> None:
    bare.wait_until_ready()
    assert "gradio_config" in HTTP.get(bare.url).text
    assert Served(bare.url).post(ask(max_tokens=4)).json()["choices"][0]["message"]["content"]


def test_nobody_has_nothing_to_write_on_but_the_cache(bare: Process, place: Path, as_nobody: list[str]) -> None:
    if not as_nobody:
        pytest.skip("only root may start a process as another user, and that one must be able to read the repository")
    folders = (ROOT, ROOT / "app", place / "home")
    tried = "\n".join(f"try: open({str(folder / 'x')!r}, 'w')\nexcept OSError: print('closed')" for folder in folders)
    probe = subprocess.run([*as_nobody, sys.executable, "-c", tried], cwd=ROOT, capture_output=True, text=True, check=True)
    assert probe.stdout.split() == ["closed"] * 3, "the process above could have written there"


def test_uvicorn_serves_the_same_from_outside_and_an_open_page_does_not_keep_it_from_ending(adapter: str) -> None:
    process = start(["-m", "uvicorn", "app:app"], ADAPTER=adapter)
    try:
        process.wait_until_ready()
        check_from_outside(process.url)
        with HTTP.stream("GET", f"{process.url}/gradio_api/heartbeat/abc") as heartbeat:
            next(heartbeat.iter_lines())
            output = process.end(signal.SIGTERM)
    finally:
        process.kill()
    assert SECRET not in output
    assert "Traceback" not in output


@pytest.fixture
def started(request: pytest.FixtureRequest, adapter: str, hold: Path) -> Iterator[Callable[[str], Process]]:
    """Starts the app in one of its ways; `serve` is the process of the tests above, which ends here."""
    made: list[Process] = []

    def make(kind: str) -> Process:
        if kind == "serve":
            return request.getfixturevalue("bare")
        by = {"uvicorn": Path(sys.executable).with_name("uvicorn"), "space": ROOT / "app" / "__main__.py"}[kind]
        port = free_port()
        options = {"uvicorn": ["app:app"], "space": ["--adapter", adapter, "--host", "127.0.0.1"]}[kind]
        known = {"ADAPTER": adapter} if kind == "uvicorn" else {"SPACE_ID": "a/b"}
        line = [sys.executable, "-c", f"HIDDEN, HOLD = (), {str(hold)!r}\n{BEFORE}", str(by), *options, "--port", str(port)]
        environment = {**os.environ, "LOG_FORMAT": "json", "SHUTDOWN_SECONDS": str(PATIENCE), **known}
        made.append(launch(line, port, env=environment))
        return made[-1]

    yield make
    for process in made:
        process.kill()


@pytest.mark.parametrize("kind", ["serve", pytest.param("uvicorn", marks=pytest.mark.slow), pytest.param("space", marks=pytest.mark.slow)])
def test_sigterm_lets_the_running_answer_end_and_takes_no_new_question(
    started: Callable[[str], Process], hold: Path, place: Path, kind: str
) -> None:
    process = started(kind)
    process.wait_until_ready()
    hold.touch()
    try:
        answered = terminate_while_answering(process)
        refused = Served(process.url).post(ask())
        assert refused.status_code == 503
        assert "shutting down" in refused.json()["error"]["message"]
        assert int(refused.headers["retry-after"]) > 0
    finally:
        hold.unlink()
    assert "data: [DONE]" in answered()
    process.popen.wait(PATIENCE)
    lines = process.output.splitlines()
    assert "Traceback" not in process.output
    answer = [record for record in map(json.loads, (line for line in lines if line.startswith("{"))) if record["message"] == "answer"][-1]
    assert answer["end"] in ("stop", "length") and answer["completion_tokens"] > 6, "it ended as it would have"
    if kind == "serve":
        assert process.popen.returncode == 0
        assert [line for line in lines if not line.startswith("{")] == [], "in JSON everything is said in JSON, and libraries say nothing"
        assert list((place / "home").iterdir()) == []


def terminate_while_answering(process: Process) -> Callable[[], list[str]]:
    """An answer stands still, and SIGTERM has come; gives what waits for the answer's end and returns all its events."""
    body = ask("Tell me about the heart.", stream=True, max_tokens=20, temperature=0)
    begun, events = threading.Event(), []

    def listen() -> None:
        with HTTP.stream("POST", f"{process.url}/v1/chat/completions", json=body) as response:
            for line in response.iter_lines():
                events.append(line)
                begun.set()

    def ended() -> list[str]:
        reader.join(PATIENCE)
        return events

    reader = threading.Thread(target=listen)
    reader.start()
    assert begun.wait(PATIENCE)
    process.popen.send_signal(signal.SIGTERM)
    wait_until(lambda: HTTP.get(f"{process.url}/readyz").json()["status"] == "ending")
    return ended
