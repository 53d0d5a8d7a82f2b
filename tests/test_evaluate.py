"""The evaluation: its measures are right, it answers as the app does, and what it writes says nothing of this machine."""

import json
import sys
from pathlib import Path

import pytest

from app.evidence import Evidence
from app.generation import GenerationRequest, LocalGenerator
from app.model import LoadedModel
from finetune.__main__ import main
from finetune.evaluate import follow_up_items, held_out_items, notice_rates, predict, trained_items
from finetune.metrics import bootstrap_mean, rouge_l
from finetune.sources import Card, read_cards
from tests.conftest import FLASHCARDS


@pytest.fixture(scope="module")
def cards() -> list[Card]:
    return [card for card in read_cards(FLASHCARDS) if card.follow_up][:3]


@pytest.mark.parametrize(
    ("prediction", "reference", "score"),
    [
        ("the cat sat", "the cat sat", 1.0),
        ("The CAT sat.", "the cat sat", 1.0),
        ("the cat", "the cat sat down", 2 / 3),
        ("sat cat the", "the cat sat", 1 / 3),
        ("dog", "the cat sat", 0.0),
        ("", "the cat sat", 0.0),
        (" \n", "the cat sat", 0.0),
    ],
)
def test_rouge_l_is_the_f1_of_the_longest_common_subsequence(prediction: str, reference: str, score: float) -> None:
    assert rouge_l(prediction, reference) == pytest.approx(score)


def test_an_interval_holds_its_mean_and_repeats() -> None:
    mean = bootstrap_mean([0, 1, 1, 1, 0, 1, 1, 0, 1, 1])
    assert (mean.n, mean.value) == (10, pytest.approx(0.7))
    assert 0.2 < mean.low < 0.7 < mean.high <= 1
    assert bootstrap_mean([0, 1, 1, 1, 0, 1, 1, 0, 1, 1]) == mean
    assert (bootstrap_mean([0.5]).low, bootstrap_mean([0.5]).high) == (0.5, 0.5)
    with pytest.raises(ValueError, match="at least one"):
        bootstrap_mean([])


def test_each_set_asks_what_its_name_says(cards: list[Card]) -> None:
    for card, trained, held_out, second in zip(cards, trained_items(cards), held_out_items(cards), follow_up_items(cards), strict=True):
        assert card.follow_up is not None
        assert trained.messages[0]["content"] in card.trained_wordings() and trained.reference == card.answer
        assert held_out.messages == [{"role": "user", "content": card.held_out}] and held_out.reference == card.answer
        assert second.messages[-1]["content"] == card.follow_up.rewordings[-1] and second.reference == card.follow_up.answer


@pytest.mark.parametrize("use_adapter", [True, False])
def test_in_batches_the_model_answers_as_it_does_in_the_chat(
    loaded: LoadedModel, generator: LocalGenerator, cards: list[Card], use_adapter: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("finetune.evaluate.MAX_NEW_TOKENS", 16)
    items = [*held_out_items(cards), *follow_up_items(cards)[:1]]
    predictions = predict(loaded, items, use_adapter, batch_size=3)
    for item, prediction in zip(items, predictions, strict=True):
        answer = generator.submit(GenerationRequest(item.messages, use_adapter=use_adapter, max_new_tokens=16))
        assert "".join(answer) == prediction.text
        assert prediction.ended == (answer.finish_reason == "stop")


def test_the_notice_is_counted_for_each_kind_apart(cards: list[Card]) -> None:
    evidence = Evidence([{"id": card.id, "question": card.held_out, "answer": card.answer} for card in cards])
    outside = [{"kind": "cooking", "question": "How do I bake sourdough bread?"}, {"kind": "travel", "question": cards[0].held_out}]
    rates = notice_rates(evidence, cards, outside)
    assert [rate.value for rate in rates.values()] == [0, 1, 0]


def test_the_report_names_the_adapter_without_its_place_on_this_machine(
    adapter_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("finetune.evaluate.MAX_NEW_TOKENS", 4)
    output = tmp_path / "evaluation.json"
    monkeypatch.setattr(
        sys,
        "argv",
        ["finetune", "evaluate", "--adapter", str(adapter_copy), "--limit", "2", "--output", str(output), "--cards", str(FLASHCARDS)],
    )
    main()
    assert str(tmp_path) not in output.read_text()
    report = json.loads(output.read_text())
    assert {"trained wording, adapter on", "trained wording, adapter off", "held-out wording, adapter on"} <= report["measures"].keys()
    assert all(measure["rouge_l"]["n"] <= 2 for measure in report["measures"].values())
