"""Runs everything, or `--only` a part, and prints the table: `python -m tests.reliability [--seconds 300] [--only load]`.

The exit status is 1 when a line of the table has failed.
"""

import argparse
import logging
import sys
import tempfile
from pathlib import Path

from tests.reliability import load
from tests.reliability.server import Row

log = logging.getLogger("tests.reliability")


def table(rows: list[Row]) -> str:
    """The rows as Markdown."""
    lines = ["| what | n | result | |", "|---|---|---|---|"]
    return "\n".join([*lines, *(f"| {row.what} | {row.n:,} | {row.result} | {'pass' if row.passed else 'FAIL'} |" for row in rows)])


def run_requests(folder: Path, count: int, seed: int) -> list[Row]:
    """The bad requests; what makes them is slow to import, and the load does without."""
    from tests.reliability import bad_requests

    return bad_requests.run(folder, count, seed)


def run_faults(folder: Path) -> list[Row]:
    """The faults; see `run_requests`."""
    from tests.reliability import faults

    return faults.run(folder)


def main() -> int:
    """Command line; see the top of the file."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.reliability", description="Load, bad requests and faults against the real server."
    )
    parser.add_argument("--only", choices=["load", "requests", "faults"], action="append", help="a part; may be given again")
    parser.add_argument("--conversations", type=int, default=100, help="at once")
    parser.add_argument("--seconds", type=float, default=300.0, help="that the load lasts")
    parser.add_argument("--requests", type=int, default=10_000, help="bad ones")
    parser.add_argument("--seed", type=int, default=1, help="of our own bad requests")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        parts = {
            "load": lambda: load.run(folder / "load", args.conversations, args.seconds),
            "requests": lambda: run_requests(folder / "requests", args.requests, args.seed),
            "faults": lambda: run_faults(folder / "faults"),
        }
        for part, run in parts.items():
            if not args.only or part in args.only:
                log.info("%s ...", part)
                made = run()
                rows += made
                log.info("%s", "\n".join(f"  {row.what}: {row.n}, {row.result}" for row in made))
    log.info("\n%s", table(rows))
    return int(not all(row.passed for row in rows))


if __name__ == "__main__":
    raise SystemExit(main())
