"""The nearest training cards to a question, and whether it is far from all of them."""

import math
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from app.engine.model import LoadedModel
from app.notices import evidence as evidence_module
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
    started = time.thread_time()  # of this thread alone, however busy the machine is
    found = [evidence.nearest(card["question"], 1)[0].id == str(card["id"]) for card in loaded.cards]
    assert sum(found) / len(found) > 0.95
    assert not any(evidence.is_far(card["question"]) for card in loaded.cards)
    assert (time.thread_time() - started) / len(found) < 0.05


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


def weight(cards_with: int) -> float:
    """BM25's inverse document frequency of a word that so many of the four cards have."""
    return math.log(1 + (4 - cards_with + 0.5) / (cards_with + 0.5))


def bm25(count: int, length: int, mean: float) -> float:
    """What a word adds to a card's score for each unit of its weight (Robertson and Zaragoza 2009, with k1 = 1.5 and b = 0.75)."""
    return count / (count + 1.5 * (0.25 + 0.75 * length / mean))


PLAIN = [
    {"id": 1, "question": "gout", "answer": "urate crystals joint toe"},
    {"id": 2, "question": "asthma", "answer": "wheeze bronchi", "wordings": ["breathless"]},
    {"id": 3, "question": "sepsis", "answer": "joint infection"},
    {"id": 4, "question": "anaemia", "answer": "iron pallor"},
]
MEAN_LENGTH = (5 + 4 + 3 + 3) / 4


def test_nearness_is_what_the_card_covers_with_the_lead_over_the_next_and_less_what_no_card_has() -> None:
    index = Evidence(PLAIN)
    lone = weight(1) * bm25(1, 5, MEAN_LENGTH) * 2 / (2 * weight(1))
    assert index.nearness("urate crystals") == pytest.approx(1 + 5 * lone, rel=1e-4)
    total = weight(1) + weight(2)
    lead = (weight(1) * bm25(1, 5, MEAN_LENGTH) + weight(2) * (bm25(1, 5, MEAN_LENGTH) - bm25(1, 3, MEAN_LENGTH))) / total
    assert index.nearness("joint urate") == pytest.approx(1 + 5 * lead, rel=1e-4)
    total = weight(1) + weight(0)
    assert index.nearness("wheeze migraine") == pytest.approx(
        weight(1) / total + 5 * weight(1) * bm25(1, 4, MEAN_LENGTH) / total - 0.7 * weight(0) / total, rel=1e-4
    )
    assert index.nearness("migraine") == index.nearness("") == 0.0


def test_a_near_card_has_the_share_of_the_questions_weight_that_it_holds() -> None:
    found = Evidence(PLAIN).nearest("joint urate migraine?")
    total = weight(2) + weight(1) + weight(0)
    assert found == [
        NearCard("1", "gout", "urate crystals joint toe", pytest.approx((weight(2) + weight(1)) / total)),
        NearCard("3", "sepsis", "joint infection", pytest.approx(weight(2) / total)),
    ]
    assert len(Evidence(PLAIN).nearest("gout asthma sepsis anaemia")) == 3
    assert [card.id for card in Evidence(PLAIN).nearest("joint urate", count=1)] == ["1"]
    assert Evidence(PLAIN).nearest("breathless")[0].id == "2", "other wordings count"


def test_a_question_is_far_below_the_bound_and_not_at_it(monkeypatch: pytest.MonkeyPatch) -> None:
    index = Evidence(PLAIN)
    for bound, far in ((index.nearness("joint"), False), (index.nearness("joint") + 1e-6, True)):
        monkeypatch.setattr(evidence_module, "FAR_BELOW", bound)
        assert index.is_far("joint") is far


def test_an_answer_is_recited_from_the_share_of_a_card_that_the_bounds_ask_for(monkeypatch: pytest.MonkeyPatch) -> None:
    index = Evidence(PLAIN)
    # The answer has "iron" of card 4 and a word of no card; of card 3, nearest to the question, it has "joint" where it says so.
    share = weight(1) / (weight(1) + weight(0))
    for bound, found in ((share - 1e-9, "4"), (share + 1e-9, None)):
        monkeypatch.setattr(evidence_module, "RECITED_ABOVE", bound)
        near = index.recited("sepsis", "iron migraine")
        assert (near and near.id) == found
    monkeypatch.setattr(evidence_module, "RECITED_ABOVE", 0.1)
    both = weight(1) * 2 + weight(2)
    lead = 2 * weight(1) / both - weight(2) / both
    for bound, found in ((lead - 1e-9, "4"), (lead + 1e-9, None)):
        monkeypatch.setattr(evidence_module, "RECITED_LEAD", bound)
        near = index.recited("sepsis", "iron pallor joint")
        assert (near and near.id) == found
    assert index.recited("anaemia", "iron pallor joint") is None, "the nearest card's own answer"


def test_three_words_are_enough_for_a_follow_up_to_be_judged() -> None:
    index = Evidence(PLAIN)
    assert index.is_far("migraine aura headache", follow_up=True) and not index.is_far("migraine aura aura", follow_up=True)
    assert index.recited("migraine aura headache", "iron pallor", follow_up=True).id == "4"
    assert index.recited("migraine aura", "iron pallor", follow_up=True) is None
