"""What README, CONTRIBUTING and docs/ say is true: links, files, commands, settings, and the figures that follow from a file.

Commands are parsed by the programs that would run them, and go no further. The slow test runs those that need no network and no GPU.
"""

import argparse
import importlib
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from app.settings import ROOT, Settings
from app.space import cost, deploy
from finetune.config import CONFIGS, load_config, parse_assignments
from tests.test_structure import makefile_targets

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
# Programs that these pages may call; the commands of those in the second line are not looked into.
LOOKED_INTO = {"python", "make", "uvicorn", "torchrun", "pip"}
OTHERS = {"python3.12", ".", "docker", "vllm", "llama-server", "ollama"}


class Parsed(Exception):
    """A command line was understood; what it asks for is not done."""

    def __init__(self, found: argparse.Namespace) -> None:
        super().__init__(str(found))
        self.found = found


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text_of(page), flags=re.DOTALL | re.MULTILINE)


def code(page: Path) -> list[str]:
    """Words set as code within a sentence."""
    prose = re.sub(r"^```.*?^```$", "", text_of(page), flags=re.DOTALL | re.MULTILINE)
    return [" ".join(found.split()) for found in re.findall(r"`([^`]+)`", prose)]


def anchors(page: Path) -> set[str]:
    """What a link to a heading of a page may name, by GitHub's rule."""
    prose = re.sub(r"^```.*?^```$", "", text_of(page), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.+)$", prose, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def commands(page: Path) -> list[tuple[str, bool]]:
    """Command lines of a page, and whether each is whole: what a sentence names may leave out what must be given."""
    lines = [line for block in blocks(page, "bash") for line in block.replace("\\\n", " ").splitlines()]
    whole = [part.strip() for line in lines for part in re.sub(r"(^|\s)#.*", "", line).split("&&")]
    named = [word for word in code(page) if re.match(r"(?:[A-Z_]+=\S+ )*(?:python -m|uvicorn|torchrun|make) ", word)]
    return [(line, True) for line in whole if line] + [(line, False) for line in named]


EVERY_COMMAND = [
    pytest.param(page, line, whole, id=f"{name_of(page)}: {line}")
    for page in PAGES
    for line, whole in dict.fromkeys((line, whole) for line, whole in commands(page))
]


def parse(module: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> argparse.Namespace:
    """What the parser of `python -m MODULE` makes of a command line."""
    original = argparse.ArgumentParser.parse_args

    def parse_args(self: argparse.ArgumentParser, *args: Any, **kwargs: Any) -> argparse.Namespace:
        raise Parsed(original(self, *args, **kwargs))

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_args)
    monkeypatch.setattr(sys, "argv", [module, *arguments])
    with pytest.raises(Parsed) as parsed:
        importlib.import_module(f"{module}.__main__" if module in ("app", "finetune", "tests.reliability") else module).main()
    return parsed.value.found


def recipe(target: str) -> tuple[str, list[str]] | None:
    """The module of ours that a target hands ARGS to, and the words before these."""
    match = re.search(rf"^{target}:.*\n(?:\t.*\n)*?\t@?\$\(PY\) -m (\S+)(.*) \$\(ARGS\)$", MAKEFILE, flags=re.MULTILINE)
    ours = match and match[1].split(".")[0] in ("app", "finetune", "tests")
    return (match[1], match[2].split()) if match and ours else None


def look_into(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Parses a command as the program that it calls would, without its running anything."""
    if words[0] == "make":
        target, arguments = words[1], [word.removeprefix("ARGS=") for word in words[2:]]
        assert target in makefile_targets() and all(word.startswith("ARGS=") for word in words[2:])
        if arguments and (found := recipe(target)):
            parse(found[0], [*found[1], *shlex.split(arguments[0])], monkeypatch)
    elif words[0] == "uvicorn":
        context = uvicorn.main.make_context("uvicorn", words[1:])
        assert context.params["app"] == "app:app" and all((ROOT / folder).is_dir() for folder in context.params["reload_dirs"])
    elif words[0] == "pip":
        assert words[1] == "install" and all((ROOT / name).is_file() for name in words[2:] if not name.startswith("-"))
    else:
        module = words[words.index("-m") + 1]
        assert module.split(".")[0] in ("app", "finetune", "tests")
        check(module, parse(module, words[words.index("-m") + 2 :], monkeypatch))


def check(module: str, found: argparse.Namespace) -> None:
    """What a parser takes as a text and looks at later."""
    given = vars(found)
    if module == "finetune" and "ship_cards" in given:
        preset = found.config if (CONFIGS / f"{found.config}.yaml").is_file() else "seed"
        assert preset == found.config or found.config == "mine.yaml"
        load_config(preset, parse_assignments(found.set) | {key: given[key] for key in ("base", "data", "output")})
    if module == "app" and found.command == "deploy":
        assert found.argument in deploy.ACTIONS
    if module == "app" and found.command == "cost" and found.price_per_hour is not None:
        cost.read_price(found.price_per_hour, found.currency, found.as_of)


@pytest.mark.parametrize(("page", "line", "whole"), EVERY_COMMAND)
def test_a_command_is_one_that_its_program_understands(
    page: Path, line: str, whole: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = shlex.split(line)
    while re.fullmatch(r"[A-Z_]+=.*", words[0]):
        assert words.pop(0).partition("=")[0].lower() in Settings.model_fields
    assert words[0] in LOOKED_INTO | OTHERS
    if words[0] in LOOKED_INTO:
        try:
            look_into(words, monkeypatch)
        except SystemExit as ended:
            said = capsys.readouterr().err
            helped = ended.code in (0, None)
            assert helped or not whole and "the following arguments are required" in said, f"{name_of(page)}: {line}: {said}"


def test_a_wrong_command_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    for wrong in (
        "python -m finetune train --confg seed",
        "python -m finetune data look",
        "make bench ARGS=--adaptor",
        "uvicorn app:app --x",
    ):
        with pytest.raises((SystemExit, Exception)) as error:
            look_into(shlex.split(wrong), monkeypatch)
        assert error.type.__name__ in ("SystemExit", "NoSuchOption"), wrong
    for wrong in ("make everything", "python -m app deploy away", "pip install -r requirement.txt"):
        with pytest.raises(AssertionError):
            look_into(shlex.split(wrong), monkeypatch)
    with pytest.raises(Exception, match="lora_rang"):
        look_into(shlex.split("python -m finetune train --set lora_rang=8"), monkeypatch)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_to_files_and_to_headings(page: Path) -> None:
    for link in re.findall(r"\]\((?!https?:|mailto:)([^)\s]+)\)", text_of(page)):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.is_relative_to(ROOT) and target.exists(), f"{name_of(page)} links to {link}"
        assert not anchor or anchor in anchors(target), f"{name_of(page)} links to {link}"


def test_every_page_can_be_reached_from_the_readme() -> None:
    links = set(re.findall(r"\]\(([^)#\s]+)\)", text_of(ROOT / "README.md")))
    assert {name_of(page) for page in PAGES} - {"README.md"} <= links


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_the_files_that_a_page_names_exist(page: Path) -> None:
    pattern = r"(?:app|finetune|assets|tests|docs|\.ci)(?:/[\w.-]+)+|[\w-]+\.(?:txt|yaml|toml)"
    named = {word for word in code(page) if re.fullmatch(pattern, word)}
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_the_settings_and_names_that_a_page_gives_stand_in_the_code(page: Path) -> None:
    files = [path for folder in ("app", "finetune") for path in (ROOT / folder).rglob("*.py")]
    source = "\n".join(path.read_text(encoding="utf-8") for path in [*files, ROOT / "Makefile", ROOT / "Dockerfile"])
    words = " ".join([*code(page), *blocks(page, "bash")])
    named = set(re.findall(r"\b[A-Z]+(?:_[A-Z]+)+\b", words))
    known = {name.upper() for name in Settings.model_fields}
    assert [name for name in sorted(named - known) if not re.search(rf"\b{name}\b", source)] == []


def demo() -> dict[str, Any]:
    return json.loads((ROOT / "assets/demo/adapter/evaluation.json").read_text(encoding="utf-8"))


def shown(mean: dict[str, float]) -> str:
    return f"{mean['value']:.3f} [{mean['low']:.3f}, {mean['high']:.3f}]"


def rows_of_the_demo() -> Iterator[str]:
    """The rows of docs/results.md that follow from the committed evaluation."""
    evaluation = demo()
    for title, start in {
        "a trained wording": "answers:trained",
        "the held-out wording": "answers:held_out",
        "a second turn on the same card, held-out wording": "answers:second_turn",
        "cards never trained on": "beside:",
    }.items():
        measure = next(value for key, value in evaluation["measures"].items() if key.startswith(start) and key.endswith("/rouge_l"))
        yield f"| {title} | {measure['n']} | {shown(measure['tuned'])} | {shown(measure['base'])} |"
    for title, key in {
        "notice before or after the answer, questions that no card answers": "outside the cards, all, before or after (should be 1)",
        "the same, the medical ones of them": "outside the cards, medical, before or after (should be 1)",
        "notice, held-out wordings answered wrong": "held-out wordings answered wrong, before or after (should be 1)",
        "notice, held-out wordings answered right (should be none)": "held-out wordings answered right, before or after (should be 0)",
    }.items():
        yield f"| {title} | {evaluation['notices'][key]['n']} | {shown(evaluation['notices'][key])} |"


def test_the_demo_models_figures_are_those_of_its_evaluation() -> None:
    page = text_of(ROOT / "docs/results.md").splitlines()
    assert [row for row in rows_of_the_demo() if row not in page] == []


def test_the_readmes_answer_is_the_card_s_own() -> None:
    rows = [json.loads(line) for line in (ROOT / "assets/flashcards.jsonl").read_text(encoding="utf-8").split("\n") if line]
    answer = next(row["answer"] for row in rows if row["question"] == "What are the common symptoms of diabetes?")
    assert f"| adapter on | {answer} |" in text_of(ROOT / "README.md").splitlines()


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("start", ["python -m finetune ask --adapter assets/demo/adapter", "python -m app cost --price-per-hour"])
def test_commands_that_need_nothing_else_do_what_their_page_says(start: str) -> None:
    line = next(line for page in PAGES for line, _ in commands(page) if line.startswith(start))
    done = subprocess.run([sys.executable, *shlex.split(line)[1:]], cwd=ROOT, capture_output=True, text=True, check=True)
    said = done.stdout + done.stderr
    wanted = "Diabetes commonly causes thirst" if " ask " in start else "1,000 answers cost"
    assert wanted in said
