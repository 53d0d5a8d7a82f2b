"""The nearest training cards to a question, and whether it is far from all of them."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from app.engine.model import LoadedModel
from app.notices.evidence import Evidence, NearCard, unsupported
from app.settings import ROOT

CARDS = [
    {"id": "a", "question": "How is septic shock defined?", "answer": "Vasopressors are needed and lactate is above 2 mmol/L."},
    {
        "id": "b",
        "question": "What are the symptoms of diabetes?",
        "answer": "Thirst, polyuria, tiredness.",
        "wordings": ["signs of sugar disease"],
    },
    {
        "id": "c",
        "question": "Which nerve is injured in a fracture of the humeral shaft?",
        "answer": "The radial nerve, which causes wrist drop.",
    },
    {"id": "d", "question": "What are the symptoms of hypothyroidism?", "answer": "Tiredness, cold intolerance, weight gain."},
]


@pytest.fixture
def evidence() -> Evidence:
    return Evidence(CARDS)


@pytest.mark.parametrize(
    ("question", "card"),
    [
        ("How is septic shock defined?", "a"),
        ("septic shock definition?", "a"),
        ("diabetes symptom", "b"),
        ("WHAT ARE THE SIGNS OF SUGAR DISEASE??", "b"),
        ("wrist drop after a humeral fracture: which nerve?", "c"),
    ],
)
def test_the_nearest_card_comes_first_and_is_near(evidence: Evidence, question: str, card: str) -> None:
    assert evidence.nearest(question)[0].id == card
    assert not evidence.is_far(question)


@pytest.mark.parametrize("question", ["How do I bake sourdough bread?", "What treats migraine with aura?", "你好", "?!", "x" * 4000])
def test_a_question_unlike_every_card_is_far(evidence: Evidence, question: str) -> None:
    assert evidence.is_far(question)


def test_a_question_for_a_figure_is_far_where_the_nearest_card_has_none(evidence: Evidence) -> None:
    words = {"id": "x", "question": "How is rabies prevented after a bite?", "answer": "By washing the wound, vaccine and immunoglobulin."}
    figures = words | {"answer": "By washing the wound, and vaccine on days 0, 3, 7 and 14."}
    question = "How long after a bite is rabies prevented?"
    assert Evidence([words]).is_far(question)
    assert not Evidence([figures]).is_far(question)
    assert not Evidence([words]).is_far("How is rabies prevented after a bite?")


def test_cards_that_share_no_word_are_never_named(evidence: Evidence) -> None:
    assert [card.id for card in evidence.nearest("septic shock", count=4)] == ["a"]
    assert evidence.nearest("How do I bake sourdough bread?") == []
    assert evidence.nearest("") == []


def test_coverage_is_the_share_of_the_question_that_the_card_holds(evidence: Evidence) -> None:
    assert evidence.nearest("septic shock")[0].coverage == pytest.approx(1)
    assert 0 < evidence.nearest("septic shock in sourdough bakers with migraine")[0].coverage < 0.5
    assert all(0 <= card.coverage <= 1 for card in evidence.nearest("symptoms of nerve shock", count=4))


def test_a_short_follow_up_leans_on_the_question_before_it(evidence: Evidence) -> None:
    assert evidence.is_far("How is it treated?")
    assert not evidence.is_far("How is it treated?", follow_up=True)
    assert evidence.is_far("How do I bake a sourdough bread with rye flour?", follow_up=True)


def test_an_answer_taken_from_another_card_names_that_card(evidence: Evidence) -> None:
    thyroid = "Tiredness, cold intolerance and weight gain."
    assert evidence.recited("What are the symptoms of diabetes?", thyroid).id == "d"
    assert evidence.recited("How do I bake a sourdough bread?", thyroid).id == "d"
    assert evidence.recited("What are the symptoms of hypothyroidism?", thyroid) is None


def test_an_answer_in_words_of_its_own_is_taken_from_no_card(evidence: Evidence) -> None:
    assert evidence.recited("What are the symptoms of diabetes?", "Ask the person how much they drink, and measure plasma glucose.") is None
    assert evidence.recited("What are the symptoms of diabetes?", "") is None
    assert evidence.recited("", "") is None


def test_an_answer_to_a_short_follow_up_is_not_judged(evidence: Evidence) -> None:
    assert evidence.recited("And then?", "Thirst, polyuria, tiredness.").id == "b"
    assert evidence.recited("And then?", "Thirst, polyuria, tiredness.", follow_up=True) is None


def test_without_cards_nothing_is_near() -> None:
    empty = Evidence([])
    assert len(empty) == 0
    assert empty.nearest("What are the symptoms of diabetes?") == []
    assert empty.is_far("What are the symptoms of diabetes?")


RUSSIAN = [
    {"id": "a", "question": "Что такое гипертония?", "answer": "Стойкое повышение артериального давления."},
    {"id": "b", "question": "Что такое астма?", "answer": "Сужение бронхов со свистящим дыханием."},
    {"id": "c", "question": "Чем лечат ангину?", "answer": "Антибиотиком, если её вызвал стрептококк."},
]
CHINESE = [
    {"id": "a", "question": "什么是高血压？", "answer": "动脉血压持续升高。"},
    {"id": "b", "question": "什么是哮喘？", "answer": "支气管变窄并发出喘鸣。"},
    {"id": "c", "question": "骨折怎么处理？", "answer": "固定并止痛。"},
]


@pytest.mark.parametrize(
    ("cards", "question", "card"),
    [(RUSSIAN, "лечение ангины", "c"), (RUSSIAN, "гипертонию", "a"), (CHINESE, "高血压是什么", "a"), (CHINESE, "骨折", "c")],
)
def test_cards_in_other_scripts_are_found(cards: list[dict], question: str, card: str) -> None:
    index = Evidence(cards)
    assert index.nearest(question)[0].id == card
    assert index.is_far("How do I bake sourdough bread?") and index.nearest("How do I bake sourdough bread?") == []


@pytest.mark.parametrize("question", ["ما هي أعراض مرض الكبد المزمن؟", "Чем лечат хроническую мигрень?", "慢性肝病有哪些常见症状？"])
def test_a_later_question_in_another_script_is_judged(evidence: Evidence, question: str) -> None:
    assert evidence.is_far(question, follow_up=True)


def test_cards_without_words_do_no_harm() -> None:
    index = Evidence([{"id": "a", "question": "?!", "answer": "🙂"}, {"id": "b", "question": "the", "answer": "of"}])
    assert index.is_far("What is gout?") and index.nearest("What is gout?") == []
    assert index.recited("What is gout?", "Crystals in joints.") is None


def test_one_card_is_enough() -> None:
    assert Evidence(CARDS[:1]).nearest("septic shock")[0].id == "a"


def test_the_demos_cards_find_themselves(loaded: LoadedModel) -> None:
    evidence = Evidence(loaded.cards)
    assert len(evidence) >= 600
    started = time.perf_counter()
    found = [evidence.nearest(card["question"], 1)[0].id == str(card["id"]) for card in loaded.cards]
    assert sum(found) / len(found) > 0.95
    assert not any(evidence.is_far(card["question"]) for card in loaded.cards)
    assert (time.perf_counter() - started) / len(found) < 0.05


def near_card(answer: str) -> NearCard:
    return NearCard("x", "How much?", answer, 1.0)


@pytest.mark.parametrize(
    ("answer", "card", "expected"),
    [
        ("Give 500 mg.", "0.5 g or 500 mg.", []),
        ("Give 50 mg.", "Give 500 mg.", ["50 mg"]),
        ("For 5-7 days, every 8 hours.", "5 to 7 days, every 8 h", []),
        ("For 5-10 days.", "For 5 to 7 days.", ["5-10 days"]),
        ("About 95% at 1,000 mL/h.", "95 percent; 1000 ml/h", []),
        ("At 40 years, at 40 years.", "", ["40 years"]),
        ("Type 2 diabetes, T4, CD4 and 3 of 5 people.", "", []),
        ("5 mmol/L is not 5 mmol", "5 mmol", ["5 mmol/L"]),
    ],
)
def test_numbers_with_units_that_no_near_card_has_are_named(answer: str, card: str, expected: list[str]) -> None:
    assert unsupported(answer, [near_card(card)] if card else []) == expected


def test_jax_where_it_is_installed_is_kept_off_the_card(tmp_path: Path) -> None:
    """bm25s calls JAX at import, which then takes three quarters of a card's memory; this JAX says on which platforms it may run."""
    (tmp_path / "jax").mkdir()
    (tmp_path / "jax" / "__init__.py").write_text("")
    (tmp_path / "jax" / "lax.py").write_text("import os\ndef top_k(*_):\n    print('JAX may use', os.environ.get('JAX_PLATFORMS'))\n")
    environment = {key: value for key, value in os.environ.items() if key != "JAX_PLATFORMS"} | {"PYTHONPATH": str(tmp_path)}
    code = "from app import prepare_environment; prepare_environment(); import app.notices.evidence"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment, cwd=ROOT)
    assert done.stdout.strip() == "JAX may use cpu"
