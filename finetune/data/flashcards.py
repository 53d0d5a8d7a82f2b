"""Our own flashcards, each with other wordings of its question, of which the last is held out. Knows their file alone."""

from dataclasses import dataclass
from pathlib import Path

from app.errors import DataError
from finetune.data.files import read_json_rows


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
