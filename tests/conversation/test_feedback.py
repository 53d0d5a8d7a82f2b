"""Ratings: checked before they are stored, and training data only after a person has looked at them."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from app.conversation.feedback import Row, Store, read
from app.conversation.record import Side, Turn
from app.errors import DataError, InvalidQuestion, StorageError
from app.settings import ROOT, Settings
from finetune.data.feedback import prepare
from finetune.data.sources import load_source
from tests.answers import wait_until
from tests.conftest import assert_is_for_people
from tests.hub_server import HubServer
from tests.servers import unmeasured

DATASET = "somebody/ratings"
OFTEN = 0.005  # minutes between two commits


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


@pytest.mark.parametrize("sign", ["\u2028", "\u2029", "\x85", "\x0c"])
def test_a_rating_with_an_unusual_line_end_is_read_again(store: Store, tmp_path: Path, sign: str) -> None:
    store.add(row(verdict="wrong", corrected=f"Reversible{sign}airway narrowing."))
    assert prepare(store.path, tmp_path / "out")["ratings"] == 1
    text = (tmp_path / "out" / "review.jsonl").read_text(encoding="utf-8").replace('"keep": null', '"keep": true')
    (tmp_path / "out" / "review.jsonl").write_text(text, encoding="utf-8")
    assert prepare(store.path, tmp_path / "out")["corrections"] == 1
    source = load_source(str(tmp_path / "out" / "corrections.jsonl"))
    assert source.examples[0].messages[-1]["content"] == f"Reversible{sign}airway narrowing."
    store.path.write_bytes(b"\xff\xfe")
    with pytest.raises(StorageError, match="not UTF-8") as caught:
        prepare(store.path, tmp_path)
    assert_is_for_people(caught.value)


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


@pytest.fixture
def start_space(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Store]]:
    """Starts a Space anew: its disk is empty each time."""
    monkeypatch.setenv("SPACE_ID", "somebody/chat")
    stores: list[Store] = []

    def start() -> Store:
        settings = Settings(feedback_folder=tmp_path / f"disk-{len(stores)}", feedback_repo=DATASET)
        stores.append(Store(settings, minutes=OFTEN))
        return stores[-1]

    yield start
    for store in stores:
        if store.scheduler:
            store.scheduler.stop()


def arrived(hub: HubServer, folder: Path) -> list[str]:
    """The comments of all ratings in the dataset, as who downloads it reads them."""
    repo = hub.repos.get(DATASET)
    for path, data in (repo.commits[repo.main] if repo else {}).items():
        (folder / "downloaded" / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / "downloaded" / path).write_bytes(data)
    return sorted(rating.comment for rating in read(folder / "downloaded")) if repo else []


def test_on_a_space_ratings_arrive_in_a_private_dataset(hub: HubServer, start_space: Callable[[], Store], tmp_path: Path) -> None:
    store = start_space()
    store.add(row(verdict="wrong", comment="one"))
    wait_until(lambda: arrived(hub, tmp_path) == ["one"])
    assert hub.repos[DATASET].private
    store.add(row(verdict="wrong", comment="two"))
    wait_until(lambda: arrived(hub, tmp_path) == ["one", "two"])
    assert prepare(tmp_path / "downloaded", tmp_path / "out")["ratings"] == 2


def test_no_rating_is_lost_while_the_hub_is_down(
    hub: HubServer, start_space: Callable[[], Store], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as down:
        down.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
        store = start_space()
        store.add(row(verdict="wrong", comment="before the dataset could be opened"))
    wait_until(lambda: len(arrived(hub, tmp_path)) == 1)
    hub.faults.refuse = ("POST", 10**9)
    store.add(row(verdict="wrong", comment="between"))
    asked = len(hub.requests)
    wait_until(lambda: len(hub.requests) > asked)
    assert len(arrived(hub, tmp_path)) == 1
    hub.faults.refuse = None
    hub.faults.lose_commits = 1  # the commit is made, and its answer never arrives
    store.add(row(verdict="wrong", comment="then"))
    wait_until(lambda: len(arrived(hub, tmp_path)) == 3)


def test_a_space_that_starts_anew_keeps_the_ratings_from_before(hub: HubServer, start_space: Callable[[], Store], tmp_path: Path) -> None:
    for number in range(2):
        store = start_space()
        store.add(row(verdict="wrong", comment=f"start {number}"))
        wait_until(lambda number=number: len(arrived(hub, tmp_path)) == number + 1)
    assert arrived(hub, tmp_path) == ["start 0", "start 1"]


def test_what_was_rated_last_is_sent_when_the_app_ends(hub: HubServer, tmp_path: Path) -> None:
    script = (
        "import time; from app.conversation.feedback import Row, Store; from app.conversation.record import Turn\n"
        "from app.settings import Settings\n"
        "store, turn = Store(Settings(), minutes=60), Turn(question='What is asthma?', answer='A lung disease.')\n"
        "store.add(Row(turn=turn, verdict='wrong', comment='first'))\n"
        "while not (store.scheduler and store.scheduler.last_uploaded): time.sleep(0.05)\n"
        "store.add(Row(turn=turn, verdict='wrong', comment='last'))\n"
    )
    space = {"SPACE_ID": "somebody/chat", "FEEDBACK_REPO": DATASET, "FEEDBACK_FOLDER": str(tmp_path / "disk"), "HF_TOKEN": "hf_owner"}
    environment = {**unmeasured(os.environ), **space, "HF_ENDPOINT": hub.url}
    subprocess.run([sys.executable, "-c", script], check=True, env=environment, cwd=ROOT)
    assert arrived(hub, tmp_path) == ["first", "last"]
