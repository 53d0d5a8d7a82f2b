"""The evaluation: it answers as the app does, repeats and resumes to the byte, and says nothing of this machine."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from app.adapter.contract import BaseIdentity
from app.engine.answer import GenerationRequest
from app.engine.generation import LocalGenerator
from app.engine.model import LoadedModel
from app.errors import DataError
from app.settings import ROOT
from finetune.__main__ import main
from finetune.config import TrainConfig
from finetune.data.sources import Card, Origin, load_source, read_cards
from finetune.evaluation.answers import run_forgetting, run_set
from finetune.evaluation.evaluate import Options, add_beside, evaluate, output_path, write
from finetune.evaluation.questions import QuestionSet, card_sets, data_sets, follow_up_items, held_out_items, trained_items
from finetune.evaluation.scoring import Item, Journal, answer_completion, in_batches, log_likelihoods, predict
from finetune.training.adapter import provenance
from tests.conftest import FLASHCARDS, assert_is_for_people

BASE = BaseIdentity(id="some/base", revision=None, architecture={})


@pytest.fixture(scope="module")
def cards() -> list[Card]:
    return [card for card in read_cards(FLASHCARDS) if card.follow_up][:3]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Options:
    """Few and short questions of every part."""
    prompts = [json.loads(line) for line in (ROOT / "assets" / "safety_prompts.jsonl").read_text(encoding="utf-8").splitlines()]
    few = tmp_path / "prompts.jsonl"
    few.write_text("".join(json.dumps(prompt) + "\n" for prompt in [*prompts[:2], *prompts[63:65], *prompts[-2:]]), encoding="utf-8")
    monkeypatch.chdir(ROOT)
    return Options(limit=2, safety=few, max_new_tokens=6)


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["finetune", "evaluate", *map(str, arguments)])
    main()


def test_each_set_asks_what_its_name_says(cards: list[Card]) -> None:
    for card, trained, held_out, second in zip(cards, trained_items(cards), held_out_items(cards), follow_up_items(cards), strict=True):
        assert card.follow_up is not None
        assert trained.messages[0]["content"] in card.trained_wordings() and trained.reference == card.answer
        assert held_out.messages == [{"role": "user", "content": card.held_out}] and held_out.reference == card.answer
        assert second.messages[-1]["content"] == card.follow_up.rewordings[-1] and second.reference == card.follow_up.answer


def test_cards_that_the_adapter_never_saw_are_a_row_of_their_own(cards: list[Card]) -> None:
    sets = {found.key: found for found in card_sets(cards, {cards[0].id, cards[1].id}, None)}
    assert sorted(sets) == ["held_out", "never_trained", "second_turn", "trained"]
    assert [item.id for item in sets["never_trained"].items] == [cards[2].id]
    assert [item.id for item in sets["held_out"].items] == [cards[0].id, cards[1].id]
    assert [found.key for found in sets.values() if found.control] == ["trained"]
    assert [found.key for found in card_sets(cards, set(), None)] == ["never_trained"]


def four_questions(path: Path) -> str:
    rows = [{"question": f"q{i}", "answer": f"a{i}"} for i in range(4)]
    lines = ["question,answer", *(",".join(row.values()) for row in rows)] if path.suffix == ".csv" else map(json.dumps, rows)
    path.write_text("\n".join(lines), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("name", ["mine.jsonl", "mine.csv"])
@pytest.mark.parametrize("prepared", [False, True], ids=["trained on the file", "trained on a folder prepared from it"])
def test_rows_that_were_trained_on_are_not_asked(tmp_path: Path, name: str, prepared: bool) -> None:
    path = four_questions(tmp_path / name)
    source = load_source(path)

    def run(rows: list[int]) -> dict[str, Any]:
        """What training writes down."""
        examples = [source.examples[row] for row in rows]
        if not prepared:
            return provenance(TrainConfig(base=str(ROOT / "assets" / "demo" / "base")), source, examples, [], BASE)
        mixture = replace(source, id="mixture", origins=[Origin("another", None, None), Origin(name, None, None)])
        other = replace(source.examples[0], source="another")
        return provenance(TrainConfig(base=str(ROOT / "assets" / "demo" / "base")), mixture, [other, *examples], [], BASE)

    (found,) = data_sets(path, run([2, 3]), None)
    assert [item.messages[0]["content"] for item in found.items] == ["q0", "q1"]
    assert "did not use" in found.note
    with pytest.raises(DataError) as caught:
        data_sets(path, run([0, 1, 2, 3]), None)
    assert_is_for_people(caught.value)


def test_of_other_data_all_rows_are_asked(tmp_path: Path) -> None:
    path = four_questions(tmp_path / "mine.jsonl")
    (found,) = data_sets(path, {"data": {"id": "other.jsonl", "rows": ["0", "2"]}}, None)
    assert len(found.items) == 4 and "other data" in found.note
    (found,) = data_sets(path, {}, None)
    assert len(found.items) == 4


@pytest.mark.parametrize("use_adapter", [True, False])
def test_in_batches_the_model_answers_as_it_does_in_the_chat(
    loaded: LoadedModel, generator: LocalGenerator, cards: list[Card], use_adapter: bool
) -> None:
    items = [*held_out_items(cards), *follow_up_items(cards)[:1]]
    predictions = predict(loaded, items, use_adapter, batch_size=3, max_new_tokens=16)
    for item, prediction in zip(items, predictions, strict=True):
        answer = generator.submit(GenerationRequest(item.messages, use_adapter=use_adapter, max_new_tokens=16))
        assert "".join(answer) == prediction.text
        assert prediction.ended == (answer.finish_reason == "stop")


def test_likelihoods_in_padded_batches_are_those_of_each_text_alone(loaded: LoadedModel, cards: list[Card]) -> None:
    import torch

    completions = [answer_completion(loaded, item.messages, item.reference) for item in held_out_items(cards)]
    for use_adapter in (True, False):
        together = log_likelihoods(loaded, completions, use_adapter, batch_size=3)
        for completion, score in zip(completions, together, strict=True):
            ids = torch.tensor([completion.ids])
            labels = ids.clone()
            labels[0, : completion.prompt] = -100
            with torch.inference_mode():
                if use_adapter:
                    loss = loaded.model(input_ids=ids, labels=labels).loss
                else:
                    with loaded.model.disable_adapter():
                        loss = loaded.model(input_ids=ids, labels=labels).loss
            assert score == pytest.approx(-float(loss) * (len(completion.ids) - completion.prompt), rel=1e-4)


def test_a_batch_that_does_not_fit_the_memory_is_halved() -> None:
    import torch

    sizes = []

    def work(part: list[int]) -> list[int]:
        sizes.append(len(part))
        if len(part) > 2:
            raise torch.cuda.OutOfMemoryError("too much")
        return [-number for number in part]

    assert in_batches([3, 1, 2, 5, 4], work, lambda number: number, name="x", batch_size=5, journal=Journal()) == [-3, -1, -2, -5, -4]
    assert sizes == [5, 2, 2, 1]


def test_a_journal_of_other_data_or_cut_off_in_a_line_is_not_trusted(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    journal = Journal(path, "one")
    journal.put("answers", 0, [1, 2])
    journal.put("answers", 2, [3])
    with path.open("a") as file:
        file.write('{"name": "answers", "sta')
    again = Journal(path, "one", resume=True)
    assert (again.get("answers", 0), again.get("answers", 2), again.get("answers", 3)) == ([1, 2], [3], None)
    again.put("answers", 3, [4])
    assert Journal(path, "one", resume=True).get("answers", 3) == [4]
    assert Journal(path, "other", resume=True).count == 0


def test_empty_answers_score_nothing_and_are_counted(loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    from finetune.evaluation.scoring import Prediction

    answers = iter([[Prediction("", True), Prediction("a b", True)], [Prediction(" \n", False), Prediction("a b", False)]])
    monkeypatch.setattr("finetune.evaluation.answers.predict", lambda *_, **__: next(answers))
    found = QuestionSet("x", "x", "x.", [Item([{"role": "user", "content": "q"}], "a b")] * 2)
    entry, measures = run_set(loaded, found, 4, {}, {}, Journal())
    assert entry["empty"] == {"base": 1, "tuned": 1}
    assert measures["answers:x/rouge_l"]["tuned"]["value"] == 0.5
    assert "no model was given (--bertscore-model)" in measures["answers:x/bert_score"]["not_measured"]


def without_times(evaluation: dict[str, Any]) -> str:
    return json.dumps({key: value for key, value in evaluation.items() if key != "times"})


def test_a_run_repeats_to_the_byte_also_when_it_was_stopped_and_resumed(
    loaded: LoadedModel, small: Options, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("finetune.evaluation.evaluate.open_adapter", lambda *_: loaded)
    monkeypatch.setattr("finetune.environment._git", lambda *words: "")  # somebody may commit meanwhile
    whole = evaluate("the demo", small)
    keys = whole["measures"].keys()
    assert {"answers:held_out/rouge_l", "exam:flashcards/accuracy", "safety:harmful/declines", "forgetting:general_text/nll"} <= keys
    assert all({"n", "higher_is_better"} <= measure.keys() for measure in whole["measures"].values())
    kept, put = [], Journal.put

    def interrupt(journal: Journal, *batch: Any) -> None:
        put(journal, *batch)
        kept.append(batch)
        if len(kept) == 5:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Journal, "put", interrupt)
        with pytest.raises(KeyboardInterrupt):
            evaluate("the demo", small, tmp_path / "journal.jsonl")
    monkeypatch.setattr(Journal, "put", lambda journal, *batch: kept.append(batch))
    resumed = evaluate("the demo", small, tmp_path / "journal.jsonl", resume=True)
    assert without_times(resumed) == without_times(whole)
    names = [(batch[0], batch[1]) for batch in kept]
    assert len(names) == len(set(names)) > 10  # nothing was done twice
    assert not (tmp_path / "journal.jsonl").exists()

    other = tmp_path / "other.json"
    unseen = [entry | {"unseen": True} for entry in whole["sets"] if entry["key"] == "held_out"]
    write(whole | {"sets": unseen, "adapter": "outputs/nine-tenths"}, other)
    add_beside(whole, other)
    assert whole["sets"][-1]["key"] == "outputs/nine-tenths:held_out"
    assert "beside:outputs/nine-tenths:held_out/rouge_l" in whole["measures"]
    write(whole, tmp_path / "evaluation.json")
    assert "another adapter, outputs/nine-tenths" in (tmp_path / "evaluation.html").read_text(encoding="utf-8")


def test_the_report_names_the_adapter_without_its_place_on_this_machine(
    adapter_copy: Path, tmp_path: Path, small: Options, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    output = tmp_path / "new" / "evaluation.json"
    run(
        monkeypatch, "--adapter", adapter_copy, "--limit", 2, "--output", output, "--data", FLASHCARDS, "--safety", small.safety,
        "--max-new-tokens", 4,
    )  # fmt: skip
    texts = output.read_text(encoding="utf-8"), output.with_suffix(".html").read_text(encoding="utf-8")
    assert not [text for text in texts if str(tmp_path) in text or str(ROOT) in text]
    report = json.loads(texts[0])
    assert all(measure["n"] <= 16 for key, measure in report["measures"].items() if key.startswith("answers:"))
    assert "held-out wording, adapter on" in caplog.text and "trained wording, adapter off" in caplog.text
    assert not list(output.parent.glob("*.journal.jsonl"))


def test_a_hub_adapter_gets_a_folder_of_ours() -> None:
    assert output_path("somebody/Llama-x@approved") == Path("outputs/somebody--Llama-x--approved/evaluation.json")
    assert output_path("assets/demo/adapter") == Path("assets/demo/adapter/evaluation.json")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--data", "nowhere.jsonl"],
        ["--exam", "nowhere.csv"],
        ["--exam", str(FLASHCARDS)],
        ["--exam-columns", "question=a"],
        ["--safety", str(FLASHCARDS)],
        ["--gate", "nowhere.yaml"],
        ["--ratings", "nowhere.csv"],
        ["--ratings", "nowhere.csv", "--rating-key", "nowhere.json"],
        ["--beside", "nowhere.json", "--limit", "1", "--max-new-tokens", "1"],
    ],
    ids=lambda arguments: " ".join(Path(word).name for word in arguments),
)
def test_bad_input_gets_one_sentence(
    arguments: list[str], adapter_copy: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(SystemExit) as caught:
        run(monkeypatch, "--adapter", adapter_copy, *arguments)
    assert caught.value.code == 1
    assert_is_for_people(caplog.records[-1].getMessage())


def test_a_base_that_knows_no_general_text_has_none_to_forget(loaded: LoadedModel) -> None:
    (measure,) = run_forgetting(loaded, Journal()).values()
    assert measure["n"] == 0 and "knows no general text" in measure["not_measured"]
