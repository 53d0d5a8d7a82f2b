"""Setting up: the app runs in an environment of what requirements.txt names alone, and make says in one sentence what stands in its way."""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from app.settings import ROOT
from app.space import space
from tests.pins import CONSTRAINTS, INPUTS, LAYERS, blocks
from tests.servers import HTTP, Process, Served, ask, free_port, launch


@contextmanager
def on_a_space(python: str, port: int, folder: Path, files: dict[str, bytes], environment: dict[str, str]) -> Iterator[Process]:
    """Starts the app as a Space does: from the files that were uploaded, by path, with the Space's variables and nothing of ours."""
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    block = yaml.safe_load(files["README.md"].decode().split("---")[1])
    given = {"SYSTEM": "spaces", "SPACE_ID": "somebody/chat", "SPACE_HOST": "somebody-chat.hf.space", "SPACE_AUTHOR_NAME": "somebody"}
    given |= {"SPACE_REPO_NAME": "chat", "SPACE_TITLE": block["title"], "GRADIO_SERVER_NAME": "0.0.0.0", "GRADIO_SERVER_PORT": str(port)}
    given |= {"GRADIO_SSR_MODE": "True", "GRADIO_THEME": "huggingface", "GRADIO_ALLOW_FLAGGING": "never", "PYTHONUNBUFFERED": "1"}
    given |= {"HOME": str(folder.parent), "PATH": os.environ["PATH"], "HF_ENDPOINT": "http://127.0.0.1:9"}
    process = launch([python, block["app_file"]], port, cwd=folder, env=given | environment)
    try:
        process.wait_until_ready()
        yield process
    finally:
        process.kill()


@pytest.fixture(scope="module")
def clean_python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The Python of an environment that holds nothing but what requirements.txt brings."""
    folder = tmp_path_factory.mktemp("clean")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = str(folder / "bin" / "python")
    install = [python, "-m", "pip", "install", "-q", "-c", ROOT / "constraints.txt", "-r", ROOT / "requirements.txt"]
    subprocess.run(install, check=True)
    return python


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_clean_environment_from_requirements_txt_starts_the_app(clean_python: str, adapter: str, tmp_path: Path) -> None:
    port = free_port()
    process = launch([clean_python, str(ROOT / "app" / "__main__.py"), "--adapter", adapter, "--port", str(port)], port, cwd=tmp_path)
    try:
        process.wait_until_ready()
        assert Served(process.url).post(ask(max_tokens=4)).json()["choices"][0]["message"]["content"]
        assert "Traceback" not in process.end(signal.SIGINT)
    finally:
        process.kill()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_clean_environment_starts_the_files_of_a_space_as_a_space_does(clean_python: str, tmp_path: Path) -> None:
    wanted = space.read()
    files = space.content(wanted)
    (tmp_path / "pins.txt").write_bytes(files["requirements.txt"])
    same = [clean_python, "-m", "pip", "install", "-q", "--no-index", "-r", tmp_path / "pins.txt"]  # fails where one is not installed
    subprocess.run(same, check=True)
    with on_a_space(clean_python, free_port(), tmp_path / "app", files, wanted.environment) as process:
        assert Served(process.url).post(ask(max_tokens=4)).json()["choices"][0]["message"]["content"]
        page = HTTP.get(process.url)
        assert page.headers["Content-Security-Policy"] and "gradio" in page.text


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The files that make needs, in a folder of their own without a virtual environment."""
    for name in ("Makefile", CONSTRAINTS, *INPUTS, *LAYERS.values()):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def make(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "MAKE", "MFLAGS"))}
    return subprocess.run(["make", *arguments], cwd=folder, env=clean | environment, capture_output=True, text=True, check=False)


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
    planned = make(checkout, "-n", target).stdout
    assert command in planned and "pip install" not in planned
    later = (checkout / ".venv" / "all.stamp").stat().st_mtime + 1
    os.utime(checkout / "requirements.txt", (later, later))
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
