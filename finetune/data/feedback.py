"""Ratings -> training rows and preference pairs, after a look by a person: `python -m finetune data feedback ratings.jsonl`.

The first run writes `review.jsonl` beside the output, each rating with `"keep": null`. A person sets true or false; the second run
turns what is kept into `corrections.jsonl` (`messages`, as `finetune train --data` reads them) and `preferences.jsonl` (`prompt`,
`chosen`, `rejected` as messages: TRL's conversational preference format, https://huggingface.co/docs/trl/dataset_formats#preference).
"""

import json
import logging
from pathlib import Path
from typing import Any

from app.conversation import feedback
from app.errors import DataError
from app.notices import identifiers
from finetune.data.sources import Message

log = logging.getLogger(__name__)

REVIEW, CORRECTIONS, PREFERENCES = "review.jsonl", "corrections.jsonl", "preferences.jsonl"


def prepare(ratings: Path, output: Path) -> dict[str, int]:
    """Writes what is to be reviewed, or what has been.

    Args:
        ratings: The file that the page wrote, or a folder of such files.
        output: Folder of the three files.

    Returns:
        Counts: ratings, reviewed, kept, corrections, preferences.

    Raises:
        StorageError: The ratings cannot be read.
        DataError: The review cannot be read.
    """
    rows = [row.model_dump(mode="json") for row in feedback.read(ratings)]
    output.mkdir(parents=True, exist_ok=True)
    decided = _decisions(output / REVIEW)
    reviewed: list[dict[str, Any]] = [{"keep": decided.get(_key(row)), "rating": row} for row in rows]
    _write(output / REVIEW, reviewed)
    kept = [item["rating"] for item in reviewed if item["keep"] is True]
    corrections, preferences = [], []
    for row in kept:
        if found := identifiers.labels(json.dumps(row, ensure_ascii=False)):
            raise DataError(f"A rating of {row['time']} that is kept seems to hold a {found}. Set its keep to false in {output / REVIEW}.")
        corrections += _corrections(row)
        preferences += _preferences(row)
    _write(output / CORRECTIONS, corrections)
    _write(output / PREFERENCES, preferences)
    return {
        "ratings": len(rows),
        "reviewed": sum(item["keep"] is not None for item in reviewed),
        "kept": len(kept),
        "corrections": len(corrections),
        "preferences": len(preferences),
    }


def run(ratings: Path, output: Path) -> None:
    """The command: `prepare`, and a line on what to do next."""
    counts = prepare(ratings, output)
    log.info("%s", ", ".join(f"{count} {name}" for name, count in counts.items()))
    if counts["reviewed"] < counts["ratings"]:
        log.info("Read %s, set each keep to true or false, and run the same command again.", output / REVIEW)
    elif counts["corrections"]:
        log.info("Train on the corrections: python -m finetune train --data %s", output / CORRECTIONS)


def _key(row: dict[str, Any]) -> str:
    return json.dumps(row, sort_keys=True)


def _decisions(path: Path) -> dict[str, bool | None]:
    if not path.is_file():
        return {}
    decided: dict[str, bool | None] = {}
    for number, line in enumerate(filter(None, path.read_text(encoding="utf-8").split("\n")), 1):
        try:
            item = json.loads(line)
            keep = item["keep"]
            if keep not in (True, False, None):
                raise ValueError
            decided[_key(item["rating"])] = keep
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}, line {number} is no reviewed rating: keep is true, false or null. Mend that line.") from error
    return decided


def _prompt(row: dict[str, Any]) -> list[Message]:
    return [*row["messages"], {"role": "user", "content": row["turn"]["question"]}]


def _reply(text: str) -> list[Message]:
    return [{"role": "assistant", "content": text}]


def _corrections(row: dict[str, Any]) -> list[dict[str, Any]]:
    """The corrected answer; the model's own one where it was found correct."""
    if row["corrected"]:
        return [{"messages": _prompt(row) + _reply(row["corrected"])}]
    return [{"messages": _prompt(row) + _reply(row["turn"]["answer"])}] if row["verdict"] == "correct" else []


def _preferences(row: dict[str, Any]) -> list[dict[str, Any]]:
    """The corrected answer before the given one, and the winner of a vote before the other."""
    turn, pairs = row["turn"], []
    if row["corrected"] and row["corrected"] != turn["answer"]:
        pairs.append((row["corrected"], turn["answer"]))
    if turn["other"] and turn["vote"] in ("tuned", "base") and turn["answer"] != turn["other"]["answer"]:
        both = (turn["answer"], turn["other"]["answer"])
        pairs.append(both if turn["vote"] == "tuned" else both[::-1])
    return [{"prompt": _prompt(row), "chosen": _reply(better), "rejected": _reply(worse)} for better, worse in pairs]


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
