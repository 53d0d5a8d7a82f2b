"""Measures `data prepare` on rows made by recombining words, with planted duplicates: time, memory, and what became of the planted ones.

    python -m tests.bench_data                                  # 33,955 rows, as many as the flashcards of Medical Meadow
    python -m tests.bench_data --rows 33955 339550 --words cards.jsonl --base unsloth/Llama-3.2-3B-Instruct

A row draws its words from all questions and answers of a file, and their number from one of its rows. Every twentieth is an earlier row
with a tenth of its words left out and a twentieth replaced. Not a test: it asserts nothing.
"""

import argparse
import json
import logging
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from app.notices.words import words
from finetune.data.families import FAMILY, jaccard
from finetune.data.sources import load_source

log = logging.getLogger(__name__)


def make(path: Path, count: int, source: str, seed: int = 0) -> list[tuple[int, int]]:
    """Writes `count` rows.

    Returns:
        Row numbers of each planted duplicate that is a near-duplicate by our measure, after those of its original.
    """
    rng = random.Random(seed)
    texts = [(example.question.split(), example.answer.split()) for example in load_source(source).examples]
    pools = [[word for text in texts for word in text[part]] for part in (0, 1)]
    rows: list[tuple[list[str], list[str]]] = []
    planted = []
    for number in range(count):
        if number % 20 == 19:
            original = rng.randrange(number)
            parts = [[word for word in part if rng.random() >= 0.1] or part for part in rows[original]]
            row = tuple(
                [rng.choice(pool) if rng.random() < 0.05 else word for word in part] for part, pool in zip(parts, pools, strict=True)
            )
            if jaccard(words(" ".join(sum(rows[original], []))), words(" ".join(sum(row, [])))) >= FAMILY:
                planted.append((original, number))
        else:
            lengths = rng.choice(texts)
            row = tuple(rng.choices(pool, k=len(part)) for pool, part in zip(pools, lengths, strict=True))
        rows.append(row)
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps({"question": " ".join(question), "answer": " ".join(answer)}) + "\n" for question, answer in rows)
    return planted


def together(folder: Path, planted: list[tuple[int, int]]) -> int:
    """Planted pairs of which one was dropped, or both stand in one split."""
    split = {}
    for name in ("train", "validation", "test"):
        with (folder / f"{name}.jsonl").open(encoding="utf-8") as file:
            split |= {json.loads(line)["row"]: name for line in file}
    return sum(one not in split or other not in split or split[one] == split[other] for one, other in planted)


def main() -> None:
    """Command line; see the top of the file."""
    parser = argparse.ArgumentParser(description="Measure data prepare on this machine.")
    parser.add_argument("--rows", type=int, nargs="+", default=[33_955])
    parser.add_argument("--words", default="assets/flashcards.jsonl", help="file whose words are recombined")
    parser.add_argument("--base", default="assets/demo/base", help="base whose tokenizer counts")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    log.info("%10s %10s %10s %12s %24s", "rows", "wall, s", "CPU, s", "memory, GB", "planted, kept together")
    for count in args.rows:
        with tempfile.TemporaryDirectory() as folder:
            planted = make(Path(folder, "rows.jsonl"), count, args.words)
            command = [sys.executable, "-m", "finetune", "data", "prepare", "--data", f"{folder}/rows.jsonl", "--base", args.base]
            before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
            subprocess.run([*command, "--output", f"{folder}/prepared"], check=True, capture_output=True)
            wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
            cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            kept = f"{together(Path(folder, 'prepared'), planted):,} of {len(planted):,}"
            log.info("%10d %10.1f %10.1f %12.2f %24s", count, wall, cpu, after.ru_maxrss / 1e6, kept)


if __name__ == "__main__":
    main()
