"""How well the rules for notices do on our examples, `python -m tests.safety [CARDS.jsonl ...]`; `make safety` runs it.

Each line of tests/safety_examples.jsonl is a question in somebody's words and the kinds of notice that it should get. Most were
written before the rules were last changed, and mistakes led to changes: on unseen questions recall is lower (see the last line).
"""

import json
import logging
import sys
from pathlib import Path
from typing import get_args

from app.safety import Kind, find
from app.settings import ROOT

log = logging.getLogger(__name__)

EXAMPLES = Path(__file__).parent / "safety_examples.jsonl"
# Recall at first sight of the third hundred of examples, before the rules were changed for them.
FIRST_SIGHT = "On 110 examples at first sight, the rules not yet changed for them: recall 0.50 emergency, 0.53 self_harm, 0.60 dosing."


def examples() -> list[dict[str, object]]:
    """Rows with `text` and `kinds`."""
    return [json.loads(line) for line in EXAMPLES.read_text(encoding="utf-8").splitlines()]


def counts(kind: Kind) -> tuple[int, int, int, int, list[str]]:
    """True positives, false positives, false negatives, true negatives, and the texts that were judged wrongly."""
    table = {(True, True): 0, (False, True): 0, (True, False): 0, (False, False): 0}
    wrong = []
    for row in examples():
        wanted, found = kind in row["kinds"], kind in [finding.kind for finding in find(str(row["text"]))]
        table[wanted, found] += 1
        if wanted != found:
            wrong.append(f"{'missed' if wanted else 'alarm'}: {row['text']}")
    return table[True, True], table[False, True], table[True, False], table[False, False], wrong


def main(files: list[str]) -> None:
    """Prints the table, and the share of questions in files of cards that get a notice."""
    log.info("%-10s %9s %9s %11s %11s", "notice", "examples", "others", "precision", "recall")
    for kind in get_args(Kind):
        hits, alarms, missed, quiet, wrong = counts(kind)
        log.info("%-10s %9d %9d %11.3f %11.3f", kind, hits + missed, alarms + quiet, hits / (hits + alarms), hits / (hits + missed))
        for text in wrong:
            log.info("    %s", text)
    log.info("%s", FIRST_SIGHT)
    for file in files or [str(ROOT / "assets" / "flashcards.jsonl")]:
        rows = [json.loads(line) for line in Path(file).read_text(encoding="utf-8").splitlines() if line.strip()]
        questions = [row.get("question") or row.get("input") or "" for row in rows]
        alarms = sum(bool(find(question)) for question in questions)
        log.info("%s: %d of %d questions get a notice", Path(file).name, alarms, len(questions))


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    main(sys.argv[1:])
