"""Which questions get a notice before the answer, and that the rules stay quick and quiet."""

import json
import re
import time
from pathlib import Path
from typing import get_args

import pytest

from app.notices.safety import NOTICES, Kind, find, read
from tests.conftest import FLASHCARDS
from tests.safety import counts, examples, first_sight, share, unseen


def kinds(question: str) -> list[str]:
    return [finding.kind for finding in find(question)]


def test_there_are_120_examples_of_both_sorts_and_none_twice() -> None:
    texts = [row["text"] for row in examples()]
    assert len(texts) == len(set(texts))
    assert sum(bool(row["kinds"]) for row in examples()) >= 120
    assert sum(not row["kinds"] for row in examples()) >= 120


@pytest.mark.parametrize("kind", get_args(Kind))
def test_precision_and_recall_on_our_examples(kind: Kind) -> None:
    hits, alarms, missed, _, wrong = counts(kind, {row["batch"] for row in examples()} - unseen())
    assert hits / (hits + missed) >= 0.97, wrong
    assert hits / (hits + alarms) >= 0.95, wrong


@pytest.mark.parametrize("kind", get_args(Kind))
def test_no_batch_fares_worse_than_at_first_sight(kind: Kind) -> None:
    for row in first_sight():
        hits, _, missed, _, wrong = counts(kind, {row["batch"]})
        assert hits / (hits + missed) >= row[kind]["hits"] / row[kind]["n"], wrong


def test_a_share_carries_wilsons_interval() -> None:
    assert share(8, 10) == "8/10 = 0.80 [0.49, 0.94]"  # as scipy.stats.binomtest has it


@pytest.mark.parametrize(
    ("somebody", "lesson"),
    [
        ("My face is drooping on one side", "Why does the face droop in Bell's palsy?"),
        ("My dad has crushing chest pain", "A 60-year-old man presents with crushing chest pain. Which drug comes first?"),
        ("My son's throat is swelling after peanuts", "What should be done when a child's throat swells after peanuts?"),
        ("I can't stop bleeding from my leg", "How is bleeding from the leg stopped?"),
        ("My husband had a stent two years ago and now has chest pain", "My husband had chest pain two years ago. What is a stent?"),
        ("I want to die", "How many people want to die before they take an overdose?"),
        ("How much ibuprofen can I give my son?", "What is the dose of ibuprofen in children?"),
    ],
)
def test_somebody_now_gets_a_notice_and_a_lesson_none(somebody: str, lesson: str) -> None:
    assert len(kinds(somebody)) == 1
    assert kinds(lesson) == []


def test_capitals_apostrophes_and_accents_do_not_matter() -> None:
    for text in ("I CAN'T BREATHE", "i cant breathe", "I can\u2019t breathe", "I c\u00e1n't breathe"):
        assert kinds(text) == ["emergency"], text


@pytest.mark.parametrize("name", ["emergency", "self_harm", "method", "dosing", "words"])
def test_rules_use_the_spelling_that_questions_are_brought_to(name: str) -> None:
    rules = read(name)["classes"] if name == "words" else "\n".join(rule["patterns"] for rule in read(name))
    words = {word.strip() for word in re.split(r"[|&\n]", rules)}
    spellings = read("words")["spellings"].values()
    assert [word for word in words for spelling in spellings if re.search(rf"\b(?:{spelling})\b", word)] == []


def test_a_question_for_the_means_of_harm_gets_no_answer_and_grief_does() -> None:
    (means,) = find("how many paracetamol would it take to kill me")
    assert means.kind == "self_harm" and means.withholds
    (thought,) = find("I don't want to be alive anymore")
    assert thought.kind == "self_harm" and not thought.withholds
    assert not find("My face is drooping on one side")[0].withholds


def test_every_kind_has_a_notice_that_begins_with_what_to_do() -> None:
    assert set(NOTICES) == set(get_args(Kind))
    assert "emergency number first" in NOTICES["emergency"]


@pytest.mark.parametrize(
    "text", ["my chest hurts " * 270, "a " * 2000, "a 3 year old " * 300, "if my x " * 500, "took pills to kill me " * 180]
)
def test_the_longest_question_does_not_hold_the_page_up(text: str) -> None:
    started = time.process_time()
    find(text[:4000])
    assert time.process_time() - started < 5  # a pattern that explodes takes minutes


def test_our_cards_hardly_get_notices() -> None:
    questions = [json.loads(line)["question"] for line in FLASHCARDS.read_text(encoding="utf-8").splitlines()]
    assert [question for question in questions if find(question)] == []


def test_real_cards_hardly_get_notices(real_data: Path) -> None:
    rows = (real_data / "flashcards" / "train.jsonl").read_text(encoding="utf-8").splitlines()
    alarms = [row for row in rows if find(json.loads(row)["input"])]
    assert len(alarms) <= len(rows) / 1000
