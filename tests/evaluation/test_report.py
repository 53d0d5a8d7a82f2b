"""The page: stands alone, escapes what models wrote, and leaves texts out where they may not be handed on."""

import re
from typing import Any

import pytest

from finetune.evaluation.metrics import compare, not_measured
from finetune.evaluation.report import glance, histogram, render, shareable, show, table

HOSTILE = '<script>alert("x")</script> ![](http://example.org/x)'


@pytest.fixture
def evaluation() -> dict[str, Any]:
    example = {"id": "1", "before": ["earlier"], "question": HOSTILE, "reference": "r", "base": HOSTILE, "tuned": ""}
    example |= {"base_rouge_l": 0.1, "tuned_rouge_l": 0.9}
    listed = {"id": "1", "question": HOSTILE, "reference": "Give 5 g.", "tuned": "Give 5 µg.", "pairs": [("5 µg", "5 g")]}
    entry = {
        "key": "held_out", "title": "held-out wording", "note": "A note.", "n": 3, "left_out": 1, "control": False, "unseen": False,
        "verdict": "better on 1 of 2 measures, worse on 1, n = 3", "reference_words": 9.5, "empty": {"base": 0, "tuned": 1},
        "rouge_l": {"base": [0.0, 0.05, 0.1], "tuned": [0.9, 1.0, 0.55]}, "best": [example], "worst": [example],
        "contradictions": {"with_quantities": 2, "base": 0, "tuned": 1, "listed": [listed]},
    }  # fmt: skip
    measures = {
        "answers:held_out/rouge_l": compare("ROUGE-L", [0.0, 0.05, 0.1], [0.9, 1.0, 0.55], higher_is_better=True, unit="score"),
        "answers:held_out/reference_nll": compare("Surprise", [1.0, 1.1, 1.2], [2.0, 2.1, 2.3], higher_is_better=False, unit="nats/token"),
        "answers:held_out/bert_score": not_measured("BERTScore", "no model was given"),
        "forgetting:general_text/nll": compare("General", [3.0, 3.1], [3.0, 3.1], higher_is_better=False, unit="nats/token"),
    }
    return {
        "adapter": "outputs/x", "adapter_revision": "r", "base": "b", "base_revision": "c", "demo": True, "suite": "quick", "seed": 0,
        "max_new_tokens": 8, "commit": None, "dirty": None, "versions": {"torch": "2"}, "device": "CPU", "dtype": "float32",
        "training_data": {"id": None, "licence": None}, "data": ["cards"], "data_sha256": "0" * 64, "judges": {}, "sets": [entry],
        "exams": [], "safety": [], "measures": measures, "verdict": "held-out wording: better", "refused": ["It got worse."],
    }  # fmt: skip


def test_the_page_loads_nothing_and_runs_nothing(evaluation: dict[str, Any]) -> None:
    page = render(evaluation)
    assert "<script" not in page and HOSTILE not in page and "&lt;script&gt;" in page
    assert not re.findall(r"(?:src|href)=|@import|url\(", page)
    assert page.index("Held-out wording: better") < page.index("<table")
    assert "It got worse." in page and "not measured: no model was given" in page and "(empty)" in page


def test_in_a_plot_right_is_better_whatever_the_measure(evaluation: dict[str, Any]) -> None:
    rouge, nll, missing = table(evaluation["measures"], "answers:held_out/")
    assert rouge["plot"]["dot"] > 50 > nll["plot"]["dot"] and (rouge["effect"], nll["effect"]) == ("better", "worse")
    assert 0 <= nll["plot"]["left"] <= nll["plot"]["dot"] <= nll["plot"]["right"] < 50
    assert "plot" not in missing


def test_every_score_is_counted_once() -> None:
    bins = histogram({"base": [0.0, 0.1, 1.0], "tuned": [0.999, 0.95, 0.05]})
    assert sum(found["base"] for found in bins) == sum(found["tuned"] for found in bins) == 3
    assert (bins[0]["base"], bins[1]["base"], bins[-1]["base"], bins[-1]["tuned"]) == (1, 1, 1, 2)


def test_figures_read_as_people_write_them() -> None:
    assert (show(0.256, "share"), show(-0.05, "share", True)) == ("26%", "\u22125.0")
    assert (show(2.0, "nats/token"), show(0.5, "score", True), show(30.25, "words")) == ("2.00 (7.4)", "+0.50", "30.2")


def test_at_a_glance_every_part_has_a_line(evaluation: dict[str, Any]) -> None:
    assert [name for name, _ in glance(evaluation)] == ["held-out wording", "forgetting"]


def test_answers_that_contradict_the_reference_are_listed(evaluation: dict[str, Any]) -> None:
    page = render(evaluation)
    assert "Of 2 references with a number, 0 are contradicted by the base" in page
    assert "<td>5 µg<br></td><td>5 g<br></td>" in page
    assert "5 µg" not in render(shareable(evaluation)) and evaluation["sets"][0]["contradictions"]["listed"]
    del evaluation["sets"][0]["contradictions"]
    assert "contradicted" not in render(evaluation), "a report of an earlier version is still shown"


def test_texts_that_may_not_be_handed_on_are_left_out(evaluation: dict[str, Any]) -> None:
    page = render(shareable(evaluation))
    assert "&lt;script&gt;" not in page and "ROUGE-L" in page
