"""Files that are not what they should be, and texts that are none: one sentence for the person, never a traceback."""

import errno
import json
import logging
import os
import re
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from app.adapter.prompts import clean_text, prompt_ids
from app.engine.answer import GenerationRequest
from app.engine.generation import LocalGenerator
from app.engine.model import LoadedModel, load
from app.errors import AdapterError, ConfigError, of_system
from app.settings import ROOT, load_settings
from tests.conftest import assert_is_for_people
from tests.smollm2 import CARDS

ENV: dict[str, tuple[bytes, str]] = {
    "Windows-1252": ("PUBLIC_URL=https://klinik-m\u00fcnchen.example".encode("cp1252"), "not UTF-8 text .byte 27."),
    "UTF-16": ("ADAPTER=x".encode("utf-16"), "not UTF-8 text"),
    "a typing error": (b"CLIENT_LIMITS=10/minute\n", "unknown key CLIENT_LIMITS. Did you mean CLIENT_LIMIT?"),
    "another program's": (b"HF_TOKEN=hf_secret\n", "unknown key HF_TOKEN. Correct it or take it out"),
    "a value out of range": (b"MAX_QUEUE=-3\n", "max_queue|MAX_QUEUE"),
}


@pytest.mark.parametrize("case", ENV)
def test_an_env_file_that_cannot_be_used_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    content, text = ENV[case]
    (tmp_path / ".env").write_bytes(content)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=text) as caught:
        load_settings()
    assert_is_for_people(caught.value)
    assert "hf_secret" not in str(caught.value)


def test_an_env_file_that_can_be_used_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".env").write_bytes("\ufeff# ours\nAPP_PORT=8123\nmax_queue=5\nPUBLIC_URL=https://klinik-m\u00fcnchen.example\n".encode())
    monkeypatch.chdir(tmp_path)
    settings = load_settings()
    assert (settings.port, settings.max_queue, settings.public_url) == (8123, 5, "https://klinik-m\u00fcnchen.example")


@pytest.mark.parametrize("command", [["-m", "app"], ["-m", "uvicorn", "app:app", "--port", "0"]], ids=["app", "uvicorn"])
def test_no_way_of_starting_shows_a_traceback(tmp_path: Path, command: list[str]) -> None:
    (tmp_path / ".env").write_bytes(b"ADAPTER=\xe4\n")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, *command], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "The file .env here is not UTF-8 text" in done.stderr


def as_folder(name: str) -> Callable[[Path], object]:
    return lambda folder: ((folder / name).unlink(), (folder / name).mkdir())


DAMAGED: dict[str, Callable[[Path], object]] = {
    "a record that is a list": lambda folder: (folder / "run.json").write_text("[]"),
    "a record whose data is a list": lambda folder: (folder / "run.json").write_text('{"data": [1]}'),
    "a record in Windows-1252": lambda folder: (folder / "run.json").write_bytes(b'{"data": "\xe4"}'),
    "a contract in Windows-1252": lambda folder: (folder / "prompt_contract.json").write_bytes(b'{"base": "\xe4"}'),
    "a contract that is a folder": as_folder("prompt_contract.json"),
    "weights that are a folder": as_folder("adapter_model.safetensors"),
    "a template that is a folder": as_folder("chat_template.jinja"),
    "cards that are a folder": lambda folder: (as_folder("training_cards.jsonl.gz")(folder), (folder / "prompt_contract.json").unlink()),
    "a configuration that is a list": lambda folder: (folder / "adapter_config.json").write_text("[]"),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_an_adapter_with_a_damaged_file_is_refused(adapter_copy: Path, damage: str) -> None:
    DAMAGED[damage](adapter_copy)
    with pytest.raises(AdapterError) as caught:
        load(str(adapter_copy), "cpu")
    assert_is_for_people(caught.value)


def test_a_file_of_an_adapter_that_may_not_be_read_is_told(adapter_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As root a test cannot forbid itself to read, so the system's refusal is raised where the file is read."""

    def refuse(self: Path, *_: object, **__: object) -> bytes:
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(AdapterError, match=r"prompt_contract.json \(Permission denied\)") as caught:
        load(str(adapter_copy), "cpu")
    assert_is_for_people(caught.value)
    assert str(adapter_copy.parent) not in str(caught.value).replace(str(adapter_copy), "")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EISDIR, errno.EROFS])
def test_what_the_system_refuses_is_a_sentence(number: int) -> None:
    text = of_system(OSError(number, os.strerror(number), "/srv/x"))
    assert_is_for_people(text)
    assert os.strerror(number) in text and ("Free some space" in text) == (number == errno.ENOSPC)


COMMANDS: dict[str, list[str]] = {
    "data prepare": ["data", "prepare", "--data", "CARDS", "--base", "assets/demo/base", "--output", "OUT"],
    "data inspect": ["data", "inspect", "--data", "CARDS", "--base", "assets/demo/base", "--output", "OUT/page.html"],
    "export": ["export", "--adapter", "assets/demo/adapter", "--output", "OUT"],
    "adopt": ["adopt", "assets/demo/adapter", "--template", "llama3", "--base", "assets/demo/base", "--output", "OUT"],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_full_disk_ends_a_command_with_a_sentence(tmp_path: Path, command: str) -> None:
    """No file may have more than ten bytes, which fails where a full disk does."""
    cards = tmp_path / "cards.jsonl"
    cards.write_text("".join(json.dumps({"question": question, "answer": answer}) + "\n" for question, answer in CARDS))
    words = [word.replace("OUT", str(tmp_path / "out")).replace("CARDS", str(cards)) for word in COMMANDS[command]]
    # A coverage that counted there could not write what it counted, and would say so.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}
    done = subprocess.run(
        [sys.executable, "-B", "-m", "finetune", *words],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10)),
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr[-2000:]
    assert re.search("ree some space|another place", done.stderr)
    assert not list(tmp_path.glob("*.partial"))


HALVES = ["What is \ud800 gout?", "\udfff", "What is\udce4 gout?", "pair of halves: \ud83d\ude00"]


@pytest.mark.parametrize("text", HALVES)
def test_half_a_sign_is_read_as_an_unknown_one(loaded: LoadedModel, text: str) -> None:
    clean_text(text).encode()
    assert clean_text(clean_text(text)) == clean_text(text) and "\ufffd" in clean_text(text)
    assert prompt_ids(loaded.tokenizer, [{"role": "user", "content": text}])


def test_a_question_with_half_a_sign_is_answered(generator: LocalGenerator, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        answer = generator.submit(GenerationRequest([{"role": "user", "content": HALVES[0]}], max_new_tokens=3))
        assert "".join(answer) and not caplog.records


def test_ask_takes_a_question_in_any_bytes() -> None:
    question = os.fsdecode(b"What is gout\xe4?")
    command = [sys.executable, "-m", "finetune", "ask", "--adapter", "assets/demo/adapter", "--max-new-tokens", "3", question]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr[-2000:]
