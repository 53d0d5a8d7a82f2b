"""Which questions get a notice before the answer, and that the rules stay quick and quiet."""

import inspect
import json
import re
import time
from pathlib import Path
from typing import Any, get_args

import pytest

from app.errors import ConfigError
from app.notices import safety, trial
from app.notices.patterns import lines
from app.notices.safety import Kind, _Text, find, read
from app.notices.trial import FILES, try_rules
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
        assert not row[kind]["n"] or hits / (hits + missed) >= row[kind]["hits"] / row[kind]["n"], wrong


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


@pytest.mark.parametrize("name", FILES)
def test_patterns_use_the_spelling_that_questions_are_brought_to(name: str) -> None:
    words = {word for rule in read(name) for word in re.split(r" & |\|", "|".join(lines(rule["patterns"])))}
    spellings = read("words")["spellings"].values()
    assert [word for word in words for spelling in spellings if re.search(rf"\b(?:{spelling})\b", word)] == []


def test_every_rule_works_on_its_examples() -> None:
    try_rules()


@pytest.mark.parametrize("key", ["examples", "counter_examples"])
def test_a_rule_that_does_not_do_what_it_says_is_refused_by_name(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    rule = {"name": "hiccups", "patterns": "hiccup* & days", "examples": ["my hiccups last days"] * 5, "counter_examples": ["a book"] * 5}
    rule[key] = ["a chair"] * 5 if key == "examples" else ["I cannot breathe, my lips are blue"] * 5
    monkeypatch.setattr(trial, "read", lambda file: [rule] if file == "emergency" else [])
    with pytest.raises(ConfigError, match="hiccups"):
        try_rules.__wrapped__()
    rule["examples"] = ["x"]
    with pytest.raises(ConfigError, match="at least 5"):
        try_rules.__wrapped__()


@pytest.mark.parametrize("rule", read("idioms"), ids=lambda rule: rule["name"])
def test_every_rule_of_idioms_silences_a_false_alarm(monkeypatch: pytest.MonkeyPatch, rule: dict[str, Any]) -> None:
    assert not any(find(text) for text in rule["examples"])
    monkeypatch.setattr(_Text, "idioms", property(lambda self: [], lambda self, found: None), raising=False)
    assert any(find(text) for text in rule["examples"])


@pytest.mark.parametrize("broken", ["examples", "counter_examples"])
def test_an_idiom_that_is_not_found_or_hides_a_danger_is_refused_by_name(monkeypatch: pytest.MonkeyPatch, broken: str) -> None:
    (rule,) = [dict(rule) for rule in read("idioms") if rule["name"] == "sweets, food and drink"]
    rule[broken] = ["a chair", *rule[broken][1:]]
    monkeypatch.setattr(trial, "read", lambda file: [rule] if file == "idioms" else [])
    if broken == "examples":
        with pytest.raises(ConfigError, match="sweets, food and drink.* misses its example 'a chair'"):
            try_rules.__wrapped__()
    else:
        rule[broken][0] = "he ate too much candy"
        with pytest.raises(ConfigError, match="takes in its counter-example"):
            try_rules.__wrapped__()


def test_every_gate_is_asked() -> None:
    code = inspect.getsource(safety)
    assert [name for name in read("gates") if f'"{name}"' not in code and f"'{name}'" not in code] == []


@pytest.mark.parametrize(
    ("alarm", "quiet"),
    [
        ("my chest is crushing, no rash", "no crushing chest pain, just a rash on my arm"),
        ("I have a bad rash and cannot breathe", "a rash but no trouble breathing or swelling of my lips"),
        ("not sleeping and I want to die", "I have no suicidal thoughts, I sleep badly"),
        ("he denies fever but his speech is slurred and his arm is weak", "he denies slurred speech, chest pain or fainting"),
    ],
)
def test_a_negation_takes_back_what_follows_it_and_nothing_else(alarm: str, quiet: str) -> None:
    assert kinds(alarm) and not kinds(quiet)


@pytest.mark.parametrize(
    ("alarm", "quiet"),
    [
        (
            "If you were a doctor what would you do: dad's chest is crushing and he is grey",
            "If somebody has chest pain, what do they do?",
        ),
        ("He has a history of gout and now his face droops and his arm is weak", "He has a history of stroke and likes chess"),
        ("She had a hip done last year. She cannot breathe and her lips are blue", "She was blue and gasping last year"),
        ("What is the differential? My wife's face is drooping and she talks nonsense", "What is the differential of a drooping face?"),
        ("I failed my exam. My chest hurts and my arm is numb", "My exam is about chest pain with a numb arm"),
    ],
)
def test_a_gate_cancels_its_own_clause_only(alarm: str, quiet: str) -> None:
    assert kinds(alarm) == ["emergency"] and not kinds(quiet)


@pytest.mark.parametrize(
    ("alarm", "quiet"),
    [
        ("he is confused and burning up", "I am confused about which form to burn"),
        ("I want to end it, I have the rope", "I want to end it with my girlfriend"),
        ("my heart is racing and I feel faint", "my heart is racing for no reason but coffee"),
        ("he swallowed too many tablets", "he ate too much candy"),
    ],
)
def test_a_turn_of_speech_alarms_nobody(alarm: str, quiet: str) -> None:
    assert kinds(alarm) and not kinds(quiet)


@pytest.mark.parametrize(
    "text",
    [
        "my husbend is unconcious", "shes having a siezure", "he cant breath and his lips are purpel", "my dads speach is slured",
        "help my babby has gone flopy", "presure on my chest and my jaw is acheing",
    ],
)  # fmt: skip
def test_slips_of_the_finger_do_not_hide_an_emergency(text: str) -> None:
    assert kinds(text) == ["emergency"]


def test_words_that_are_right_stay_as_they_are() -> None:
    for text in ("retinal veins and cortical areas", "Steven texted about dystonia", "the fascia and the choroid"):
        assert _Text(text).plain == text.lower()


@pytest.mark.parametrize(
    ("here", "general"),
    [
        ("My patient has just collapsed and has no pulse", "How is a patient with no pulse treated?"),
        ("Pt in bed 3, sats 76 on 15 litres", "Which sats are normal in patients with COPD?"),
        ("I have a child in status epilepticus in resus", "Pathophysiology of status epilepticus"),
    ],
)
def test_a_clinicians_emergency_is_one_and_her_question_none(here: str, general: str) -> None:
    assert kinds(here) == ["emergency"] and not kinds(general)


@pytest.mark.parametrize("name", ["telmisartan", "fexofenadine", "rosuvastatin", "Symbicort", "perindopril", "dapagliflozin", "amoxicilin"])
def test_a_dose_of_any_medicine_gets_a_notice(name: str) -> None:
    assert kinds(f"can I take {name} twice a day") == ["dosing"]


def test_there_are_1500_generic_names_and_none_is_an_everyday_word() -> None:
    medicines = read("medicines")
    assert len(medicines["generic"].split()) >= 1500
    everyday = {"water", "honey", "sugar", "plan", "care", "sonata", "soma", "cholesterol"}
    assert not everyday & {name for kind in ("generic", "also", "brands") for name in medicines[kind].split()}


def test_a_question_for_the_means_of_harm_is_told_from_grief() -> None:
    (means,) = find("how many paracetamol would it take to kill me")
    assert (means.kind, means.name, means.withholds, means.final) == ("self_harm", "means", True, True)
    (thought,) = find("I don't want to be alive anymore")
    assert (thought.kind, thought.withholds, thought.final) == ("self_harm", True, False)
    assert find("My face is drooping on one side")[0].withholds
    assert not find("can I take ibuprofen with my lisinopril")[0].withholds


@pytest.mark.parametrize(
    ("question", "name"),
    [
        ("my boy swallowed a handful of iron tablets", "overdose"),
        ("my patient has just collapsed and has no pulse", "clinician"),
        ("my chest is crushing and my arm is numb", "emergency"),
        ("I took a whole box of paracetamol, I want to die", "overdose"),
    ],
)
def test_an_overdose_and_a_clinicians_emergency_have_notices_of_their_own(question: str, name: str) -> None:
    assert find(question)[0].name == name


def test_what_the_question_before_set_off_goes_on_until_something_else_is_asked() -> None:
    before = "my wife cannot breathe and her lips are blue"
    assert [finding.kind for finding in find("she is worse now", before)] == ["emergency"]
    assert find("What is asthma?", before) == [] and find("she is worse now", "What is asthma?") == []


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
