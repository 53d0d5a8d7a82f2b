"""The pins: they follow from the requirements, cover all that these bring, and are what is installed here."""

import re
import shutil
import subprocess
import sys
import tomllib
from collections import defaultdict
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from app.settings import ROOT
from tests.pins import CONSTRAINTS, INPUTS, LAYERS, OPTIONS, UNPINNED, UNSLOTH, blocks, digest, normal, requirements

PINS = {name: pin.removeprefix("==") for name, pin in requirements(CONSTRAINTS).items()}
FILES = (CONSTRAINTS, *LAYERS.values())


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def named_in(name: str) -> list[Requirement]:
    """The requirements of a file itself, extras included."""
    lines = (line.split("#")[0].strip() for line in read(name).splitlines())
    return [Requirement(line) for line in lines if line and not line.startswith("-r ")]


def needs(name: str, extras: Iterable[str] = ()) -> list[Requirement]:
    """What an installed distribution asks for here; nothing if it is not installed."""
    try:
        asked = [Requirement(text) for text in metadata.requires(name) or []]
    except metadata.PackageNotFoundError:
        return []
    return [need for need in asked if need.marker is None or any(need.marker.evaluate({"extra": extra}) for extra in {"", *extras})]


def installed(name: str) -> str | None:
    """The version that is installed, whatever the build."""
    try:
        return metadata.version(name).split("+")[0]
    except metadata.PackageNotFoundError:
        return None


def brought_by(wanted: Iterable[Requirement]) -> dict[str, set[Requirement]]:
    """The packages that these bring as installed here, themselves included, and what is asked of each."""
    found: dict[str, set[Requirement]] = defaultdict(set)
    waiting = list(wanted)
    while waiting:
        requirement = waiting.pop()
        name = normal(requirement.name)
        if requirement not in found[name]:
            found[name].add(requirement)
            waiting += needs(name, requirement.extras)
    return found


@pytest.mark.parametrize("name", FILES)
def test_the_pins_are_up_to_date(name: str) -> None:
    assert f"# requirements: {digest()}" in read(name).splitlines()[:2], "the requirements have changed: run `make lock`"


def test_a_changed_requirement_makes_the_pins_out_of_date_and_a_comment_does_not(tmp_path: Path) -> None:
    for name in INPUTS:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    before = digest(tmp_path)
    assert before == digest()
    for name in INPUTS:
        text = read(name)
        (tmp_path / name).write_text(f"# other words\n\n{text}", encoding="utf-8")
        assert digest(tmp_path) == before
        for changed in (f"{text}six>=1\n", text.replace("=", "!=", 1), "".join(text.splitlines(keepends=True)[:-1])):
            (tmp_path / name).write_text(changed, encoding="utf-8")
            assert digest(tmp_path) != before
        (tmp_path / name).write_text(text, encoding="utf-8")


def test_requirements_are_ranges_and_their_pins_exact_and_within_them() -> None:
    assert all(re.fullmatch(r"[0-9][0-9A-Za-z.+]*", pin) for pin in PINS.values())
    for requirement in (requirement for name in LAYERS for requirement in named_in(name)):
        assert "==" not in str(requirement.specifier), requirement
        assert requirement.specifier.contains(PINS[normal(requirement.name)], prereleases=True), requirement
    assert all(str(requirement.specifier) == f"=={PINS[normal(requirement.name)]}" for requirement in named_in(UNSLOTH))


def test_all_that_the_requirements_bring_is_pinned_suits_each_other_and_is_what_is_installed() -> None:
    brought = brought_by(requirement for name in LAYERS for requirement in named_in(name))
    brought |= {normal(requirement.name): {requirement} for requirement in named_in(UNSLOTH)}
    assert {"torch", "h11", "certifi", "mcp", "unsloth-zoo"} <= brought.keys(), "what is asked of gradio[mcp] counts, too"
    brought = {name: asked for name, asked in brought.items() if not UNPINNED.fullmatch(name)}
    assert brought.keys() - PINS.keys() == set()
    other = {name: (PINS[name], installed(name)) for name in brought if installed(name) != PINS[name]}
    assert other == {}, "`make test` installs the pins"
    asked = [(name, requirement) for name, requirements in brought.items() for requirement in requirements]
    assert [(str(r), PINS[name]) for name, r in asked if not r.specifier.contains(PINS[name], prereleases=True)] == []


def test_every_package_but_pytorchs_own_has_hashes_in_one_lock() -> None:
    locked: dict[str, str] = {}
    for name in LAYERS.values():
        for package, block in blocks(read(name)).items():
            assert package not in locked, f"{package} stands in two locks"
            first, *hashes = block.splitlines()
            assert first.startswith(f"{package}=={PINS[package]} "), first
            assert hashes and all(re.fullmatch(r" +--hash=sha256:[0-9a-f]{64}( \\)?", line) for line in hashes), package
            locked[package] = block
    without = PINS.keys() - locked.keys()
    assert "torch" in without <= brought_by([Requirement("torch")]).keys()
    assert {normal(need.name) for name in locked for need in needs(name)} & without == {"torch"}, "a lock lacks what it needs"


@pytest.mark.parametrize(("source", "lock"), LAYERS.items())
def test_a_lock_covers_its_requirements_and_names_the_lock_below_it(source: str, lock: str) -> None:
    assert re.findall("^-r .*", read(lock), flags=re.MULTILINE) == [
        line.replace(".txt", ".lock") for line in re.findall("^-r .*", read(source), flags=re.MULTILINE)
    ]
    assert {*requirements(source)} - {"torch"} <= requirements(lock).keys()
    assert ("unsloth" in requirements(lock)) == (source != "requirements.txt")


def test_each_package_has_one_version_for_every_python_that_we_support() -> None:
    for name in FILES:
        lines = re.findall("^[a-z0-9][^=; ]*", read(name), flags=re.MULTILINE)
        assert len(lines) == len(set(lines))
    supported = SpecifierSet(tomllib.loads(read("pyproject.toml"))["project"]["requires-python"])
    oldest = OPTIONS[OPTIONS.index("--python-version") + 1]
    major, minor = map(int, oldest.split("."))
    assert supported.contains(oldest) and not supported.contains(f"{major}.{minor - 1}.99")


@pytest.mark.parametrize("name", FILES)
def test_the_pins_name_no_index_and_no_machine(name: str) -> None:
    assert not re.search(r"://|^\s*--(?!hash)|(^|\s)/|@|file:", read(name), flags=re.MULTILINE)


def test_the_list_for_lm_eval_is_exact_and_does_not_contradict_the_pins() -> None:
    listed = {name: pin.removeprefix("==") for name, pin in requirements("tests/requirements-lm-eval.txt").items()}
    assert listed and {name: pin for name, pin in listed.items() if PINS.get(name, pin) != pin} == {}
    assert all(re.fullmatch(r"[0-9][0-9A-Za-z.]*", pin) for pin in listed.values())


@pytest.mark.slow
def test_pins_stay_where_they_may_and_move_where_they_must(tmp_path: Path) -> None:
    """With the package index; other wheels of a version may have come since, so hashes are not compared."""
    for name in (*INPUTS, *FILES, "tests/pins.py", "tests/__init__.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    subprocess.run([sys.executable, "-m", "tests.pins"], cwd=tmp_path, check=True)
    for name in FILES:
        assert requirements(name, tmp_path) == requirements(name), name
    text = read("requirements.txt").replace("limits>=5.8,<6", f"limits>=5,<{PINS['limits']}")
    assert text != read("requirements.txt")
    (tmp_path / "requirements.txt").write_text(text, encoding="utf-8")
    subprocess.run([sys.executable, "-m", "tests.pins"], cwd=tmp_path, check=True)
    moved = {name for name, pin in requirements(CONSTRAINTS, tmp_path).items() if pin != f"=={PINS.get(name)}"}
    assert moved == {"limits"}
    assert requirements("requirements.lock", tmp_path)["limits"] == requirements(CONSTRAINTS, tmp_path)["limits"] != f"=={PINS['limits']}"
    assert digest(tmp_path) in (tmp_path / "finetune" / "requirements.lock").read_text(encoding="utf-8")
