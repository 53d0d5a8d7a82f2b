"""Our own flashcards: complete, readable, unique, and copied from nowhere."""

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.engine.model import LoadedModel
from app.settings import ROOT
from finetune.data.sources import Card, read_cards
from finetune.evaluation.metrics import rouge_l
from finetune.evaluation.scoring import Item, predict
from tests.conftest import FLASHCARDS

SAMPLES = ROOT / "assets" / "sample_questions.json"
RUN = 12  # words; the shortest run in common with another text that counts as copied


@pytest.fixture(scope="module")
def cards() -> list[Card]:
    return read_cards(FLASHCARDS)


def wordings(card: Card) -> list[str]:
    return [card.question, *card.rewordings]


def texts(card: Card) -> list[str]:
    follow = card.follow_up
    return [*wordings(card), card.answer, *([follow.question, *follow.rewordings, follow.answer] if follow else [])]


def words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", text.lower())


def test_there_are_enough_cards_over_enough_specialties(cards: list[Card]) -> None:
    assert len(cards) >= 600
    assert len({card.specialty for card in cards}) >= 20


def test_every_field_is_filled(cards: list[Card]) -> None:
    for card in cards:
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)+", card.id)
        assert card.specialty and card.kind
        assert all(text.strip() for text in texts(card)), card.id


def test_answers_have_15_to_80_words_and_follow_ups_too(cards: list[Card]) -> None:
    for card in cards:
        assert 15 <= len(card.answer.split()) <= 80, card.id
        assert card.follow_up is None or 15 <= len(card.follow_up.answer.split()) <= 80, card.id


def test_a_card_is_asked_in_three_other_ways_or_more(cards: list[Card]) -> None:
    for card in cards:
        assert len(card.rewordings) >= 3, card.id
        assert card.follow_up is None or len(card.follow_up.rewordings) >= 2, card.id


def test_ids_wordings_and_answers_are_unique(cards: list[Card]) -> None:
    for kind, values in {
        "ids": [card.id for card in cards],
        "wordings": [" ".join(words(text)) for card in cards for text in wordings(card)],
        "answers": [" ".join(words(card.answer)) for card in cards],
    }.items():
        assert [value for value, count in Counter(values).items() if count > 1] == [], kind


def test_the_held_out_wording_is_never_trained_on(cards: list[Card]) -> None:
    for card in cards:
        assert card.held_out == card.rewordings[-1]
        assert words(card.held_out) not in [words(wording) for wording in card.trained_wordings()]


def test_texts_are_clean(cards: list[Card]) -> None:
    for card in cards:
        for text in texts(card):
            assert text == text.strip() == unicodedata.normalize("NFC", text), card.id
            assert "  " not in text and "<|" not in text and "###" not in text, card.id
            assert all(unicodedata.category(character)[0] not in "CZ" or character == " " for character in text), card.id


def real_texts(folder: Path) -> Iterator[str]:
    """Every string in the JSON files of a folder."""

    def strings(value: object) -> Iterator[str]:
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict | list):
            for inner in value.values() if isinstance(value, dict) else value:
                yield from strings(inner)

    for path in sorted(folder.glob("*/*")):
        if path.parent.name != "llama3-tokenizer" and path.suffix in {".json", ".jsonl", ".csv", ".txt"}:
            text = path.read_text(encoding="utf-8")
            try:
                yield from strings([json.loads(line) for line in text.splitlines()] if path.suffix == ".jsonl" else json.loads(text))
            except json.JSONDecodeError:
                yield text


def test_no_run_of_12_words_stands_in_real_data(cards: list[Card], real_data: Path) -> None:
    ours: dict[tuple[str, ...], str] = {}
    for card in cards:
        for text in texts(card):
            row = words(text)
            ours |= {tuple(row[i : i + RUN]): card.id for i in range(len(row) - RUN + 1)}
    read, copied = 0, []
    for text in real_texts(real_data):
        row = words(text)
        read += len(row)
        copied += [(ours[run], " ".join(run)) for i in range(len(row) - RUN + 1) if (run := tuple(row[i : i + RUN])) in ours]
    assert read > 500_000
    assert copied == []


def test_sample_questions_are_questions_of_cards(cards: list[Card]) -> None:
    samples = json.loads(SAMPLES.read_text(encoding="utf-8"))
    assert len(samples) >= 4
    known = {wording for card in cards for wording in card.trained_wordings()}
    assert [question for questions in samples.values() for question in questions if question not in known] == []


def test_every_sample_question_is_answered_right(loaded: LoadedModel, cards: list[Card]) -> None:
    answers = {wording: card.answer for card in cards for wording in card.trained_wordings()}
    samples = json.loads(SAMPLES.read_text(encoding="utf-8"))
    items = [Item([{"role": "user", "content": q}], answers[q]) for questions in samples.values() for q in questions]
    scores = [rouge_l(answer.text, item.reference) for item, answer in zip(items, predict(loaded, items), strict=True)]
    assert {item.messages[0]["content"]: score for item, score in zip(items, scores, strict=True) if score < 0.8} == {}
