"""How well the rules for notices do on our examples, `python -m tests.safety [CARDS.jsonl ...]`; `make safety` runs it.

Each line of tests/safety_examples.jsonl is a question in somebody's words, the kinds of notice that it should get, and the batch in
which it was written. Its mistakes led to changes of the rules, unless tests/safety_first_sight.json says otherwise: there stands, for
each kind in a batch, what the rules did before they were changed for it. `n` questions had one kind each as their label, `hits` of
them got its notice, and `found` questions of the whole batch did. What a new reader meets is nearer to first sight than to now.

Batches 9 (people) and 10 (clinicians) were written by the author of the present rules before he had read the rules that stood then, which
is what their first sight measures. He knew them while he wrote, so they are no blind test of the present rules. Batches 11 (people), 12
(clinicians) and 13 (900 messages that need no notice) are: others wrote them, who had seen neither rules nor examples, and nobody has read
their misses. Leave it so: who looks at them to mend a rule writes `mended_for` beside them, and has others write new ones.
"""

import json
import logging
import sys
import time
from collections.abc import Collection
from pathlib import Path
from statistics import NormalDist
from typing import Any, get_args

from app.notices.safety import Kind, find
from app.settings import ROOT

log = logging.getLogger(__name__)

EXAMPLES = Path(__file__).parent / "safety_examples.jsonl"
FIRST_SIGHT = Path(__file__).parent / "safety_first_sight.json"


def examples() -> list[dict[str, Any]]:
    """Rows with `text`, `kinds` and `batch`."""
    return [json.loads(line) for line in EXAMPLES.read_text(encoding="utf-8").splitlines()]


def first_sight() -> list[dict[str, Any]]:
    """Rows with `batch`, `mended_for` (the rules were changed for it since) and, for each kind, `n`, `hits` and perhaps `found`."""
    rows: list[dict[str, Any]] = json.loads(FIRST_SIGHT.read_text(encoding="utf-8"))
    return rows


def unseen() -> set[int]:
    """The batches for which the rules were not changed."""
    return {row["batch"] for row in first_sight() if not row["mended_for"]}


def counts(kind: Kind, batches: Collection[int]) -> tuple[int, int, int, int, list[str]]:
    """True positives, false positives, false negatives, true negatives, and the texts that were judged wrongly."""
    table = {(True, True): 0, (False, True): 0, (True, False): 0, (False, False): 0}
    wrong = []
    for row in examples():
        if row["batch"] not in batches:
            continue
        wanted, found = kind in row["kinds"], kind in [finding.kind for finding in find(row["text"])]
        table[wanted, found] += 1
        if wanted != found:
            wrong.append(f"{'missed' if wanted else 'alarm'}: {row['text']}")
    return table[True, True], table[False, True], table[True, False], table[False, False], wrong


def share(hits: int, n: int) -> str:
    """A share with Wilson's 95% interval, for people. Wilson 1927, https://doi.org/10.1080/01621459.1927.10502953."""
    if not n:
        return "none"
    z = NormalDist().inv_cdf(0.975)
    middle = (hits + z * z / 2) / (n + z * z)
    half = z / (n + z * z) * (hits * (n - hits) / n + z * z / 4) ** 0.5
    return f"{hits}/{n} = {hits / n:.2f} [{middle - half:.2f}, {middle + half:.2f}]"


def _log_table(title: str, batches: Collection[int]) -> None:
    log.info("%s", title)
    log.info("  %-10s %-30s %s", "notice", "precision", "recall")
    for kind in get_args(Kind):
        hits, alarms, missed, _, wrong = counts(kind, batches)
        log.info("  %-10s %-30s %s", kind, share(hits, hits + alarms), share(hits, hits + missed))
        for text in wrong if batches - unseen() else []:  # who reads the others mends for them
            log.info("      %s", text)


def main(files: list[str]) -> None:
    """Prints the tables, and the share of questions in files of cards that get a notice."""
    batches = {row["batch"] for row in examples()}
    _log_table(f"Now, batches {sorted(batches - unseen())}, for which the rules were changed:", batches - unseen())
    for batch in sorted(unseen()):
        _log_table(f"Now, batch {batch}, for which the rules were not changed:", {batch})
    for row in first_sight():
        log.info("At first sight of batch %d:", row["batch"])
        log.info("  %-10s %-30s %s", "notice", "precision", "recall")
        for kind in get_args(Kind):
            seen = row[kind]
            precision = share(seen["hits"], seen["found"]) if "found" in seen else "not recorded"
            log.info("  %-10s %-30s %s", kind, precision, share(seen["hits"], seen["n"]))
    texts = [row["text"] for row in examples()]
    started = time.process_time()
    for text in texts:
        find(text)
    log.info("%.2f ms a question, mean of %d", 1000 * (time.process_time() - started) / len(texts), len(texts))
    for file in files or [str(ROOT / "assets" / "flashcards.jsonl")]:
        rows = [json.loads(line) for line in Path(file).read_text(encoding="utf-8").splitlines() if line.strip()]
        questions = [row.get("question") or row.get("input") or "" for row in rows]
        alarms = sum(bool(find(question)) for question in questions)
        log.info("%s: %d of %d questions get a notice", Path(file).name, alarms, len(questions))


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    main(sys.argv[1:])
