"""Which questions an adapter is measured on: sets drawn from our flashcards or from any data set. Knows no model."""

import hashlib
import json
import random
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from app.errors import DataError
from finetune.data.files import read_file
from finetune.data.sources import MAX_DROPPED, Card, Message, is_flashcards, load_source, read_cards
from finetune.evaluation.scoring import Item


@dataclass(frozen=True)
class QuestionSet:
    """Questions that are measured together.

    Attributes:
        key: Used in the keys of measures.
        title: What it is called on the terminal and in the report.
        note: One sentence on what it shows.
        control: It was trained on and shows what the model has learned by heart, not what it can do.
        unseen: No wording of these questions was in the training data.
    """

    key: str
    title: str
    note: str
    items: list[Item]
    control: bool = False
    unseen: bool = False
    left_out: int = 0


def _user(text: str) -> Message:
    return {"role": "user", "content": text}


def trained_items(cards: list[Card], seed: int = 0) -> list[Item]:
    """One trained wording of each card, drawn by seed."""
    rng = random.Random(seed)
    return [Item([_user(rng.choice(card.trained_wordings()))], card.answer, card.id) for card in cards]


def held_out_items(cards: list[Card]) -> list[Item]:
    """The held-out wording of each card."""
    return [Item([_user(card.held_out)], card.answer, card.id) for card in cards]


def follow_up_items(cards: list[Card]) -> list[Item]:
    """The held-out wording of each second turn, after the card's question and answer."""
    return [
        Item(
            [_user(card.question), {"role": "assistant", "content": card.answer}, _user(card.follow_up.rewordings[-1])],
            card.follow_up.answer,
            card.id,
        )
        for card in cards
        if card.follow_up
    ]


def sample(rows: list[Any], limit: int | None) -> list[Any]:
    """At most `limit` rows, drawn by a fixed seed."""
    return random.Random(0).sample(rows, limit) if limit is not None and limit < len(rows) else rows


def card_sets(cards: list[Card], trained: set[str], limit: int | None) -> list[QuestionSet]:
    """The sets that flashcards give: wordings held out from training, cards never trained on, and a trained wording as a control.

    Args:
        cards: All cards of the file.
        trained: Ids of the cards that the adapter was trained on.
        limit: Only so many cards, drawn by a fixed seed.
    """
    known = sample([card for card in cards if card.id in trained], limit)
    unknown = sample([card for card in cards if card.id not in trained], limit)
    sets = [
        QuestionSet(
            "trained", "trained wording", "Questions exactly as in training: what was learned by heart.", trained_items(known), True
        ),
        QuestionSet(
            "held_out", "held-out wording", "Cards that were trained on, asked in words that training never saw.", held_out_items(known)
        ),
        QuestionSet(
            "second_turn",
            "second turn, held-out wording",
            "A question that makes sense only after the one before it, in words that training never saw.",
            follow_up_items(known),
        ),
        QuestionSet(
            "never_trained",
            "cards never trained on",
            "Neither question nor answer was in the training data.",
            held_out_items(unknown),
            unseen=True,
        ),
    ]
    return [found for found in sets if found.items]


def trained_rows(run: dict[str, Any], name: str) -> set[str]:
    """The rows of a data set that an adapter was trained on, whether it was named itself or went into a prepared folder.

    Args:
        run: The adapter's `run.json`, which writes row numbers as texts in one place and as numbers in the other.
        name: Hub id or file name of the data set.
    """
    trained = run.get("data") or {}
    return {str(row) for part in (trained, *trained.get("origins", [])) if part.get("id") == name for row in part.get("rows", [])}


def data_sets(
    data: str,
    run: dict[str, Any],
    limit: int | None,
    columns: str | None = None,
    encoding: str | None = None,
    max_dropped: float = MAX_DROPPED,
) -> list[QuestionSet]:
    """The question sets of one data set: of flashcards as `card_sets`, else its test rows, or those that training did not use.

    Args:
        data: A file, a folder or a hub id.
        run: The adapter's `run.json`.
        limit: Only so many questions, drawn by a fixed seed.
        columns: As in `load_source`.
        encoding: As in `load_source`.
        max_dropped: As in `load_source`.

    Raises:
        DataError: Every row was trained on.
        HubUnavailable: It is a hub id, and the Hub did not answer.
    """
    path = Path(data)
    if path.is_file() and is_flashcards(read_file(path, encoding)):
        return card_sets(read_cards(path), trained_rows(run, path.name), limit)
    source = load_source(data, None, columns, encoding, max_dropped)
    source.log_losses()
    rows, note = source.test, "The test rows of the data set, kept from training."
    if not rows:
        used = trained_rows(run, source.id)
        rows = [example for example in source.usable if str(example.row) not in used]
        note = "The rows that training did not use." if used else "All rows; the adapter was trained on other data."
    if not rows:
        raise DataError(f"The adapter was trained on every row of {data}, so none is left to test it. Give other questions with --data.")
    items = [Item(row.messages[:-1], row.messages[-1]["content"], str(row.row)) for row in sample(rows, limit)]
    return [QuestionSet(path.stem, f"{source.id}, held-out rows", note, items, unseen=True)]


def digest(sets: list[QuestionSet]) -> str:
    """A hash over all questions and references."""
    content = [[asdict(item) for item in found.items] for found in sets]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
