"""The shape of the repository: imports run one way, and what its files say of one another is true."""

import ast
import re
import tomllib
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
import yaml
from packaging.specifiers import SpecifierSet

from app.settings import ROOT
from app.space import space
from tests.pins import requirements

# The rooms of each package from the ground up: a room may import from those before it and from the files that stand in no room.
ROOMS = {
    "app": ["adapter", "notices", "engine", "space", "conversation", "page", "web"],
    "finetune": ["data", "evaluation", "training", "publishing"],
}
GROUND = {"app": ["errors", "settings", "quiet", "logs"], "finetune": ["environment", "config"]}  # those files, likewise
ABOVE_TRAINING = {"page", "web", "space"}  # rooms of the app that finetune never enters

# Libraries, and the only places that may name them.
ONLY_IN = {
    "unsloth": ["finetune/training/train.py"],
    "unsloth_zoo": [],
    "trl": [],
    "gradio": ["app/page/", "app/web/page_requests.py", "app/web/server.py"],
    "fastapi": ["app/web/api.py", "app/web/server.py"],
    "starlette": ["app/web/"],
    "bm25s": ["app/notices/evidence.py"],
    "triton": ["app/engine/kernels.py"],
    "openai": ["app/engine/remote.py", "app/engine/handshake.py"],
    "torch": ["app/adapter/behaviour.py", "app/engine/", "app/web/server.py", "finetune/"],
}
MODELS = {"AutoModelForCausalLM", "PeftModel", "PreTrainedModel"}  # what opens or holds weights
FILES = sorted(path for package in ROOMS for path in (ROOT / package).rglob("*.py"))
# The name on the package index where it differs from the name of the module.
DISTRIBUTIONS = {"yaml": "pyyaml", "Stemmer": "pystemmer", "pydantic_core": "pydantic", "triton": "torch", "sklearn": "scikit-learn"}


def imports(path: Path) -> set[str]:
    """The modules that a file names in an import, wherever it stands in the file."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            within = ROOT / node.module.replace(".", "/")
            found |= {f"{node.module}.{alias.name}" for alias in node.names} if within.is_dir() else {node.module}
    return found


def identify(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def place(module: str) -> tuple[str, str, str]:
    """Package, room and file of one of our modules; the room is empty for a file that stands in none."""
    package, *rest = module.split(".")
    room = rest[0] if len(rest) > 1 else ""
    return package, room, rest[-1] if rest else "__init__"


@pytest.mark.parametrize("path", FILES, ids=identify)
def test_between_rooms_imports_run_down_only(path: Path) -> None:
    package, room, name = place(".".join(path.relative_to(ROOT).with_suffix("").parts))
    if not room and name in ("__main__", "__init__"):
        return  # the commands know everything, and the package builds the app when it is asked for
    for module in imports(path):
        other, below, file = place(module)
        if other not in ROOMS:
            continue
        assert file != "__main__", f"{identify(path)} imports the command line"
        if other != package:
            assert (package, other) == ("finetune", "app"), f"{identify(path)} imports {module}"
            assert below not in ABOVE_TRAINING, f"{identify(path)} imports {module}"
        elif not below:
            lower = GROUND[package] if room else GROUND[package][: GROUND[package].index(name)]
            assert file in lower, f"{identify(path)} imports {module}"
        else:
            assert below in (ROOMS[package][: ROOMS[package].index(room) + 1] if room else []), f"{identify(path)} imports {module}"


@pytest.mark.parametrize("room", [f"{package}/{room}" for package, rooms in ROOMS.items() for room in rooms])
def test_no_circle_within_a_room(room: str) -> None:
    files = {path.stem: path for path in (ROOT / room).glob("*.py")}
    graph = {
        name: {place(module)[2] for module in imports(path) if module.startswith(room.replace("/", ".") + ".")}
        for name, path in files.items()
    }
    assert all(named <= files.keys() for named in graph.values())
    TopologicalSorter(graph).prepare()  # raises CycleError


def test_every_folder_is_a_room_and_says_what_it_is_for() -> None:
    for package, rooms in ROOMS.items():
        assert {path.parent.name for path in (ROOT / package).glob("*/*.py")} == set(rooms)
        assert {path.stem for path in (ROOT / package).glob("*.py")} == {*GROUND[package], "__init__", "__main__"}
    assert all(ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) for path in FILES)


@pytest.mark.parametrize("path", FILES, ids=identify)
def test_a_module_names_only_the_libraries_that_are_its_business(path: Path) -> None:
    roots = {module.split(".")[0] for module in imports(path)}
    assert not [name for name, places in ONLY_IN.items() if name in roots and not identify(path).startswith(tuple(places))]


@pytest.mark.parametrize("room", ["adapter", "notices"])
def test_the_adapter_and_the_notices_know_no_model(room: str) -> None:
    for path in {*(ROOT / "app" / room).glob("*.py")} - {ROOT / "app/adapter/behaviour.py"}:  # that one asks a model for its logits
        assert not MODELS & set(re.findall(r"\w+", path.read_text(encoding="utf-8"))), identify(path)


@pytest.mark.parametrize("path", FILES, ids=identify)
def test_no_file_and_no_function_is_too_long_to_be_read_at_once(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 350
    functions = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    assert not [node.name for node in functions if node.end_lineno - node.lineno >= 45]


@pytest.mark.parametrize(
    ("package", "files"), [("app", ["requirements.txt"]), ("finetune", ["finetune/requirements.txt", "finetune/requirements-unsloth.txt"])]
)
def test_the_requirements_name_every_library_that_is_imported(package: str, files: list[str]) -> None:
    import sys

    named = {name for file in files for name in requirements(file)}
    libraries = {module.split(".")[0] for path in FILES if path.is_relative_to(ROOT / package) for module in imports(path)} - {
        "app",
        "finetune",
    }
    wanted = {DISTRIBUTIONS.get(library, library).replace("_", "-") for library in libraries if library not in sys.stdlib_module_names}
    assert wanted <= named


def makefile_targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))


def test_the_makefile_has_the_promised_commands() -> None:
    assert {"run", "test", "test-slow", "test-gpu", "lint", "lock", "bench", "demo-model", "clean", "help"} <= makefile_targets()


def test_every_command_of_make_is_explained_in_the_docs() -> None:
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    assert sorted(makefile_targets() - set(re.findall(r"(?:^|`)make ([a-z-]+)", text, flags=re.MULTILINE))) == []


def test_ci_calls_lint_and_test() -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert {"make lint", "make test"} <= set(script.splitlines())
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111


def test_the_readme_has_at_most_120_lines() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 120


def test_spaces_yaml_the_readmes_block_and_the_pins_say_the_same() -> None:
    wanted = space.read()
    block = yaml.safe_load((ROOT / "README.md").read_text(encoding="utf-8").split("---")[1])
    assert {"title", "emoji", "sdk", "sdk_version", "python_version", "app_file", "suggested_hardware", "license"} <= block.keys()
    assert (ROOT / "README.md").read_text(encoding="utf-8") == space.readme(wanted), "`python -m app deploy check` prints the block"
    assert block["sdk_version"] == requirements("constraints.txt")["gradio"].removeprefix("==")
    supported = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["requires-python"]
    assert SpecifierSet(supported).contains(block["python_version"])
    assert (ROOT / block["app_file"]).is_file()
    assert wanted.repository.startswith("OWNER/"), "nobody's account stands in the repository"


def test_the_version_of_the_package_has_a_dated_entry_in_the_changelog() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    assert re.search(
        rf"^## {re.escape(version)} \(\d{{4}}-\d\d-\d\d\)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), flags=re.MULTILINE
    )


def test_the_licence_is_apache_2() -> None:
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in text and "Version 2.0, January 2004" in text and "END OF TERMS AND CONDITIONS" in text


def test_the_embedded_model_is_small() -> None:
    files = [path for path in (ROOT / "assets" / "demo").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 25_000_000
    assert not [path for path in files if path.suffix not in {".json", ".jsonl", ".safetensors", ".jinja", ".gz", ".md", ".html"}]
