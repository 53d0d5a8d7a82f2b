"""Whether a test notices when the code says something else: `make mutants` runs mutmut, and this after it (`python -m tests.mutants`).

mutmut changes functions one at a time (pyproject.toml names the files and the tests that are asked) and leaves what it found in
mutants/. It knows no Jinja, so the prompt formats are changed here: each text, number, comparison, word of logic and filter of a template,
and the tests of the templates are run in a fork. Both counts by file, then what survived; exits with 1 below the least share.
"""

import json
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path

import pytest
from jinja2 import Environment
from jinja2.ext import Extension
from mutmut.stats import status_by_exit_code

from finetune.config import TEMPLATES
from finetune.data import templates

log = logging.getLogger(__name__)

LEAST = 0.85
ROOT = Path(__file__).resolve().parents[1]
NOTICED = ("killed", "timeout", "segfault", "caught by type check")
SWAPPED = {"==": "!=", "!=": "==", "%": "+", "and": "or", "or": "and", "not": "", "true": "false", "false": "true"}
TEMPLATE_TESTS = "tests/adapter/test_templates.py"


class _Generation(Extension):
    """Knows the tag that marks an answer, as transformers does."""

    tags = {"generation"}


def changes(source: str) -> Iterator[tuple[str, str]]:
    """Each template that differs from the source in one place, with what differs."""
    tokens = list(Environment(extensions=[_Generation], autoescape=True, keep_trailing_newline=True).lex(source))
    kinds, texts = [kind for _, kind, _ in tokens], [text for _, _, text in tokens]
    assert "".join(texts) == source, "the lexer takes nothing away"

    def changed(first: int, last: int, text: str) -> tuple[str, str]:
        line = source[: len("".join(texts[:first]))].count("\n") + 1
        return "".join([*texts[:first], text, *texts[last:]]), f"line {line}: {''.join(texts[first:last])!r} becomes {text!r}"

    for place, (kind, text) in enumerate(zip(kinds, texts, strict=True)):
        if kind == "string":
            yield changed(place, place + 1, f"{text[0]}XX{text[1:]}")
            yield changed(place, place + 1, text[0] * 2)
        elif kind == "integer":
            yield changed(place, place + 1, str(int(text) + 1))
        elif text in SWAPPED and kind in ("operator", "name"):
            yield changed(place, place + 1, SWAPPED[text])
        elif text == "|":
            yield changed(place, _end_of_filter(texts, kinds, place), "")


def _end_of_filter(texts: list[str], kinds: list[str], place: int) -> int:
    """The token behind a filter and its arguments."""
    end = next(number for number in range(place, len(texts)) if kinds[number] == "name") + 1
    if texts[end] != "(":
        return end
    depth = 0
    while True:
        depth += {"(": 1, ")": -1}.get(texts[end], 0)
        end += 1
        if not depth:
            return end


def is_noticed(name: str, source: str) -> bool:
    """Whether a test fails when a template is another one."""
    child = os.fork()
    if child == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(1, 2)
        with tempfile.TemporaryDirectory() as folder:
            templates.TEMPLATES = Path(shutil.copytree(TEMPLATES, Path(folder) / "templates"))
            (templates.TEMPLATES / f"{name}.jinja").write_text(source, encoding="utf-8")
            code = pytest.main(["-x", "-q", "-p", "no:cacheprovider", "-p", "no:unraisableexception", TEMPLATE_TESTS])
        os._exit(int(code))
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0


def of_templates() -> dict[str, dict[str, bool]]:
    """For each template what was changed, and whether a test noticed."""
    with open(os.devnull, "w", encoding="utf-8") as nowhere, redirect_stdout(nowhere):
        pytest.main(["--collect-only", TEMPLATE_TESTS])  # so that the forks find PyTorch imported
    found: dict[str, dict[str, bool]] = {}
    for path in sorted(TEMPLATES.glob("*.jinja")):
        name, source = path.stem, path.read_text(encoding="utf-8")
        if is_noticed(name, source):
            sys.exit(f"The tests of {path.name} fail as it is: mend that first.")
        found[path.relative_to(ROOT).as_posix()] = {what: is_noticed(name, other) for other, what in changes(source)}
    return found


def of_functions() -> dict[str, dict[str, bool]]:
    """The same of what mutmut tried."""
    found: dict[str, dict[str, bool]] = {}
    for path in sorted((ROOT / "mutants").rglob("*.py.meta")):
        codes = json.loads(path.read_text(encoding="utf-8"))["exit_code_by_key"]
        if tried := {name: status_by_exit_code[code] in NOTICED for name, code in codes.items() if code is not None}:
            found[path.relative_to(ROOT / "mutants").as_posix().removesuffix(".meta")] = tried
    return found


def main() -> None:
    """Prints a line for each file and one for each survivor."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    found = of_functions() | of_templates()
    for file, tried in found.items():
        log.info("%-40s %5d of %5d noticed, %.1f%%", file, sum(tried.values()), len(tried), 100 * sum(tried.values()) / len(tried))
    total, noticed = sum(map(len, found.values())), sum(sum(tried.values()) for tried in found.values())
    log.info("%-40s %5d of %5d noticed, %.1f%%", "in all", noticed, total, 100 * noticed / total)
    for file, tried in found.items():
        for what in (what for what, seen in tried.items() if not seen):
            log.info("survived in %s: %s", file, what)
    log.info("`mutmut show NAME` says what a survivor of mutmut's changed.")
    sys.exit(noticed < LEAST * total)


if __name__ == "__main__":
    main()
