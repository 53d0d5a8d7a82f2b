"""The notebook for Colab: its cells are run as they stand, with the demo's configuration in place of the parameters."""

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from app.settings import ROOT
from finetune.config import load_config
from tests.answers import PATIENCE
from tests.servers import free_port, ready

NOTEBOOK = ROOT / "finetune" / "colab.ipynb"


def code_cells() -> list[dict[str, Any]]:
    return [cell for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]


def as_python(source: str) -> str:
    """The cell with `!command {variable}` lines turned into calls, as IPython does it."""
    return re.sub(r"^(\s*)!(.*)$", lambda found: f"{found[1]}shell(f{found[2]!r})", source, flags=re.MULTILINE)


def test_the_cells_are_valid_python_without_outputs() -> None:
    for cell in code_cells():
        ast.parse(as_python("".join(cell["source"])))
        assert cell["outputs"] == [] and cell["execution_count"] is None


def test_the_notebook_trains_for_a_t4_and_publishes_nothing_unasked() -> None:
    values = {}
    exec("".join(code_cells()[0]["source"]), values)  # the parameters
    assert values["PUBLIC_LINK"] is False
    assert load_config(values["CONFIG"]).precision == "fp16"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_cells_run_on_the_demo_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    said: list[str] = []
    port = free_port()

    def shell(command: str) -> None:
        result = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr[-2000:]
        said.append(result.stdout + result.stderr)

    names: dict[str, Any] = {"shell": shell, "sys": sys, "print": lambda text: said.append(text)}
    try:
        for cell in code_cells():
            tags = cell["metadata"].get("tags", [])
            if "install" in tags:  # this environment has been installed already
                continue
            source = "".join(cell["source"]).replace("outputs/data", str(tmp_path / "data")).replace("7860", str(port))
            exec(as_python(source), names)
            if "parameters" in tags:
                names |= {"CONFIG": "demo", "DATA": "assets/flashcards.jsonl", "ADAPTER": str(tmp_path / "mine")}
                names["SETTINGS"] = "--set max_steps=2 --set train_size=16 --set copies=1 --set per_device_train_batch_size=4"
        assert ready(f"http://127.0.0.1:{port}")
    finally:
        if "server" in names:
            names["server"].terminate()
            names["server"].wait(PATIENCE)
    assert os.path.isfile(tmp_path / "mine" / "prompt_contract.json")
    assert any("It answers" in text for text in said)
    assert said[-1] == f"http://127.0.0.1:{port}"
