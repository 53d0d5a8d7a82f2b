"""Exams: every kind of file becomes the same questions, and our accuracy is lm-evaluation-harness's."""

import csv
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from app.engine.model import LoadedModel
from app.errors import DataError
from app.settings import ROOT
from finetune.data.sources import Card, read_cards
from finetune.evaluation import exams
from finetune.evaluation.exams import Exam, Question, card_exam, choices, parse_columns, read_exam, run_exam
from finetune.evaluation.scoring import Completion, Journal, answer_completion
from tests.conftest import FLASHCARDS, assert_is_for_people

MEDMCQA = {"question": "Q?", "opa": "w", "opb": "x", "opc": "y", "opd": "z", "cop": 2, "subject_name": "Anatomy"}


def write(path: Path, rows: object) -> Path:
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


def test_medmcqa_is_read_whether_it_counts_from_0_or_1(tmp_path: Path) -> None:
    (question,) = read_exam(write(tmp_path / "one.json", [MEDMCQA])).questions
    assert question == Question("Q?\nA. w\nB. x\nC. y\nD. z\nAnswer with the letter.", ["A", "B", "C", "D"], 1, "Anatomy")
    zero = read_exam(write(tmp_path / "zero.json", [MEDMCQA | {"cop": 0}, MEDMCQA]))
    assert [question.answer for question in zero.questions] == [0, 2]


def test_pubmedqa_is_read_as_its_authors_publish_it(tmp_path: Path) -> None:
    row = {"QUESTION": "Does it?", "CONTEXTS": ["One.", "Two."], "final_decision": "maybe"}
    (question,) = read_exam(write(tmp_path / "p.json", {"1": row})).questions
    assert question == Question("One.\nTwo.\n\nDoes it?\nAnswer yes, no or maybe.", ["yes", "no", "maybe"], 2)


def test_pubmedqa_is_read_as_the_hub_publishes_it(tmp_path: Path) -> None:
    row = {"question": "Does it?", "context": {"contexts": ["One.", "Two."]}, "final_decision": " Yes"}
    (question,) = read_exam(write(tmp_path / "p.json", [row, row | {"final_decision": "perhaps"}])).questions
    assert question == Question("One.\nTwo.\n\nDoes it?\nAnswer yes, no or maybe.", ["yes", "no", "maybe"], 0)


def test_a_row_that_is_no_question_is_left_out_with_its_number_and_reason(tmp_path: Path) -> None:
    without = {key: value for key, value in MEDMCQA.items() if key != "cop"}
    rows = [MEDMCQA, without, MEDMCQA | {"question": " "}, MEDMCQA | {"opc": "\t"}, MEDMCQA | {"opd": None}, MEDMCQA | {"cop": 5}]
    exam = read_exam(write(tmp_path / "some.json", [*rows, MEDMCQA | {"cop": 0}, MEDMCQA | {"subject_name": None}]))
    assert exam.name == "some"
    assert [(question.answer, question.subject) for question in exam.questions] == [(2, "Anatomy"), (0, "Anatomy"), (2, "")]
    vague = "the question or an option is empty, there are not 2 to 10 options, or none is marked as right"
    assert exam.dropped == [
        (1, "no column 'cop'"),
        (2, vague),
        (3, vague),
        (4, vague),
        (5, vague),
    ]


@pytest.mark.parametrize(
    ("options", "answer", "right"),
    [
        (["w", "x"], 0, 0),
        (["w", "x"], 1, 1),
        (["w", "x"], " x ", 1),
        (["w", "x"], "a", 0),
        (["w", "x"], "c", None),
        (["w", "x"], 2, None),
        (["w", "x"], -1, None),
        (["w", "x"], None, None),
        (["w", "x"], "", None),
        (["w", "x", "y"], "AB", None),
        (["w"], 0, None),
        (["w", ""], 0, None),
        (["w", None], 0, None),
        (["b", "a"], "a", 1),  # an option's text counts before a letter
        ([3, 5], "5", 1),
        ([3, 5], 1, 1),
        (list("stuvwxyzab"), "J", 9),
        (list("stuvwxyzabc"), "A", None),
    ],
)
def test_the_right_option_is_named_by_text_by_letter_or_by_index(
    tmp_path: Path, options: list[object], answer: object, right: int | None
) -> None:
    rows = [{"q": "Sure?", "o": ["no", "yes"], "k": "yes", "s": "Logic"}, {"q": 7, "o": options, "k": answer, "s": None}]
    exam = read_exam(write(tmp_path / "mine.json", rows), parse_columns("question=q,options=o,answer=k,subject=s"))
    assert exam.questions[0].subject == "Logic"
    assert [question.answer for question in exam.questions[1:]] == ([] if right is None else [right])
    if right is not None:
        listed = "".join(f"{letter}. {option}\n" for letter, option in zip("ABCDEFGHIJ", options, strict=False))
        letters = list("ABCDEFGHIJ")[: len(options)]
        assert exam.questions[1] == Question(f"7\n{listed}Answer with the letter.", letters, right)


def test_a_question_without_text_is_left_out_whatever_the_mapping(tmp_path: Path) -> None:
    rows = [{"q": "Sure?", "a": "no", "b": "yes", "k": "b"}, {"q": None, "a": "no", "b": "yes", "k": "b"}, {"q": "Sure?", "k": "b"}]
    exam = read_exam(write(tmp_path / "mine.json", rows), parse_columns("question=q,options=a+b,answer=k,subject=s"))
    assert [question.subject for question in exam.questions] == [""]
    assert [row for row, _ in exam.dropped] == [1, 2]


@pytest.mark.parametrize(
    "text",
    ["question=q,options=o", "question=q,options=o,answer=k,topic=t", "question=q,options=o,answer=", "q,o,k", "question=q, answer=k"],
)
def test_a_mapping_that_says_too_little_or_too_much_is_refused(text: str) -> None:
    with pytest.raises(DataError) as caught:
        parse_columns(text)
    assert str(caught.value) == (
        f"--exam-columns {text} is not a column mapping. Give question, options and answer, as in "
        "question=stem,options=a+b+c+d,answer=key; options is one column with a list, or several joined by +."
    )
    assert_is_for_people(caught.value)


def test_a_mapping_may_hold_spaces_and_equal_signs() -> None:
    mapping = parse_columns(" question = stem ,options=a+b, answer=k=1,subject=topic")
    assert mapping == {"question": "stem", "options": "a+b", "answer": "k=1", "subject": "topic"}


@pytest.mark.parametrize("answer", ["b", "B", "x", "1"])
def test_any_csv_is_read_with_a_mapping(tmp_path: Path, answer: str) -> None:
    path = tmp_path / "mine.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerows([["stem", "a", "b", "key"], ["Q?", "w", "x", answer], ["", "w", "x", "a"], ["Q?", "w", "x", "9"]])
    exam = read_exam(path, parse_columns("question=stem, options=a+b, answer=key"))
    assert [(question.answer, question.subject) for question in exam.questions] == [(1, "")]
    assert [row for row, _ in exam.dropped] == [1, 2]


def test_parquet_is_read_too_and_a_file_of_another_ending_is_a_file_and_no_data_set(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist([MEDMCQA]), tmp_path / "x.parquet")
    (tmp_path / "x.txt").write_text(json.dumps(MEDMCQA) + "\n")
    assert [read_exam(tmp_path / name).questions[0].answer for name in ("x.parquet", "x.txt")] == [1, 1]
    with pytest.raises(DataError, match="There is no data file"):
        read_exam(tmp_path / "y.txt")


def test_no_other_columns_than_those_that_are_needed_are_asked_for(tmp_path: Path) -> None:
    least = {name: value for name, value in MEDMCQA.items() if name != "subject_name"}
    assert read_exam(write(tmp_path / "m.json", [least])).questions[0].subject == ""
    ours = {"QUESTION": "Does it?", "CONTEXTS": ["One."], "final_decision": "no"}
    hubs = {"question": "Does it?", "context": {"contexts": ["One."]}, "final_decision": "no"}
    assert read_exam(write(tmp_path / "p.json", [ours])).questions == read_exam(write(tmp_path / "q.json", [hubs])).questions


@pytest.mark.parametrize(
    ("name", "content"),
    [("x.json", "[]"), ("x.json", "{"), ("x.csv", ""), ("x.json", '[{"a": 1}]'), ("x.json", json.dumps([{**MEDMCQA, "cop": -1}]))],
)
def test_an_exam_that_cannot_be_read_is_one_sentence(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError) as caught:
        read_exam(tmp_path / name)
    assert_is_for_people(caught.value)
    assert str(tmp_path / name) in str(caught.value)


def test_an_exam_of_other_columns_is_told_how_to_name_them(tmp_path: Path) -> None:
    path = write(tmp_path / "x.json", [{"stem": "Q?", "key": "a", "choices": ["w", "x"]}])
    with pytest.raises(DataError, match=r"has the columns choices, key, stem, which are neither .* Say what they mean with --exam-columns"):
        read_exam(path)


def test_an_exam_without_a_usable_row_gives_the_first_rows_reason(tmp_path: Path) -> None:
    path = write(tmp_path / "x.json", [MEDMCQA | {"cop": "two"}, MEDMCQA | {"question": ""}])
    with pytest.raises(DataError, match=r"x\.json holds no usable question: row 0 was left out because of invalid literal"):
        read_exam(path)


def test_the_same_questions_are_drawn_in_every_run() -> None:
    exam = Exam("x", [Question(str(number), ["a", "b"], 0) for number in range(10)], [(3, "why")])
    drawn = exam.first(4)
    assert [question.prompt for question in drawn.questions] == ["6", "9", "0", "2"]
    assert (drawn.name, drawn.dropped) == ("x", [(3, "why")])
    assert exam.first(None) is exam.first(10) is exam.first(11) is exam


def test_our_cards_make_an_exam_within_each_specialty() -> None:
    cards = read_cards(FLASHCARDS)
    answers = {card.answer: card.specialty for card in cards}
    exam = card_exam(cards)
    assert len(exam.questions) > 600 and exam.first(5).questions == exam.first(5).questions
    for question in exam.questions:
        assert len(set(question.options)) == 4 and {answers[option] for option in question.options} == {question.subject}


def card(name: str, specialty: str, answer: str = "") -> Card:
    return Card(name, specialty, f"{name}?", answer or f"answer {name}", ["Other words?", f"Held out, {name}?"])


def test_a_cards_answer_stands_among_three_of_its_specialty() -> None:
    few = [card(f"few{number}", "Eyes") for number in range(3)]
    twins = [card("twin1", "Skin", "the same"), card("twin2", "Skin", "the same"), card("third", "Skin"), card("fourth", "Skin")]
    enough = [card(f"c{number}", "Heart") for number in range(5)]
    exam = card_exam([*few, *twins, *enough, *(card(f"l{number}", "Lungs") for number in range(4))])
    assert {option for question in exam.questions[5:] for option in question.options} == {f"answer l{number}" for number in range(4)}
    exam = card_exam([*few, *twins, *enough])
    assert exam.name == "flashcards" and exam.dropped == []
    assert [question.prompt for question in exam.questions] == [f"Held out, c{number}?" for number in range(5)]
    for number, question in enumerate(exam.questions):
        assert question.options[question.answer] == f"answer c{number}" and question.subject == "Heart"
        assert len(set(question.options)) == 4 and set(question.options) <= {f"answer c{other}" for other in range(5)}
    assert len({question.answer for question in exam.questions}) > 1, "the right option does not always stand in one place"


def test_the_options_of_a_card_are_the_same_in_every_run_of_one_seed() -> None:
    cards = [card(f"c{number}", "Heart") for number in range(5)]
    first = card_exam(cards).questions[0]
    assert [option.removeprefix("answer ") for option in first.options] == ["c0", "c4", "c1", "c2"]
    assert card_exam(cards, 0).questions == card_exam(cards).questions != card_exam(cards, 1).questions


EXAM = Exam(
    "x",
    [
        Question("One?", ["long answer", "b"], 0, "Heart"),
        Question("Two?", ["c", "de", "f"], 1, "Skin"),
        Question("Three?", ["g", "h"], 1, "Heart"),
        Question("Four?", ["i", "j"], 0),
    ],
    [(7, "why")],
)
# Log-likelihoods of all options in order. The base finds b likeliest (a character of the long answer costs less), c, g and i; the tuned
# model the long answer, c (by character de), h and j.
BASE = [-11.0, -3.0, -1.0, -2.5, -2.0, -1.0, -2.0, -1.0, -2.0]
TUNED = [-2.0, -3.0, -1.5, -2.0, -3.0, -2.0, -1.0, -2.0, -1.0]


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch, loaded: LoadedModel) -> list[dict[str, object]]:
    """Lets the base and the tuned model find the options of EXAM as likely as above; what was asked is in the list."""
    asked: list[dict[str, object]] = []

    def likelihoods(model: LoadedModel, completions: list[Completion], use_adapter: bool, **options: object) -> list[float]:
        assert model is loaded
        asked.append(options | {"completions": completions})
        return TUNED if use_adapter else BASE

    monkeypatch.setattr(exams, "log_likelihoods", likelihoods)
    return asked


def test_the_likeliest_option_is_chosen_as_a_whole_and_by_character(loaded: LoadedModel, scored: list[dict[str, object]]) -> None:
    journal = Journal()
    assert choices(loaded, EXAM, False, journal) == [(1, 0), (0, 0), (0, 0), (0, 0)]
    assert choices(loaded, EXAM, True) == [(0, 0), (0, 1), (1, 1), (1, 1)]
    options = [(question.prompt, option) for question in EXAM.questions for option in question.options]
    asked = [answer_completion(loaded, [{"role": "user", "content": prompt}], option) for prompt, option in options]
    assert scored == [{"completions": asked, "name": "exam x", "journal": given} for given in (journal, None)]


def test_an_exam_holds_both_models_shares_what_chance_gives_and_the_subjects(loaded: LoadedModel, scored: list[dict[str, object]]) -> None:
    journal = Journal()
    entry, measures = run_exam(loaded, EXAM, journal)
    shares = {part: {key: value for key, value in entry["subjects"][0][part].items() if key in "nvalue"} for part in ("base", "tuned")}
    assert shares == {"base": {"n": 2, "value": 0.0}, "tuned": {"n": 2, "value": 1.0}}
    assert [(row["subject"], row["n"], row["base"]["value"], row["tuned"]["value"]) for row in entry.pop("subjects")] == [
        ("Heart", 2, 0.0, 1.0),
        ("not stated", 1, 1.0, 0.0),
        ("Skin", 1, 0.0, 0.0),
    ]
    chance = round((1 / 2 + 1 / 3 + 1 / 2 + 1 / 2) / 4, 4)
    mcnemar = {"only_base": 1, "only_tuned": 2, "p_value": 1.0}
    assert entry == {"name": "x", "n": 4, "left_out": 1, "too_long": 0, "chance": chance, "mcnemar": mcnemar}
    assert {
        key: (found["name"], found["unit"], found["higher_is_better"], found["n"], found["base"]["value"], found["tuned"]["value"])
        for key, found in measures.items()
    } == {
        "exam:x/accuracy": ("Accuracy", "share", True, 4, 0.25, 0.5),
        "exam:x/accuracy_norm": ("Accuracy, per character of the option", "share", True, 4, 0.5, 0.75),
    }
    assert [call["journal"] for call in scored] == [journal, journal]


def test_an_exam_in_one_subject_has_no_table_of_subjects(loaded: LoadedModel) -> None:
    assert run_exam(loaded, Exam("x", EXAM.questions[:1]))[0]["subjects"] == []
    assert [row["subject"] for row in run_exam(loaded, Exam("x", EXAM.questions[:2]))[0]["subjects"]] == ["Heart", "Skin"]


def test_a_question_may_fill_the_context_to_the_last_token(loaded: LoadedModel) -> None:
    question = Question("Which?", ["a", "a longer option"], 0)
    longest = len(answer_completion(loaded, [{"role": "user", "content": "Which?"}], "a longer option").ids)
    fitting = {}
    for room in (longest, longest - 1):
        short = replace(loaded, contract=loaded.contract.model_copy(update={"context_length": room}))
        entry, measures = run_exam(short, Exam("x", [question], [(1, "why"), (2, "why")]))
        fitting[room] = (entry["n"], entry["too_long"], len(measures))
    assert fitting == {longest: (1, 0, 2), longest - 1: (0, 1, 0)}
    assert entry == {"name": "x", "n": 0, "left_out": 2, "too_long": 1}


def test_a_question_longer_than_the_context_is_left_out_and_counted(loaded: LoadedModel) -> None:
    exam = Exam("x", [Question("word " * 2000, ["a", "b"], 0), Question("Short?", ["a", "b"], 0)])
    entry, measures = run_exam(loaded, exam)
    assert (entry["n"], entry["too_long"], measures["exam:x/accuracy"]["n"]) == (1, 1, 1)


def test_real_exams_are_read(real_data: Path) -> None:
    medmcqa = read_exam(real_data / "medmcqa" / "dev_sample600.jsonl")
    pubmedqa = read_exam(real_data / "pubmedqa" / "ori_pqal.dev500.json")
    assert (len(medmcqa.questions), len(pubmedqa.questions)) == (600, 500)
    assert {question.answer for question in medmcqa.questions} == {0, 1, 2, 3}


LM_EVAL = """
import json, sys
import lm_eval
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

class Whole(HFLM):
    # By itself the harness takes the white space off the prompt's end before it looks where the answer begins. Where the tokenizer
    # has joined that newline with the colon before it, the model then reads a prompt without the newline: another one than ours.
    def _encode_pair(self, context, continuation):
        prompt = self.tok_encode(context)
        return prompt, self.tok_encode(context + continuation)[len(prompt):]

folder, base, adapter, peft = sys.argv[1:]
model = Whole(pretrained=base, tokenizer=adapter, peft=peft or None, dtype="float32", device="cpu", batch_size=8)
found = lm_eval.simple_evaluate(model=model, tasks=["ours"], apply_chat_template=True, task_manager=TaskManager(include_path=folder),
                                bootstrap_iters=0, random_seed=0)
print(json.dumps({key: value for key, value in found["results"]["ours"].items() if key.startswith("acc")}))
"""


@pytest.mark.slow
@pytest.mark.network
@pytest.mark.timeout(1800)
def test_accuracy_equals_lm_evaluation_harness(loaded: LoadedModel, adapter: str, tmp_path: Path) -> None:
    """It lives in a folder of its own, because it would change the version of a package that the rest of the tests use."""
    site, task = tmp_path / "site", tmp_path / "task"
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(site)]
    done = subprocess.run([*install, "-r", str(ROOT / "tests" / "requirements-lm-eval.txt")], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("no package index was reached")
    exam = card_exam(read_cards(FLASHCARDS)).first(40)
    task.mkdir()
    rows = [{"q": question.prompt, "options": question.options, "answer": question.answer} for question in exam.questions]
    (task / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (task / "ours.yaml").write_text(
        "task: ours\ndataset_path: json\n"
        f"dataset_kwargs: {{data_files: {{test: {task / 'rows.jsonl'}}}}}\n"
        "test_split: test\noutput_type: multiple_choice\ndoc_to_text: '{{q}}'\ndoc_to_choice: '{{options}}'\ndoc_to_target: answer\n"
        "target_delimiter: ''\nmetric_list: [{metric: acc}, {metric: acc_norm}]\n"
    )
    _, ours = run_exam(loaded, exam)
    folder = ROOT / adapter
    base = ROOT / loaded.base
    environment = os.environ | {"PYTHONPATH": f"{site}:{ROOT}", "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hub")}
    for model, peft in (("base", ""), ("tuned", str(folder))):
        command = [sys.executable, "-c", LM_EVAL, str(task), str(base), str(folder), peft]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        theirs = json.loads(done.stdout.strip().splitlines()[-1])
        assert theirs["acc,none"] == pytest.approx(ours["exam:flashcards/accuracy"][model]["value"], abs=1e-6)
        assert theirs["acc_norm,none"] == pytest.approx(ours["exam:flashcards/accuracy_norm"][model]["value"], abs=1e-6)
