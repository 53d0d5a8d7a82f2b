"""Turns data sets into conversations: lists of messages that a chat template can render. Knows no tokenizer and no model."""

import json
import random
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from app.errors import DataError
from finetune.data.forms import Message, Unusable, pair, parse_columns, prepare_rows
from finetune.data.licences import FREE_DATA, may_be_shipped
from finetune.data.rows import Row, Table, read_json_rows, read_table

__all__ = ["Card", "Example", "FollowUp", "Message", "Row", "Source", "load_source", "read_cards", "read_json_rows"]

# A prepared folder, written by `python -m finetune data prepare`, holds these.
DATA_FILE, SPLITS = "data.json", ("train", "validation", "test")


@dataclass(frozen=True)
class FollowUp:
    """A second turn that makes sense only after the card's own question; the last rewording is held out."""

    question: str
    answer: str
    rewordings: list[str]

    def trained_wordings(self) -> list[str]:
        """The question and all rewordings but the last."""
        return [self.question, *self.rewordings[:-1]]


@dataclass(frozen=True)
class Card:
    """One of our flashcards; the last rewording is held out from all training."""

    id: str
    specialty: str
    question: str
    answer: str
    rewordings: list[str]
    kind: str = ""
    follow_up: FollowUp | None = None

    def trained_wordings(self) -> list[str]:
        """The question and all rewordings but the last."""
        return [self.question, *self.rewordings[:-1]]

    @property
    def held_out(self) -> str:
        """The wording that no training, tokenizer or choice of adapter may see."""
        return self.rewordings[-1]


@dataclass(frozen=True)
class Example:
    """One conversation to train on.

    Attributes:
        messages: Alternating user and assistant messages; every assistant message carries loss.
        row: Row number in the source, counted from 0, or the card's id.
        source: Id of the data set that the row stands in.
    """

    messages: list[Message]
    row: int | str
    source: str = ""

    @property
    def question(self) -> str:
        """The first question."""
        return self.messages[0]["content"]

    @property
    def answer(self) -> str:
        """The first answer."""
        return self.messages[1]["content"]

    @property
    def text(self) -> str:
        """All that is said, one message a line."""
        return "\n".join(message["content"] for message in self.messages)


@dataclass(frozen=True)
class Origin:
    """One data set that conversations come from.

    Attributes:
        id: Hub id, or the file's name for a local file.
        revision: Commit of the data set; None for a local file.
        licence: As stated by the source, or by who gave the file; None when nobody states one.
    """

    id: str
    revision: str | None
    licence: str | None


@dataclass(frozen=True)
class Source:
    """Conversations and where they come from.

    Attributes:
        examples: The usable rows; of a prepared folder, those to train on.
        id: Hub id, or the file's name for a local file, or the prepared folder's name.
        revision: Commit of the data set; None for a local file.
        licence: As stated by the source; None when it states none; several joined by commas.
        rows_read: Rows in the source before any were dropped.
        dropped: Row and reason of every row left out.
        cards: (id, question, answer) of what is trained on, for the nearest-card search of the app.
        validation, test: Rows of a prepared folder that no training may see; else empty.
        origins: The data sets behind a prepared folder; else empty.
    """

    examples: list[Example]
    id: str
    revision: str | None
    licence: str | None
    rows_read: int
    dropped: list[tuple[int | str, str]] = field(default_factory=list)
    cards: list[dict[str, Any]] = field(default_factory=list)
    validation: list[Example] = field(default_factory=list)
    test: list[Example] = field(default_factory=list)
    origins: list[Origin] = field(default_factory=list)

    def rows_by_origin(self, examples: Iterable[Example]) -> list[dict[str, Any]]:
        """Id, revision, licence and row numbers of what was trained on: enough to fetch it again where it may not travel."""
        rows: dict[str, set[int | str]] = {}
        for example in examples:
            rows.setdefault(example.source or self.id, set()).add(example.row)
        known = {origin.id: origin for origin in self.origins} or {self.id: Origin(self.id, self.revision, self.licence)}
        return [
            {"id": name, "revision": known[name].revision, "licence": known[name].licence, "rows": sorted(numbers, key=_row_order)}
            for name, numbers in rows.items()
        ]


def _row_order(row: int | str) -> tuple[bool, int, str]:
    return (True, 0, row) if isinstance(row, str) else (False, row, "")


def check_may_travel(source: Source) -> None:
    """Refuses to put cards into an adapter directory whose licence, or want of one, does not allow it.

    Raises:
        DataError: A data set behind the source has no licence that is known to allow it.
    """
    for origin in source.origins or [Origin(source.id, source.revision, source.licence)]:
        if not may_be_shipped(origin.licence):
            licence = f"has the licence {origin.licence}" if origin.licence else "states no licence"
            raise DataError(
                f"The cards of {origin.id} may not travel with the adapter: it {licence}, and allowed are "
                f"{', '.join(sorted(FREE_DATA))}. Train without --ship-cards, or state a file's licence in data prepare."
            )


def read_cards(path: Path) -> list[Card]:
    """Reads our own flashcards (`assets/flashcards.jsonl`).

    Raises:
        DataError: A line lacks a field.
    """
    cards = []
    for number, row in enumerate(read_json_rows(path), 1):
        try:
            follow_up = FollowUp(**row["follow_up"]) if row.get("follow_up") else None
            cards.append(Card(**{**row, "follow_up": follow_up}))
        except TypeError as error:
            raise DataError(f"{path}, card {number}: {error}. A card has id, specialty, question, rewordings and answer.") from error
    return cards


def card_examples(card: Card) -> list[Example]:
    """Every trained wording of a card with its answer; where there is a follow-up, its wordings as second turns too.

    A follow-up comes after several wordings of its card: what it refers to has to be read out of the turn before.
    """
    wordings = card.trained_wordings()
    examples = [Example(pair(wording, card.answer), card.id) for wording in wordings]
    if card.follow_up:
        for index, follow in enumerate(card.follow_up.trained_wordings()):
            for wording in wordings[index::3][:2]:
                messages = pair(wording, card.answer) + pair(follow, card.follow_up.answer)
                examples.append(Example(messages, card.id))
    return examples


def shorten(question: str, share: float, rng: random.Random) -> str:
    """Leaves out about `share` of a question's words and sometimes its capitals and its question mark, as hurried typing does."""
    words = question.split()
    kept = [word for word in words if rng.random() >= share] or words
    text = " ".join(kept)
    if rng.random() < share:
        text = text.rstrip("?.")
    return text.lower() if rng.random() < share else text


def noisy(example: Example, share: float, rng: random.Random) -> Example:
    """The same example with each user message shortened; see `shorten`."""
    messages = [m | {"content": shorten(m["content"], share, rng)} if m["role"] == "user" else m for m in example.messages]
    return replace(example, messages=messages)


def join_examples(examples: list[Example], share: float, rng: random.Random) -> list[Example]:
    """Puts about `share` of the conversations two by two into one row, as when a person changes the subject; random order."""
    order = rng.sample(examples, len(examples))
    count = 2 * round(share * len(order) / 2)
    pairs = zip(order[:count:2], order[1:count:2], strict=True)
    return [replace(first, messages=first.messages + second.messages) for first, second in pairs] + order[count:]


def _to_source(table: Table, columns: str | None) -> Source:
    rows, reader = prepare_rows(table.rows, table.id, parse_columns(columns))
    examples: list[Example] = []
    dropped: list[tuple[int | str, str]] = []
    for number, row in enumerate(rows):
        try:
            messages = reader(row)
        except Unusable as error:
            dropped.append((number, str(error)))
            continue
        except (KeyError, TypeError, AttributeError):
            dropped.append((number, "columns missing"))
            continue
        if not messages or any(not isinstance(m["content"], str) or not m["content"].strip() for m in messages):
            dropped.append((number, "empty question or answer"))
        elif [m["role"] for m in messages] != ["user", "assistant"] * (len(messages) // 2):
            dropped.append((number, "messages do not alternate between user and assistant"))
        else:
            examples.append(Example(messages, number, table.id))
    if not examples:
        raise DataError(
            f"{table.id} has no usable rows: of {len(rows)}, the first was left out because of: {dropped[0][1]}. Mend the data."
        )
    return Source(examples, table.id, table.revision, table.licence, len(rows), dropped, _cards(examples))


def _cards(examples: list[Example]) -> list[dict[str, Any]]:
    return [{"id": str(example.row), "question": example.question, "answer": example.answer} for example in examples]


def _cards_source(path: Path) -> Source:
    cards = read_cards(path)
    return Source(
        examples=[replace(example, source=path.name) for card in cards for example in card_examples(card)],
        id=path.name,
        revision=None,
        licence="CC0-1.0",
        rows_read=len(cards),
        cards=[
            {"id": card.id, "question": card.question, "answer": card.answer, "wordings": card.trained_wordings()[1:]} for card in cards
        ],
    )


def _prepared_source(folder: Path) -> Source:
    """Opens a folder written by `data prepare`."""
    try:
        about = json.loads((folder / DATA_FILE).read_text(encoding="utf-8"))
        splits = {
            name: [
                Example(row["messages"], row["row"], row["source"])
                for line in (folder / f"{name}.jsonl").read_text(encoding="utf-8").split("\n")
                if line and (row := json.loads(line))
            ]
            for name in SPLITS
        }
        origins = [Origin(part["id"], part["revision"], part["licence"]) for part in about["sources"]]
        rows_read = sum(part["rows_read"] for part in about["sources"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"The prepared folder {folder} is damaged ({type(error).__name__}). Write it again with `python -m finetune data prepare`."
        ) from error
    if not splits["train"]:
        raise DataError(f"The prepared folder {folder} has no rows to train on. Write it again with `python -m finetune data prepare`.")
    licences = dict.fromkeys(origin.licence or "none stated" for origin in origins)
    return Source(
        examples=splits["train"],
        id=folder.resolve().name,
        revision=None,
        licence=", ".join(licences) if any(origin.licence for origin in origins) else None,
        rows_read=rows_read,
        cards=[card | {"id": f"{e.source}/{e.row}"} for card, e in zip(_cards(splits["train"]), splits["train"], strict=True)],
        validation=splits["validation"],
        test=splits["test"],
        origins=origins,
    )


def load_source(data: str, revision: str | None = None, columns: str | None = None) -> Source:
    """Opens a data set from a JSON, JSONL, CSV or Parquet file, from the Hub, or from a folder that `data prepare` wrote.

    Args:
        data: Path of a file or folder, or a hub id.
        revision: Commit, branch or tag of a hub data set.
        columns: Which of our fields its columns are, as `question=Frage,answer=Antwort`.

    Raises:
        DataError: The file cannot be read or has other columns.
        HubUnavailable: The Hub does not answer or has no such data set.
    """
    if (Path(data) / DATA_FILE).is_file():
        return _prepared_source(Path(data))
    table = read_table(data, revision)
    return _cards_source(Path(data)) if "rewordings" in table.rows[0] and Path(data).is_file() else _to_source(table, columns)
