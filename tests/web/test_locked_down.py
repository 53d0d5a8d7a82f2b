"""What the app must be able to do without: pickles, a home, a disk to write on, and being root."""

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from app.settings import ROOT
from tests.web.test_server import HTTP, Served, ask, free_port, ready, wait_for

NOBODY = 65534
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


def test_the_app_runs_as_nobody_with_nothing_to_write_on_but_its_cache(adapter: str, tmp_path: Path) -> None:
    if os.geteuid() != 0 or not shutil.which("setpriv"):
        pytest.skip("only root may start a process as another user")
    as_nobody = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--no-new-privs"]
    if subprocess.run([*as_nobody, sys.executable, "-c", "import torch"], cwd=ROOT, capture_output=True).returncode:
        pytest.skip("the virtual environment or the repository cannot be read by another user")
    home, cache = tmp_path / "home", tmp_path / "cache"
    for folder in (home, cache):
        folder.mkdir()
    for folder in tmp_path.parents:  # pytest keeps its folders to their owner
        if folder.is_relative_to(tmp_path.parents[2]):
            folder.chmod(folder.stat().st_mode | 0o011)
    tmp_path.chmod(0o755)
    home.chmod(0o555)
    os.chown(cache, NOBODY, NOBODY)
    tried = "\n".join(f"try: open({str(place / 'x')!r}, 'w')\nexcept OSError: print('closed')" for place in (ROOT, ROOT / "app", home))
    probe = subprocess.run([*as_nobody, sys.executable, "-c", tried], cwd=ROOT, capture_output=True, text=True, check=True)
    assert probe.stdout.split() == ["closed"] * 3
    port = free_port()
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "XDG_", "COVERAGE", "COV_"))}
    environment = kept | {"HOME": str(home), "HF_HOME": str(cache), "TMPDIR": str(cache), "HF_ENDPOINT": os.environ["HF_ENDPOINT"]}
    process = subprocess.Popen(
        [*as_nobody, sys.executable, "-m", "app", "--adapter", adapter, "--port", str(port)],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        wait_for(lambda: ready(url) or process.poll() is not None, 200)
        assert process.poll() is None, process.communicate()[0]
        assert "gradio_config" in HTTP.get(url).text
        assert Served(url, None).post(ask(max_tokens=4)).json()["choices"][0]["message"]["content"]
    finally:
        process.terminate()
        output = process.communicate(timeout=30)[0]
    assert "Traceback" not in output
    assert list(home.iterdir()) == []
