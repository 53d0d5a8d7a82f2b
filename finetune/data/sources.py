"""Turns data sets into conversations: lists of messages that a chat template can render. Knows no tokenizer and no model."""

import json
import logging
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from app.errors import DataError
from finetune.data.files import BLANK, Row, Rows, read_json_rows
from finetune.data.flashcards import Card, FollowUp, read_cards
from finetune.data.forms import Reader, parse_columns, prepare_rows, unread
from finetune.data.licences import FREE_DATA, may_be_shipped
from finetune.data.rows import TRAIN, Table, read_table
from finetune.data.turns import Message, check_turns, has_loss, pair
from finetune.data.values import Unusable

__all__ = ["Card", "Example", "FollowUp", "Message", "Row", "Source", "load_source", "read_cards", "read_json_rows"]

log = logging.getLogger(__name__)

# A prepared folder, written by `python -m finetune data prepare`, holds these.
DATA_FILE, SPLITS = "data.json", ("train", "validation", "test")
MAX_DROPPED = 0.3  # share of the rows that may be left out before somebody has to look


@dataclass(frozen=True)
class Example:
    """One conversation to train on.

    Attributes:
        messages: Alternating user and assistant messages; every assistant message carries loss, but for those with `weight` 0.
        row: Row number in the source, counted from 0, or the card's id; of a split that training may not see, "test/0".
        source: Id of the data set that the row stands in.
        brings_text: The question holds the text or the options that it speaks of.
        split: The split that the data set itself puts the row into, where it has several.
    """

    messages: list[Message]
    row: int | str
    source: str = ""
    brings_text: bool = False
    split: str = ""

    @property
    def question(self) -> str:
        """The first question whose answer is to be learned."""
        return str(self.messages[self._place]["content"])

    @property
    def answer(self) -> str:
        """The answer to it."""
        return str(self.messages[self._place + 1]["content"])

    @property
    def _place(self) -> int:
        return next((place for place in range(0, len(self.messages) - 1, 2) if has_loss(self.messages[place + 1])), 0)

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
        mended: Row and reason of every row of which something is written otherwise than it stands in the source.
        cards: (id, question, answer) of what is trained on, for the nearest-card search of the app.
        columns_left_out: Columns that the reader of these rows does not look at.
        validation, test: Rows of a prepared folder, or of a data set's own splits, that no training may see; else empty.
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
    mended: list[tuple[int | str, str]] = field(default_factory=list)
    columns_left_out: list[str] = field(default_factory=list)

    def losses(self) -> list[str]:
        """One line for each reason for which rows were left out or written otherwise, with the first of their numbers."""
        lines = []
        for done, found in (("left out", self.dropped), ("written otherwise", self.mended)):
            grouped: dict[str, list[int | str]] = {}
            for row, reason in found:
                grouped.setdefault(reason, []).append(row)
            for reason, rows in sorted(grouped.items(), key=lambda item: -len(item[1])):
                first = ", ".join(map(str, rows[:5])) + (", ..." if len(rows) > 5 else "")
                lines.append(f"{self.id}: {len(rows)} rows {done}: {reason} (rows {first})")
        return lines

    def log_losses(self) -> None:
        """Writes `losses` to the log: numbers of rows and reasons, no text."""
        for line in self.losses():
            log.info("%s", line)

    @property
    def usable(self) -> list[Example]:
        """The rows of all splits, those that no training may see first, so that of two duplicates they stay."""
        return [*self.test, *self.validation, *self.examples]

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


def _read_split(rows: list[Row], refused: dict[int, str], reader: Reader, name: str, split: str) -> Source:
    """The conversations of one split; `split` is empty where a data set has but one."""
    found = Source([], name, None, None, len(rows))
    for number, row in enumerate(rows):
        place = f"{split}/{number}" if split and split != TRAIN else number
        try:
            if number in refused:
                raise Unusable(refused[number])
            reading = reader(row)
            check_turns(reading.messages)
        except Unusable as error:
            found.dropped.append((place, str(error)))
            continue
        found.examples.append(Example(reading.messages, place, name, reading.brings_text, split))
        found.mended.extend((place, note) for note in dict.fromkeys(reading.notes))
    return found


def _to_source(table: Table, columns: str | None, max_dropped: float) -> Source:
    everything = [row for part in table.splits.values() for row in part.rows]
    mapping = parse_columns(columns)
    rows, reader = prepare_rows(everything, table.id, mapping)
    parts: dict[str, Source] = {}
    start = 0
    for split, part in table.splits.items():
        mine = rows[start : start + len(part.rows)]
        parts[split] = _read_split(mine, part.refused, reader, table.id, split if len(table.splits) > 1 else "")
        start += len(part.rows)
    if len(parts) == 1:
        parts = {TRAIN: next(iter(parts.values()))}
    examples = {split: parts[split].examples if split in parts else [] for split in SPLITS}
    source = Source(
        examples=examples[TRAIN],
        id=table.id,
        revision=table.revision,
        licence=table.licence,
        rows_read=sum(part.rows_read for part in parts.values()),
        dropped=[found for part in parts.values() for found in part.dropped],
        cards=_cards(examples[TRAIN]),
        validation=examples["validation"],
        test=examples["test"],
        mended=[found for part in parts.values() for found in part.mended],
        columns_left_out=unread(everything, mapping),
    )
    if not source.usable:
        raise DataError(f"{table.id} has no usable rows: all {source.rows_read} were left out ({_reasons(source.dropped)}). Mend the data.")
    cure = "See them with `data inspect`, mend the data, or raise --max-dropped."
    check_dropped(f"{table.id}:", [reason for _, reason in source.dropped], source.rows_read, max_dropped, cure)
    return source


def _reasons(dropped: list[tuple[int | str, str]]) -> str:
    return summary([reason for _, reason in dropped])


def summary(reasons: list[str]) -> str:
    """The three most frequent reasons with their counts."""
    return "; ".join(f"{count}: {reason}" for reason, count in Counter(reasons).most_common(3))


def check_dropped(name: str, reasons: list[str], read: int, most: float, cure: str) -> None:
    """Stops where a larger share of the rows than allowed falls out; blank rows are none.

    Args:
        name: Begins the sentence.
        reasons: One for each row left out.
        read: All rows.
        most: The share that may be left out.
        cure: Ends the message.

    Raises:
        DataError: More are left out.
    """
    blank = reasons.count(BLANK)
    if len(reasons) - blank > most * (read - blank):
        counted = summary([reason for reason in reasons if reason != BLANK])
        start = f"{name} " if name else ""
        raise DataError(f"{start}{len(reasons) - blank} of {read - blank} rows would be dropped, more than {most:.0%} ({counted}). {cure}")


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


def is_flashcards(rows: Rows) -> bool:
    """Whether these are cards of our own form, with rewordings."""
    return bool(rows.rows) and "rewordings" in rows.rows[0]


def load_source(
    data: str, revision: str | None = None, columns: str | None = None, encoding: str | None = None, max_dropped: float = MAX_DROPPED
) -> Source:
    """Opens a data set from a file, a folder with files of splits, the Hub, or a folder that `data prepare` wrote.

    Args:
        data: Path of a file or folder, or a hub id; see `finetune.data.rows.read_table`.
        revision: Commit, branch or tag of a hub data set.
        columns: Which of our fields its columns are, as `question=Frage,answer=Antwort`.
        encoding: Encoding of text files that state none and are not UTF-8.
        max_dropped: Share of the rows that may be left out.

    Raises:
        DataError: The file cannot be read, has other columns, or too many of its rows cannot be used.
        HubUnavailable: The Hub does not answer or has no such data set.
    """
    if (Path(data) / DATA_FILE).is_file():
        return _prepared_source(Path(data))
    table = read_table(data, revision, encoding)
    if Path(data).is_file() and is_flashcards(table.splits[TRAIN]):
        return _cards_source(Path(data))
    return _to_source(table, columns, max_dropped)
