"""Data sets of the Hub: configurations, splits, licence, and what cannot be read, over HTTP against the tests' own Hub."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from app.settings import ROOT
from tests.hub_server import HubServer, Repo

README = b"""---
license: cc0-1.0
configs:
- config_name: adults
  data_files:
  - split: train
    path: adults/train.jsonl
  - split: test
    path: adults/test.jsonl
- config_name: children
  data_files: children.jsonl
- config_name: broken
  data_files: broken.jsonl
---
"""
# In a process of its own: the library reads the Hub's address when it is imported.
READ = """
import json, sys
from app.errors import UserError
from finetune.data.sources import load_source
found = {}
for name in sys.argv[1:]:
    try:
        source = load_source(name)
        found[name] = {"train": [e.question for e in source.examples], "test": [e.question for e in source.test], "licence": source.licence}
    except UserError as error:
        found[name] = {"error": str(error)}
print(json.dumps(found))
"""


def rows(*questions: str) -> bytes:
    """JSON lines of cards."""
    return "\n".join(json.dumps({"question": question, "answer": f"What is true of {question[8:]}"}) for question in questions).encode()


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What each name of a data set gives."""
    names = [f"somebody/cards{rest}" for rest in (":adults", ":children", ":adults:test", "", ":elderly", ":broken")]
    files = {
        "README.md": README,
        "adults/train.jsonl": rows("What is gout?", "What is asthma?"),
        "adults/test.jsonl": rows("What is scurvy?"),
        "children.jsonl": rows("What is croup?"),
        "broken.jsonl": b'{"question": "What is',
    }
    with HubServer() as hub:
        hub.repos["somebody/cards"] = Repo("somebody")
        hub.repos["somebody/cards"].commit(files, "cards")
        folder = str(tmp_path_factory.mktemp("cache"))
        environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1", "HF_HOME": folder}
        done = subprocess.run(
            [sys.executable, "-c", READ, *names], capture_output=True, text=True, check=False, env=environment, cwd=Path(ROOT)
        )
    assert done.returncode == 0, done.stderr[-2000:]
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def test_a_configuration_is_named_after_a_colon_and_keeps_its_splits(found: dict[str, Any]) -> None:
    adults = {"train": ["What is gout?", "What is asthma?"], "test": ["What is scurvy?"], "licence": "cc0-1.0"}
    assert found["somebody/cards:adults"] == adults
    assert found["somebody/cards:children"]["train"] == ["What is croup?"]


def test_a_split_is_named_after_another_colon(found: dict[str, Any]) -> None:
    assert found["somebody/cards:adults:test"]["train"] == ["What is scurvy?"]


@pytest.mark.parametrize("rest", ["", ":elderly"])
def test_a_configuration_that_is_missing_or_not_there_is_told_with_those_that_are(found: dict[str, Any], rest: str) -> None:
    assert "configurations adults, children, broken. Name one" in found[f"somebody/cards{rest}"]["error"]


def test_a_data_set_that_cannot_be_read_is_one_sentence(found: dict[str, Any]) -> None:
    assert "could not be read as a table" in found["somebody/cards:broken"]["error"]
