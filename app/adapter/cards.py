"""The training cards of an adapter: the file that travels with it, or the rows of a Hub data set that its record names.

Knows an adapter's folder and its `run.json`; no model and no page.
"""

import gzip
import json
import logging
import re
from pathlib import Path
from typing import Any

from app.adapter import hub
from app.errors import AdapterError, UserError

log = logging.getLogger(__name__)

CARDS_FILE = "training_cards.jsonl.gz"
# Columns of question and answer that are read; `finetune data` reads more forms, and those cards stay where they are.
COLUMNS = (("question", "answer"), ("input", "output"))

_COMMIT = re.compile(r"[0-9a-f]{40}")


def training_cards(directory: Path, run: dict[str, Any]) -> list[dict[str, Any]]:
    """Cards with `id`, `question` and `answer`; empty where they cannot be had, and the log says why.

    Args:
        directory: The adapter directory.
        run: Its `run.json`.

    Raises:
        AdapterError: Cards travel with the adapter and are damaged.
    """
    if (directory / CARDS_FILE).is_file():
        return _shipped(directory / CARDS_FILE)
    data = run.get("data") or {}
    name, commit, rows = data.get("id"), data.get("revision"), data.get("rows")
    if not (isinstance(name, str) and hub.parse(name) and _COMMIT.fullmatch(str(commit)) and isinstance(rows, list)):
        return []
    try:
        cards = _fetched(name, str(commit), rows)
    except (UserError, OSError, ValueError) as error:
        log.warning("the training cards cannot be had: %s", error)
        return []
    if not cards:
        log.warning("the training cards cannot be had: %s is no single JSON file of questions and answers", name)
    return cards


def _shipped(path: Path) -> list[dict[str, Any]]:
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            cards = [json.loads(line) for line in file if line.strip()]
        if all({"id", "question", "answer"} <= card.keys() for card in cards):
            return cards
    except (OSError, EOFError, ValueError, AttributeError) as error:
        raise AdapterError(f"{CARDS_FILE} is damaged ({type(error).__name__}). Fetch or train the adapter again.") from error
    raise AdapterError(f"{CARDS_FILE} is damaged: a card lacks id, question or answer. Fetch or train the adapter again.")


def _fetched(name: str, commit: str, numbers: list[Any]) -> list[dict[str, Any]]:
    """The rows of a data set by their numbers, counted from 0; from the cache where they are in it."""
    folder = hub.fetch(name, commit, ["*.json", "*.jsonl"], repo_type="dataset")
    files = [path for path in sorted(folder.rglob("*.json*")) if path.is_file() and path.name != "dataset_infos.json"]
    if len(files) != 1:
        return []
    text = files[0].read_text(encoding="utf-8-sig")
    rows = json.loads(text) if text.lstrip().startswith("[") else [json.loads(line) for line in text.split("\n") if line.strip()]
    cards = []
    for number in sorted({int(number) for number in numbers if str(number).isdigit() and int(number) < len(rows)}):
        row = rows[number]
        columns = next((pair for pair in COLUMNS if isinstance(row, dict) and all(isinstance(row.get(c), str) for c in pair)), None)
        if columns:
            cards.append({"id": str(number), "question": row[columns[0]], "answer": row[columns[1]]})
    return cards
