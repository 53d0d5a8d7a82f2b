"""Turns data sets into conversations: lists of messages that a chat template can render. Knows no tokenizer and no model."""

import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from app.errors import DataError, HubUnavailable

Message = dict[str, str]
Row = dict[str, Any]

MEDICAL_MEADOW = "medalpaca/medical_meadow_medical_flashcards"


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
    """

    messages: list[Message]
    row: int | str


@dataclass(frozen=True)
class Source:
    """Conversations and where they come from.

    Attributes:
        examples: The usable rows.
        id: Hub id, or the file's name for a local file.
        revision: Commit of the data set; None for a local file.
        licence: As stated by the source; None when it states none.
        rows_read: Rows in the source before any were dropped.
        dropped: Row and reason of every row left out.
        cards: (id, question, answer) of what is trained on, for the nearest-card search of the app.
    """

    examples: list[Example]
    id: str
    revision: str | None
    licence: str | None
    rows_read: int
    dropped: list[tuple[int | str, str]] = field(default_factory=list)
    cards: list[dict[str, Any]] = field(default_factory=list)


def read_json_rows(path: Path) -> list[Row]:
    """Reads a JSON array of objects, or JSON lines.

    Raises:
        DataError: The file is missing, empty, or a line is no JSON object; the message names the line.
    """
    if not path.is_file():
        raise DataError(f"There is no data file {path}. Give a JSON or JSONL file, or a data set id such as {MEDICAL_MEADOW}.")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text (byte {error.start}). Save it as UTF-8 and try again.") from error
    rows: list[Row] = []
    if text.lstrip().startswith("["):
        try:
            rows = json.loads(text)
        except json.JSONDecodeError as error:
            raise DataError(f"{path} is not valid JSON: line {error.lineno}, {error.msg}. Mend that place and try again.") from error
    else:
        for number, line in enumerate(text.split("\n"), 1):
            if not line.strip():
                continue
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError as error:
                raise DataError(
                    f"{path}, line {number} is not valid JSON ({error.msg}). Mend or delete that line and try again."
                ) from error
    if not rows or not all(isinstance(row, dict) for row in rows):
        raise DataError(
            f"{path} holds no rows of the form {{'question': ..., 'answer': ...}}. See the README for the columns that are read."
        )
    return rows


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


def _message_pair(question: str, answer: str) -> list[Message]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def card_examples(card: Card) -> list[Example]:
    """Every trained wording of a card with its answer; where there is a follow-up, its wordings as second turns too.

    A follow-up comes after several wordings of its card: what it refers to has to be read out of the turn before.
    """
    wordings = card.trained_wordings()
    examples = [Example(_message_pair(wording, card.answer), card.id) for wording in wordings]
    if card.follow_up:
        for index, follow in enumerate(card.follow_up.trained_wordings()):
            for wording in wordings[index::3][:2]:
                messages = _message_pair(wording, card.answer) + _message_pair(follow, card.follow_up.answer)
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


def _meadow(row: Row) -> list[Message]:
    return _message_pair(row["input"], row["output"])


def _question_answer(row: Row) -> list[Message]:
    return _message_pair(row["question"], row["answer"])


def _messages(row: Row) -> list[Message]:
    return [{"role": m["role"], "content": m["content"]} for m in row["messages"]]


def join_examples(examples: list[Example], share: float, rng: random.Random) -> list[Example]:
    """Puts about `share` of the conversations two by two into one row, as when a person changes the subject; random order."""
    order = rng.sample(examples, len(examples))
    count = 2 * round(share * len(order) / 2)
    pairs = zip(order[:count:2], order[1:count:2], strict=True)
    return [replace(first, messages=first.messages + second.messages) for first, second in pairs] + order[count:]


# The columns that mark a kind of data set, and how one of its rows becomes messages; the first whose columns are all there is taken.
READERS: list[tuple[frozenset[str], Callable[[Row], list[Message]]]] = [
    (frozenset({"messages"}), _messages),
    (frozenset({"input", "output"}), _meadow),
    (frozenset({"question", "answer"}), _question_answer),
]


def _rows_to_source(rows: list[Row], identifier: str, revision: str | None, licence: str | None) -> Source:
    columns = set(rows[0])
    reader = next((reader for wanted, reader in READERS if wanted <= columns), None)
    if reader is None:
        accepted = "; ".join(" and ".join(sorted(wanted)) for wanted, _ in READERS)
        raise DataError(
            f"{identifier} has the columns {', '.join(sorted(columns))}. Training reads one of: {accepted}. Rename the columns."
        )
    examples: list[Example] = []
    dropped: list[tuple[int | str, str]] = []
    for number, row in enumerate(rows):
        try:
            messages = reader(row)
        except (KeyError, TypeError):
            dropped.append((number, "columns missing"))
            continue
        if not messages or any(not isinstance(m["content"], str) or not m["content"].strip() for m in messages):
            dropped.append((number, "empty question or answer"))
        elif [m["role"] for m in messages] != ["user", "assistant"] * (len(messages) // 2):
            dropped.append((number, "messages do not alternate between user and assistant"))
        else:
            examples.append(Example(messages, number))
    if not examples:
        raise DataError(
            f"{identifier} has no usable rows: of {len(rows)}, the first was left out because of: {dropped[0][1]}. Mend the data."
        )
    cards = [
        {"id": str(example.row), "question": example.messages[0]["content"], "answer": example.messages[1]["content"]}
        for example in examples
    ]
    return Source(examples, identifier, revision, licence, len(rows), dropped, cards)


def load_source(data: str, revision: str | None = None) -> Source:
    """Opens a data set from a local JSON/JSONL file or from the Hub.

    Args:
        data: Path of a file, or a hub id.
        revision: Commit, branch or tag of a hub data set.

    Raises:
        DataError: The file cannot be read or has other columns.
        HubUnavailable: The Hub does not answer or has no such data set.
    """
    path = Path(data)
    if path.suffix in {".json", ".jsonl"} or path.exists():
        rows = read_json_rows(path)
        if "rewordings" in rows[0]:
            cards = read_cards(path)
            return Source(
                examples=[example for card in cards for example in card_examples(card)],
                id=path.name,
                revision=None,
                licence="CC0-1.0",
                rows_read=len(cards),
                cards=[
                    {"id": card.id, "question": card.question, "answer": card.answer, "wordings": card.trained_wordings()[1:]}
                    for card in cards
                ],
            )
        return _rows_to_source(rows, path.name, None, None)
    return _load_hub_source(data, revision)


def _load_hub_source(data: str, revision: str | None) -> Source:
    import datasets
    import httpx
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError

    try:
        info = huggingface_hub.HfApi().dataset_info(data, revision=revision)
        rows = datasets.load_dataset(data, revision=info.sha, split="train").to_list()
    except (HfHubHTTPError, httpx.HTTPError, OSError, ValueError) as error:
        raise HubUnavailable(
            f"The data set {data} could not be fetched from the Hub ({type(error).__name__}). Check the name and the network, "
            "or give a local JSON or JSONL file with --data."
        ) from error
    licence = info.card_data.get("license") if info.card_data else None
    return _rows_to_source(rows, data, info.sha, ", ".join(licence) if isinstance(licence, list) else licence)
