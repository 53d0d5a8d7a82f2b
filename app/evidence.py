"""Finds the training cards nearest to a question, and says how far away they are. Knows no model, no tokenizer, no page."""

import re
from collections import Counter
from dataclasses import dataclass
from math import log
from typing import Any

import bm25s

# A question whose informative words stand to less than this share in its nearest card counts as far from all of them.
FAR_BELOW = 0.5
# A later question with fewer informative words than this leans on the question before it.
FEWEST_WORDS = 3

_WORD = re.compile(r"[a-z0-9]+")
_STOPWORDS = frozenset(bm25s.stopwords.STOPWORDS_EN_PLUS)


@dataclass(frozen=True)
class NearCard:
    """A training card and how near a question is to it.

    Attributes:
        coverage: Share of the question's words, weighted by how rare they are among the cards, that stand in the card; 0 to 1.
    """

    id: str
    question: str
    answer: str
    coverage: float


def _words(text: str) -> list[str]:
    return [word.rstrip("s") if len(word) > 3 else word for word in _WORD.findall(text.lower()) if word not in _STOPWORDS]


class Evidence:
    """An index over training cards.

    Args:
        cards: Rows with `id`, `question`, `answer` and, optionally, `wordings`: other ways of asking.
    """

    def __init__(self, cards: list[dict[str, Any]]) -> None:
        self._cards = cards
        texts = [_words(" ".join([card["question"], *card.get("wordings", []), card["answer"]])) for card in cards]
        self._sets = [set(words) for words in texts]
        counts = Counter(word for words in self._sets for word in words)
        self._rarity = {word: log(1 + len(cards) / count) for word, count in counts.items()}
        self._unseen = log(1 + 2 * len(cards)) if cards else 1.0
        self._index = None
        if cards:
            self._index = bm25s.BM25()
            self._index.index(texts, show_progress=False)

    def __len__(self) -> int:
        return len(self._cards)

    def nearest(self, question: str, count: int = 3) -> list[NearCard]:
        """The nearest cards, nearest first; none where the question shares no word with any card."""
        words = [word for word in _words(question) if word in self._rarity]
        if self._index is None or not words:
            return []
        rows, scores = self._index.retrieve([words], k=min(count, len(self._cards)), show_progress=False)
        found = []
        for row, score in zip(rows[0], scores[0], strict=True):
            if score > 0:  # bm25s fills up with arbitrary cards of score 0
                card = self._cards[int(row)]
                found.append(NearCard(str(card["id"]), card["question"], card["answer"], self._coverage(question, int(row))))
        return found

    def is_far(self, question: str, follow_up: bool = False) -> bool:
        """Whether the question is far from every card, so that an answer to it rests on nothing that was trained.

        Args:
            question: The question.
            follow_up: It comes after another question; with few words of its own ("How is it treated?") it cannot be judged alone
                and counts as near.
        """
        if follow_up and len(set(_words(question))) < FEWEST_WORDS:
            return False
        return max((card.coverage for card in self.nearest(question)), default=0.0) < FAR_BELOW

    def _coverage(self, question: str, row: int) -> float:
        weights = {word: self._rarity.get(word, self._unseen) for word in set(_words(question))}
        total = sum(weights.values())
        return sum(weight for word, weight in weights.items() if word in self._sets[row]) / total if total else 0.0
