"""Measures how long the lookups for one question take: `python -m tests.bench_evidence`.

    python -m tests.bench_evidence --cards CARDS.jsonl --count 34000

Cards are made by recombining the words of a file, as in `tests.bench_data`; questions are a card's, half of them with words left out
and a third drawn from other cards. Not a test: it asserts nothing.
"""

import argparse
import json
import logging
import os
import random
import statistics
import tempfile
import time
from pathlib import Path

from app.notices.evidence import Evidence, unsupported
from tests.bench_data import make

log = logging.getLogger(__name__)


def milliseconds(seconds: list[float]) -> str:
    """Median, 95th percentile and maximum."""
    ordered = sorted(seconds)
    p95 = ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))]
    return f"median {1e3 * statistics.median(ordered):.2f} ms, p95 {1e3 * p95:.2f} ms, most {1e3 * ordered[-1]:.2f} ms"


def main() -> None:
    """Command line; see the top of the file."""
    parser = argparse.ArgumentParser(description="Measure the lookup of the nearest cards on this machine.")
    parser.add_argument("--cards", default="assets/flashcards.jsonl", help="file whose words are recombined [%(default)s]")
    parser.add_argument("--count", type=int, default=34_000, help="cards to make of them [%(default)s]")
    parser.add_argument("--questions", type=int, default=1000, help="[%(default)s]")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    rng = random.Random(0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "cards.jsonl")
        make(path, args.count, args.cards)
        lines = path.read_text(encoding="utf-8").splitlines()
    cards = [{"id": number, **json.loads(line)} for number, line in enumerate(lines)]
    started = time.perf_counter()
    index = Evidence(cards)
    log.info("%d cards on %d cores: the index took %.1f s", len(cards), len(os.sched_getaffinity(0)), time.perf_counter() - started)
    nearest, all_lookups = [], []
    for _ in range(args.questions):
        card, other = rng.choice(cards), rng.choice(cards)
        words = card["question"].split()
        if rng.random() < 0.5:
            words = [word for word in words if rng.random() < 0.7] or words
        question = " ".join([*words, *(other["question"].split()[:4] if rng.random() < 1 / 3 else [])])
        started = time.perf_counter()
        found = index.nearest(question)
        nearest.append(time.perf_counter() - started)
        # What a page asks before, beside and after one answer.
        index.is_far(question)
        index.recited(question, card["answer"])
        unsupported(card["answer"], found + index.nearest(question))
        all_lookups.append(time.perf_counter() - started)
    log.info("nearest cards, %d questions: %s", args.questions, milliseconds(nearest))
    log.info("all lookups of one question and its answer: %s", milliseconds(all_lookups))


if __name__ == "__main__":
    main()
