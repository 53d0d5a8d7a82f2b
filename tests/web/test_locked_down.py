"""What the app must be able to do without: pickles, and code that comes with a model."""

import ast
from pathlib import Path

import pytest

from app.settings import ROOT

PICKLING = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}


def loads_pickles(source: str) -> list[str]:
    """The places of a module that open, or could open, a pickle."""
    found = []
    for node in ast.walk(ast.parse(source)):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
        module = node.module or "" if isinstance(node, ast.ImportFrom) else ""
        if PICKLING & {name.split(".")[0] for name in [module, *names]} or (module == "torch" and "load" in names):
            found.append(f"line {node.lineno}: import")
        if isinstance(node, ast.Call):
            call, given = ast.unparse(node.func), {word.arg: word.value for word in node.keywords}
            safe = isinstance(given.get("weights_only"), ast.Constant) and given["weights_only"].value is True
            pickled = isinstance(given.get("allow_pickle"), ast.Constant) and given["allow_pickle"].value is True
            remote = isinstance(given.get("trust_remote_code"), ast.Constant) and given["trust_remote_code"].value is True
            if (call in ("torch.load", "torch.jit.load") and not safe) or pickled or remote or call.endswith("read_pickle"):
                found.append(f"line {node.lineno}: {call}")
    return found


@pytest.mark.parametrize("path", sorted((ROOT / "app").rglob("*.py")), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_the_app_opens_no_pickle_and_runs_no_remote_code(path: Path) -> None:
    assert loads_pickles(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from pickle import loads",
        "import joblib.memory",
        "from torch import load",
        "import torch\ntorch.load('x')",
        "torch.load('x', weights_only=False)",
        "numpy.load('x', allow_pickle=True)",
        "pandas.read_pickle('x')",
        "AutoModel.from_pretrained('x', trust_remote_code=True)",
    ],
)
def test_that_check_finds_each_way_of_opening_one(source: str) -> None:
    assert loads_pickles(source)
