"""Exams: every kind of file becomes the same questions, and our accuracy is lm-evaluation-harness's."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from app.engine.model import LoadedModel
from app.errors import DataError
from app.settings import ROOT
from finetune.data.sources import read_cards
from finetune.evaluation.exams import Exam, Question, card_exam, parse_columns, read_exam, run_exam
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


@pytest.mark.parametrize("answer", ["b", "B", "x", "1"])
def test_any_csv_is_read_with_a_mapping(tmp_path: Path, answer: str) -> None:
    path = tmp_path / "mine.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerows([["stem", "a", "b", "key"], ["Q?", "w", "x", answer], ["", "w", "x", "a"], ["Q?", "w", "x", "9"]])
    exam = read_exam(path, parse_columns("question=stem, options=a+b, answer=key"))
    assert [question.answer for question in exam.questions] == [1]
    assert [row for row, _ in exam.dropped] == [1, 2]


@pytest.mark.parametrize(
    ("name", "content"),
    [("x.json", "[]"), ("x.json", "{"), ("x.csv", ""), ("x.json", '[{"a": 1}]'), ("x.json", json.dumps([{**MEDMCQA, "cop": -1}]))],
)
def test_an_exam_that_cannot_be_read_is_one_sentence(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError) as caught:
        read_exam(tmp_path / name)
    assert_is_for_people(caught.value)


def test_our_cards_make_an_exam_within_each_specialty() -> None:
    cards = read_cards(FLASHCARDS)
    answers = {card.answer: card.specialty for card in cards}
    exam = card_exam(cards)
    assert len(exam.questions) > 600 and exam.first(5).questions == exam.first(5).questions
    for question in exam.questions:
        assert len(set(question.options)) == 4 and {answers[option] for option in question.options} == {question.subject}


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
