"""Blinded rating: a sheet with two answers to each question in random order, and what the filled-in sheets say.

    python -m finetune evaluate --adapter DIR --rating-sheet sheet.csv
    python -m finetune evaluate --adapter DIR --ratings anna.csv ben.csv --rating-key sheet.key.json

Which model wrote which answer stands in the key alone, a file beside the sheet that the raters do not get.
"""

import csv
import json
import random
from collections import Counter
from itertools import combinations
from pathlib import Path
from typing import Any

from app.errors import DataError, StorageError
from finetune.data.files import read_file
from finetune.data.forms import renamed
from finetune.data.values import is_missing, text_of
from finetune.evaluation.metrics import bootstrap_mean, rounded
from finetune.evaluation.scoring import Item, Prediction

COLUMNS = ["id", "question", "answer_a", "answer_b", "better", "comment"]
# What a rater may write into `better`.
VOTES = {"a": "a", "b": "b", "same": "same", "tie": "same", "=": "same"}


def key_path(sheet: Path) -> Path:
    """Where the key of a sheet lies."""
    return sheet.with_suffix(".key.json")


def _cell(text: str) -> str:
    # A spreadsheet would run a cell that begins so as a formula.
    return "'" + text if text.startswith(("=", "+", "-", "@")) else text


def write_sheet(
    sheet: Path, items: list[Item], base: list[Prediction], tuned: list[Prediction], about: dict[str, Any], seed: int = 0
) -> Path:
    """Writes a sheet to fill in and its key.

    Args:
        sheet: The CSV file to write.
        items: The questions.
        base: The base's answers.
        tuned: The tuned model's answers, in the same order.
        about: What the key says of the adapter.
        seed: Decides the order of the questions and of each pair.

    Returns:
        The key's path.

    Raises:
        StorageError: A file could not be written.
    """
    rng = random.Random(seed)
    order = rng.sample(range(len(items)), len(items))
    tuned_is = {}
    try:
        with sheet.open("w", encoding="utf-8-sig", newline="") as file:  # the mark tells spreadsheets that it is UTF-8
            writer = csv.writer(file)
            writer.writerow(COLUMNS)
            for number, index in enumerate(order, 1):
                tuned_first = rng.random() < 0.5
                pair = [tuned[index].text, base[index].text] if tuned_first else [base[index].text, tuned[index].text]
                tuned_is[str(number)] = "a" if tuned_first else "b"
                question = "\n\n".join(message["content"] for message in items[index].messages)
                writer.writerow([number, _cell(question), *map(_cell, pair), "", ""])
        key = key_path(sheet)
        key.write_text(json.dumps({**about, "seed": seed, "tuned_is": tuned_is}, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise StorageError(f"Writing the rating sheet {sheet} failed ({error.strerror}). Give a place that can be written to.") from error
    return key


def _read_votes(path: Path, tuned_is: dict[str, str]) -> dict[str, int]:
    rows = read_file(path).rows
    votes = {}
    for row in renamed(rows, set().union(*rows), path.name, {}):
        number, vote = ("" if is_missing(row.get(name)) else text_of(row[name], []).strip() for name in ("id", "better"))
        vote = vote.lower()
        if not vote:
            continue
        if number not in tuned_is or vote not in VOTES:
            raise DataError(
                f"{path}: the row with id {number[:20]!r} says {vote[:20]!r} in `better`. Allowed are A, B and same, in rows of this sheet."
            )
        votes[number] = 0 if VOTES[vote] == "same" else 1 if VOTES[vote] == tuned_is[number] else -1
    if not votes:
        raise DataError(f"{path} holds no rating. Write A, B or same into the column `better` and save it as CSV.")
    return votes


def _agreement(raters: list[dict[str, int]]) -> float | None:
    """Mean over the pairs of raters of Cohen's kappa with quadratic weights; None where it is not defined."""
    from sklearn.metrics import cohen_kappa_score  # takes seconds to import

    kappas = []
    for one, other in combinations(raters, 2):
        shared = sorted(one.keys() & other.keys(), key=int)
        ours, theirs = [one[number] for number in shared], [other[number] for number in shared]
        if len(set(ours) | set(theirs)) > 1:
            kappas.append(float(cohen_kappa_score(ours, theirs, labels=[-1, 0, 1], weights="quadratic")))
    return round(sum(kappas) / len(kappas), 4) if kappas else None


def read_ratings(paths: list[Path], key: Path) -> dict[str, Any]:
    """What the raters preferred, and how far they agree.

    Args:
        paths: One filled-in sheet per rater.
        key: The sheet's key.

    Returns:
        The entry `ratings` of `evaluation.json`: counts of votes; `win_rate`, the share of questions for the tuned model, a draw
        counting half, with an interval over questions, each question's raters averaged; and `agreement`, the weighted kappa
        (Cohen 1968, https://doi.org/10.1037/h0026256).

    Raises:
        DataError: A file cannot be read, or holds something else than ratings.
    """
    try:
        content = json.loads(key.read_text(encoding="utf-8"))
        tuned_is = dict(content["tuned_is"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"The rating key {key} cannot be read. It was written beside the sheet, with the ending .key.json; name it with --rating-key."
        ) from error
    raters = [_read_votes(path, tuned_is) for path in paths]
    rated = sorted({number for votes in raters for number in votes}, key=int)
    votes = Counter(vote for rater in raters for vote in rater.values())
    wins = []
    for number in rated:
        given = [rater[number] for rater in raters if number in rater]
        wins.append((sum(given) / len(given) + 1) / 2)
    return {
        "adapter_revision": content.get("adapter_revision"),
        "raters": len(raters),
        "questions": len(rated),
        "votes": {"tuned": votes[1], "same": votes[0], "base": votes[-1]},
        "win_rate": rounded(bootstrap_mean(wins)),
        "agreement": _agreement(raters),
        "agreement_is": "Cohen's kappa with quadratic weights, mean over pairs of raters",
    }
