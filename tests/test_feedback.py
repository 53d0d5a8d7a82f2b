"""Ratings: checked before they are stored, and training data only after a person has looked at them."""

import json
from pathlib import Path

import pytest

from app.errors import DataError, InvalidQuestion, StorageError
from app.feedback import Row, Store, read
from app.record import Side, Turn
from app.settings import Settings
from finetune.feedback import prepare
from finetune.sources import load_source
from tests.conftest import assert_is_for_people


def row(**values: object) -> Row:
    turn = Turn(
        question="What is asthma?",
        answer="A lung disease.",
        details={"adapter_revision": "abc", "seed": 1},
        other=Side(answer="A base's answer."),
        vote=values.pop("vote", None),
    )
    return Row.model_validate({"turn": turn.model_dump(), **values})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(Settings(feedback_folder=tmp_path / "feedback"))


def test_a_rating_becomes_one_line_with_everything_that_made_the_answer(store: Store) -> None:
    store.add(row(verdict="wrong", severity="mild", corrected="Reversible airway narrowing.", comment="Too short", vote="tuned"))
    store.add(row(verdict="correct"))
    first, second = read(store.path)
    assert (first.verdict, first.severity, first.turn.vote, first.turn.details["adapter_revision"]) == ("wrong", "mild", "tuned", "abc")
    assert second.verdict == "correct"


@pytest.mark.parametrize(
    "values",
    [
        {"comment": "only a comment"},
        {"verdict": "wrong", "comment": "as I told Mrs Abernathy"},
        {"verdict": "wrong", "corrected": "Call 555-010-0199"},
        {"verdict": "wrong", "messages": [{"role": "user", "content": "DOB 03/04/1951"}]},
    ],
)
def test_nothing_is_stored_that_says_nothing_or_seems_to_identify_somebody(store: Store, values: dict[str, object]) -> None:
    with pytest.raises(InvalidQuestion) as caught:
        store.add(row(**values))
    assert_is_for_people(caught.value)
    assert not store.path.exists()


def test_a_folder_that_cannot_be_written_is_said_in_words(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError) as caught:
        Store(Settings(feedback_folder=tmp_path / "file")).add(row(verdict="wrong"))
    assert_is_for_people(caught.value)


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def review(path: Path, *decisions: bool | None) -> None:
    items = lines(path)
    path.write_text(
        "".join(json.dumps({**item, "keep": keep}) + "\n" for item, keep in zip(items, decisions, strict=True)), encoding="utf-8"
    )


def test_feedback_becomes_training_data_after_a_look_by_a_person(store: Store, tmp_path: Path) -> None:
    store.add(row(verdict="wrong", corrected="Reversible airway narrowing.", vote="base"))
    store.add(row(verdict="correct", vote="tuned", messages=[{"role": "user", "content": "Hi?"}, {"role": "assistant", "content": "Yes."}]))
    store.add(row(verdict="wrong", corrected="Refused by the reviewer."))
    output = tmp_path / "out"
    assert prepare(store.path, output) == {"ratings": 3, "reviewed": 0, "kept": 0, "corrections": 0, "preferences": 0}
    review(output / "review.jsonl", True, True, False)
    assert prepare(store.path, output) == {"ratings": 3, "reviewed": 3, "kept": 2, "corrections": 2, "preferences": 3}
    source = load_source(str(output / "corrections.jsonl"))
    assert [example.messages[-1]["content"] for example in source.examples] == ["Reversible airway narrowing.", "A lung disease."]
    corrected, voted, _ = lines(output / "preferences.jsonl")
    assert corrected["chosen"][0]["content"] == "Reversible airway narrowing." and corrected["rejected"][0]["content"] == "A lung disease."
    assert voted["chosen"][0]["content"] == "A base's answer."
    assert "Refused" not in (output / "corrections.jsonl").read_text() + (output / "preferences.jsonl").read_text()
    store.add(row(verdict="wrong"))
    assert prepare(store.path, output)["reviewed"] == 3, "what was reviewed stays reviewed"


def test_preferences_are_what_trl_reads(store: Store, tmp_path: Path, demo_tokenizer: object) -> None:
    from trl.data_utils import is_conversational

    store.add(row(vote="tuned"))
    prepare(store.path, tmp_path)
    review(tmp_path / "review.jsonl", True)
    prepare(store.path, tmp_path)
    (pair,) = lines(tmp_path / "preferences.jsonl")
    assert pair.keys() == {"prompt", "chosen", "rejected"} and is_conversational(pair)


def test_a_damaged_review_names_its_line(store: Store, tmp_path: Path) -> None:
    store.add(row(verdict="wrong"))
    prepare(store.path, tmp_path)
    (tmp_path / "review.jsonl").write_text('{"keep": "yes"}\n')
    with pytest.raises(DataError, match="line 1"):
        prepare(store.path, tmp_path)
