"""Setting up: the app runs on what requirements.txt names alone, and make says in one sentence what stands in its way."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

import pytest
import yaml

from app.settings import ROOT
from app.space import space
from tests.pins import CONSTRAINTS, INPUTS, LAYERS, blocks, normal
from tests.test_pins import brought_by, named_in

# Run before the app: packages that requirements.txt does not bring are as good as not installed.
HIDE = """
import importlib.machinery, runpy, sys
class Hiding(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.split(".")[0] in HIDDEN else super().find_spec(name, path, target)
sys.meta_path[sys.meta_path.index(importlib.machinery.PathFinder)] = Hiding
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@contextmanager
def served(
    command: list[str], port: int, folder: Path = Path("/"), environment: dict[str, str] | None = None, ending: int = signal.SIGINT
) -> Iterator[str]:
    """Starts the app, waits until it is ready, and ends it, as Ctrl-C does by default; yields its address."""
    process = subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    address = f"http://127.0.0.1:{port}"
    try:
        ends = time.monotonic() + 200
        while True:
            try:
                urllib.request.urlopen(f"{address}/readyz", timeout=200).close()
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > ends:
                    raise AssertionError(process.communicate(timeout=5)[0] if process.poll() is not None else "not ready in time") from None
                time.sleep(0.2)
        yield address
    finally:
        process.send_signal(ending)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()


def ask(address: str) -> str:
    body = json.dumps({"model": "any", "messages": [{"role": "user", "content": "What is asthma?"}], "max_tokens": 4}).encode()
    request = urllib.request.Request(f"{address}/v1/chat/completions", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as response:
        return json.load(response)["choices"][0]["message"]["content"]


def test_the_app_starts_and_answers_with_nothing_but_what_requirements_txt_brings(adapter: str) -> None:
    brought = set(brought_by(named_in("requirements.txt")))
    assert "gradio" in brought and "unsloth" not in brought and "trl" not in brought and "datasets" not in brought
    hidden = {module for module, owners in metadata.packages_distributions().items() if not {normal(owner) for owner in owners} & brought}
    assert {"unsloth", "trl", "datasets", "pytest"} <= hidden
    hidden -= {"pip", "setuptools", "pkg_resources", "_distutils_hack"}
    command = [sys.executable, "-c", f"HIDDEN = {hidden!r}\n{HIDE}", str(ROOT / "app" / "__main__.py"), "--adapter", adapter]
    with served([*command, "--port", "8142"], 8142) as address:
        assert ask(address)


@contextmanager
def on_a_space(python: str, port: int, folder: Path, files: dict[str, bytes], environment: dict[str, str]) -> Iterator[str]:
    """Starts the app as a Space does: from the files that were uploaded, by path, with the Space's variables and nothing of ours."""
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    block = yaml.safe_load(files["README.md"].decode().split("---")[1])
    given = {"SYSTEM": "spaces", "SPACE_ID": "somebody/chat", "SPACE_HOST": "somebody-chat.hf.space", "SPACE_AUTHOR_NAME": "somebody"}
    given |= {"SPACE_REPO_NAME": "chat", "SPACE_TITLE": block["title"], "GRADIO_SERVER_NAME": "0.0.0.0", "GRADIO_SERVER_PORT": str(port)}
    given |= {"GRADIO_SSR_MODE": "True", "GRADIO_THEME": "huggingface", "GRADIO_ALLOW_FLAGGING": "never", "PYTHONUNBUFFERED": "1"}
    given |= {"HOME": str(folder.parent), "PATH": os.environ["PATH"], "HF_ENDPOINT": "http://127.0.0.1:9"}
    with served([python, block["app_file"]], port, folder, given | environment, signal.SIGTERM) as address:
        yield address


@pytest.fixture(scope="module")
def clean_python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The Python of an environment that holds nothing but what requirements.txt brings."""
    folder = tmp_path_factory.mktemp("clean")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = str(folder / "bin" / "python")
    install = [python, "-m", "pip", "install", "-q", "-c", ROOT / "constraints.txt", "-r", ROOT / "requirements.txt"]
    subprocess.run(install, check=True, timeout=800)
    return python


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_clean_environment_from_requirements_txt_starts_the_app(clean_python: str, adapter: str) -> None:
    with served([clean_python, str(ROOT / "app" / "__main__.py"), "--adapter", adapter, "--port", "8143"], 8143) as address:
        assert ask(address)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_clean_environment_starts_the_files_of_a_space_as_a_space_does(clean_python: str, tmp_path: Path) -> None:
    wanted = space.read()
    files = space.content(wanted)
    (tmp_path / "pins.txt").write_bytes(files["requirements.txt"])
    same = [clean_python, "-m", "pip", "install", "-q", "--no-index", "-r", tmp_path / "pins.txt"]  # fails where one is not installed
    subprocess.run(same, check=True, timeout=100)
    with on_a_space(clean_python, 8144, tmp_path / "app", files, wanted.environment) as address:
        assert ask(address)
        with urllib.request.urlopen(address, timeout=60) as page:
            assert page.headers["Content-Security-Policy"] and b"gradio" in page.read()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The files that make needs, in a folder of their own without a virtual environment."""
    for name in ("Makefile", CONSTRAINTS, *INPUTS, *LAYERS.values()):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def make(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "MAKE", "MFLAGS"))}
    return subprocess.run(
        ["make", *arguments], cwd=folder, env=clean | environment, capture_output=True, text=True, check=False, timeout=250
    )


def test_another_python_is_refused_with_the_cure(checkout: Path) -> None:
    old = checkout / "python"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo Python 3.9.2\nexit 1\n')
    old.chmod(0o755)
    result = make(checkout, "run", f"PYTHON={old}")
    assert result.returncode != 0
    assert re.fullmatch(
        r'Python 3\.11 or 3\.12 is needed, and .*python says "Python 3\.9\.2": .*PYTHON=/path/to/python3\.12\.\n', result.stdout
    )
    assert not (checkout / ".venv").exists()


def test_too_little_disk_is_told_before_anything_is_written(checkout: Path) -> None:
    result = make(checkout, "run", "MIN_FREE_GB=1000000", f"PYTHON={sys.executable}")
    assert result.returncode != 0
    assert re.fullmatch(r"The packages need 1000000 GB or more, and \d+ GB are free here: free some space, .*\.\n", result.stdout)
    assert not (checkout / ".venv").exists()


def test_an_index_that_cannot_be_reached_is_told_with_the_cure(checkout: Path) -> None:
    closed = {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_CONFIG_FILE": os.devnull, "PIP_FIND_LINKS": ""}
    result = make(checkout, "run", f"PYTHON={sys.executable}", **closed)
    assert result.returncode != 0
    last = result.stdout.strip().splitlines()[-1]
    assert last.startswith("pip could not install the packages") and "no package index was reached" in last and last.endswith(".")
    assert not (checkout / ".venv" / "app.stamp").exists()


@pytest.mark.parametrize(("target", "command"), [("run", "-m app"), ("test", "-m pytest")])
def test_a_second_time_nothing_is_installed(checkout: Path, target: str, command: str) -> None:
    (checkout / ".venv").mkdir()
    for stamp in ("python.stamp", "app.stamp", "all.stamp"):
        (checkout / ".venv" / stamp).touch()
        time.sleep(0.02)
    planned = make(checkout, "-n", target).stdout
    assert command in planned and "pip install" not in planned
    os.utime(checkout / "requirements.txt")
    assert "pip install" in make(checkout, "-n", target).stdout, "changed requirements are installed"


def test_run_needs_the_apps_packages_only(checkout: Path) -> None:
    planned = make(checkout, "-n", "run", "ARGS=--port 8000").stdout
    assert "-r requirements.txt" in planned and "-m app --port 8000" in planned
    assert "unsloth" not in planned and "tests/requirements.txt" not in planned


def test_unsloth_is_installed_without_what_it_never_uses(checkout: Path) -> None:
    planned = make(checkout, "-n", "test").stdout
    assert re.search(r"pip install .*--no-deps -r tests/requirements\.lock", planned)
    brought = {name for source, lock in LAYERS.items() for name in blocks((ROOT / lock).read_text(encoding="utf-8"))}
    assert {"unsloth", "unsloth-zoo"} <= brought and not {"xformers", "torchvision", "diffusers"} & brought


def test_what_has_hashes_is_installed_by_them_before_pytorch(checkout: Path) -> None:
    planned = make(checkout, "-n", "test").stdout
    found = re.findall(r"-r ([a-z/]*requirements\.[a-z]+)", planned)
    assert found == ["requirements.lock", "requirements.txt", "tests/requirements.lock", "tests/requirements.txt"]
    assert all("-c constraints.txt" in line for line in re.findall(r"pip install[^|&]*requirements\.txt", planned))


def test_the_pins_are_made_before_what_they_may_stand_in_the_way_of(checkout: Path) -> None:
    planned = make(checkout, "-n", "lock", "ARGS=--upgrade-package gradio").stdout
    assert "-m tests.pins --upgrade-package gradio" in planned and "-r " not in planned


def test_help_lists_every_command(checkout: Path) -> None:
    listed = make(checkout).stdout
    assert all(f"make {target} " in listed for target in ("run", "test", "lint", "demo-model"))
