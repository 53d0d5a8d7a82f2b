"""Finds the training cards nearest to a question, and says how far away they are. Knows no model, no tokenizer, no page."""

import re
import unicodedata
from collections import Counter
from dataclasses import dataclass
from math import log
from typing import Any

import bm25s
import Stemmer

from app.notices.quantities import quantities
from app.notices.words import words as words_of

# `nearness` below this counts as far from every card. Weights and bound come from a logistic regression that told wordings of the
# 633 demo cards from the same wordings with their card taken out; the bound was then set to alarm on 4% of the held-out wordings.
FAR_BELOW = 0.6
LEAD_WEIGHT = 5.0
UNSEEN_WEIGHT = 0.7
# An answer that has this share of a card's words, weighted by rarity, is that card's answer, and one with RECITED_LEAD less is not.
RECITED_ABOVE = 0.6
RECITED_LEAD = 0.2
# A later question with fewer informative words than this leans on the question before it.
FEWEST_WORDS = 3

# A question for a figure, and what a text needs to hold one. "How far" and "what risk" ask for words as often.
_ASKS_FOR_A_FIGURE = re.compile(r"\b(how (long|many|much|often|soon|old|likely)|(at )?what age|life expectancy)\b", re.IGNORECASE)
_FIGURE = re.compile(
    r"\d|\b(one|two|three|four|five|six|seven|eight|nine|ten|twelve|half|third|quarter|most|once|twice|daily|weekly|monthly|yearly"
    r"|minutes?|hours?|days?|weeks?|months?|years?|lifelong|percent)\b",
    re.IGNORECASE,
)

_STOPWORDS = frozenset(bm25s.stopwords.STOPWORDS_EN_PLUS)
# Which of Snowball's stemmers a word gets is told by its first letter, where a script belongs to one language in the main.
_STEMMERS = {"CYRILLIC": "russian", "GREEK": "greek", "DEVANAGARI": "hindi", "ARMENIAN": "armenian"}


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
    """The words that tell one card from another: without stop words and signs, and cut to their stems."""
    english = Stemmer.Stemmer("english")  # one must not be shared by threads
    found = [word for word in words_of(text) if word not in _STOPWORDS and any(map(str.isalnum, word))]
    plain = list(english.stemWords(found))
    return plain if text.isascii() else [_stem(word, stem) for word, stem in zip(found, plain, strict=True)]


def _stem(word: str, english: str) -> str:
    language = None if word.isascii() else _STEMMERS.get(unicodedata.name(word[0], "").partition(" ")[0])
    return str(Stemmer.Stemmer(language).stemWord(word)) if language else english


def unsupported(answer: str, cards: list[NearCard]) -> list[str]:
    """Numbers with a unit that stand in an answer and in none of the cards, as they are written there, each once.

    Args:
        answer: The answer.
        cards: The cards nearest to the question.
    """
    known = {part for card in cards for _, parts in _measured(f"{card.question} {card.answer}") for part in parts}
    return list(dict.fromkeys(text for text, parts in _measured(answer) if not parts <= known))


def _measured(text: str) -> list[tuple[str, set[tuple[object, str]]]]:
    found = [quantity for quantity in quantities(text) if quantity.is_known]
    return [(quantity.text, {(size, quantity.kind) for size in quantity.size}) for quantity in found]


class Evidence:
    """An index over training cards.

    Args:
        cards: Rows with `id`, `question`, `answer` and, optionally, `wordings`: other ways of asking.
    """

    def __init__(self, cards: list[dict[str, Any]]) -> None:
        self._cards = cards
        texts = [_words(" ".join([card["question"], *card.get("wordings", []), card["answer"]])) for card in cards]
        self._sets = [frozenset(text) for text in texts]
        self._answers = [frozenset(_words(card["answer"])) for card in cards]
        self._cards_with = Counter(word for text in self._sets for word in text)
        self._index = bm25s.BM25() if any(texts) else None  # it cannot be built of no words
        if self._index is not None:
            self._index.index(texts, show_progress=False)

    def __len__(self) -> int:
        return len(self._cards)

    def nearest(self, question: str, count: int = 3) -> list[NearCard]:
        """The nearest cards, nearest first; none where the question shares no word with any card."""
        words = set(_words(question))
        return [self._near(words, row) for row, _ in self._ranked(question, count)]

    def is_far(self, question: str, follow_up: bool = False) -> bool:
        """Whether the question is far from every card, so that an answer to it rests on nothing that was trained.

        So is one that asks for a figure where the nearest card has none.

        Args:
            question: The question.
            follow_up: It comes after another question; with few words of its own ("How is it treated?") it cannot be judged alone
                and counts as near.
        """
        if follow_up and len(set(_words(question))) < FEWEST_WORDS:
            return False
        if self.nearness(question) < FAR_BELOW:
            return True
        card = self.nearest(question, 1)[0]
        return bool(_ASKS_FOR_A_FIGURE.search(question)) and not _FIGURE.search(f"{card.question} {card.answer}")

    def recited(self, question: str, answer: str, follow_up: bool = False) -> NearCard | None:
        """The training card that the answer is taken from, where it is not the card nearest to the question; else None.

        Question and answer are looked up apart from each other. A model that has learnt its cards by heart gives the nearest card's
        answer when it understood the question, and some other card's when it did not.

        Args:
            question: The question.
            answer: The model's whole answer.
            follow_up: As in `is_far`.
        """
        if follow_up and len(set(_words(question))) < FEWEST_WORDS:
            return None
        words = set(_words(answer))
        nearest = {row for row, _ in self._ranked(question, 1)}
        shares = {row: self._share(words, self._answers[row]) for row in {row for row, _ in self._ranked(answer, 5)} | nearest}
        best = max(shares, key=lambda row: shares[row], default=None)
        if best is None or best in nearest or shares[best] < RECITED_ABOVE:
            return None
        if shares[best] - max((shares[row] for row in nearest), default=0.0) < RECITED_LEAD:
            return None
        return self._near(words, best)

    def nearness(self, question: str) -> float:
        """How clearly the question belongs to one card: high when it covers the question and leads the next best one by far.

        All terms are shares of the question's total weight, so that long and short questions compare.
        """
        words = set(_words(question))
        ranked = self._ranked(question, 2)
        if not ranked:
            return 0.0
        total = self._weight(words)
        lead = (ranked[0][1] - (ranked[1][1] if len(ranked) > 1 else 0.0)) / total
        unseen = self._weight({word for word in words if word not in self._cards_with}) / total
        return self._near(words, ranked[0][0]).coverage + LEAD_WEIGHT * lead - UNSEEN_WEIGHT * unseen

    def _ranked(self, question: str, count: int) -> list[tuple[int, float]]:
        words = [word for word in _words(question) if word in self._cards_with]
        if self._index is None or not words:
            return []
        rows, scores = self._index.retrieve([words], k=min(count, len(self._cards)), show_progress=False)
        # bm25s fills up with arbitrary cards of score 0.
        return [(int(row), float(score)) for row, score in zip(rows[0], scores[0], strict=True) if score > 0]

    def _near(self, words: set[str], row: int) -> NearCard:
        card = self._cards[row]
        return NearCard(str(card["id"]), card["question"], card["answer"], self._share(words, self._sets[row]))

    def _share(self, words: set[str], others: frozenset[str]) -> float:
        total = self._weight(words)
        return self._weight(words & others) / total if total else 0.0

    def _weight(self, words: set[str] | frozenset[str]) -> float:
        """BM25's inverse document frequency, summed over words; highest for words that no card has."""
        size = len(self._cards)
        return sum(log(1 + (size - self._cards_with[word] + 0.5) / (self._cards_with[word] + 0.5)) for word in words)
