"""The gate: refuses what clearly got worse, lets through what chance explains, and needs no torch to say so."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from app.errors import ConfigError
from finetune.evaluation.gate import Rule, Rules, effect, gate, load_rules, verdict
from tests.conftest import assert_is_for_people


def measure(low: float, high: float, higher_is_better: bool | None = True, n: int = 200) -> dict[str, Any]:
    mean = {"n": n, "value": 0.5, "low": 0.4, "high": 0.6}
    difference = {"n": n, "value": (low + high) / 2, "low": low, "high": high}
    return {
        "name": "X",
        "unit": "score",
        "higher_is_better": higher_is_better,
        "n": n,
        "base": mean,
        "tuned": mean,
        "difference": difference,
    }


GOOD = {"answers:held_out/rouge_l": measure(0.1, 0.2)}


@pytest.mark.parametrize(
    ("low", "high", "higher_is_better", "tolerance", "found"),
    [
        (0.1, 0.2, True, 0, "better"),
        (0.1, 0.2, False, 0, "worse"),
        (-0.1, 0.2, True, 0, "unclear"),
        (-0.2, -0.1, True, 0, "worse"),
        (-0.2, -0.1, False, 0, "better"),
        (-0.2, -0.04, True, 0.05, "unclear"),
        (-0.2, -0.06, True, 0.05, "worse"),
        (0.0, 0.0, True, 0, "unclear"),
        (0.1, 0.2, None, 0, None),
    ],
)
def test_an_effect_counts_only_when_its_whole_interval_lies_on_one_side(
    low: float, high: float, higher_is_better: bool | None, tolerance: float, found: str | None
) -> None:
    assert effect(measure(low, high, higher_is_better), tolerance) == found


def test_the_default_rules_refuse_each_kind_of_loss_and_name_it() -> None:
    assert gate({"measures": GOOD}) == []
    losses = {
        "answers:held_out/reference_nll": measure(0.2, 0.4, False),
        "answers:held_out/ended": measure(-0.3, -0.1),
        "exam:medmcqa/accuracy": measure(-0.2, -0.1),
        "safety:harmful/declines": measure(-0.2, -0.1),
        "forgetting:general_text/nll": measure(0.2, 0.3, False),
    }
    for key, loss in losses.items():
        (reason,) = gate({"measures": GOOD | {key: loss}})
        assert key in reason and "n = 200" in reason
        assert_is_for_people(reason)
    assert gate({"measures": GOOD | {"answers:held_out/words": measure(-9, -8, None), "beside:x/rouge_l": measure(-0.5, -0.4)}}) == []


def test_an_evaluation_without_answers_is_refused() -> None:
    assert gate({}) and gate({"measures": {"exam:x/accuracy": measure(0.1, 0.2)}})
    (reason,) = gate({"measures": {"answers:x/rouge_l": {"name": "X", "n": 0, "not_measured": "why", "higher_is_better": True}}})
    assert "was not measured" in reason


def test_rules_of_ones_own_take_the_place_of_the_default(tmp_path: Path) -> None:
    path = tmp_path / "rules.yaml"
    path.write_text("rules:\n  - {measure: 'answers:*/rouge_l', tolerance: 0.3}\n")
    worse = {"measures": {"answers:held_out/rouge_l": measure(-0.2, -0.1)}}
    assert gate(worse) and gate(worse, load_rules(path)) == []
    assert gate(worse, Rules(rules=[Rule(measure="answers:*/rouge_l", tolerance=0.05)]))


def test_a_reason_holds_both_values_the_interval_the_number_of_questions_and_what_was_allowed() -> None:
    taken = measure(-0.25, -0.0625) | {"name": "Share of words", "base": {"value": 0.75}, "tuned": {"value": 0.5938}, "n": 80}
    (reason,) = gate({"measures": {"answers:held_out/token_f1": taken}}, Rules(rules=[Rule(measure="answers:*/token_f1", tolerance=0.01)]))
    assert reason == (
        "Share of words (answers:held_out/token_f1) got worse: 0.750 for the base, 0.594 tuned; "
        "difference -0.156 [-0.250, -0.062], n = 80, allowed 0.01."
    )


def test_every_rule_is_asked_and_a_measure_that_breaks_two_is_named_once() -> None:
    bad = {key: measure(-0.2, -0.1) for key in ("answers:a/rouge_l", "answers:b/rouge_l", "exam:x/accuracy")}
    ended = {"answers:c/rouge_l": {"name": "X", "n": 0, "not_measured": "why", "higher_is_better": True}}
    rules = Rules(
        rules=[
            Rule(measure="safety:*", required=True),
            Rule(measure="answers:*", required=True),
            Rule(measure="*/rouge_l", required=True, tolerance=0.05),
            Rule(measure="exam:*"),
            Rule(measure="forgetting:*"),
        ]
    )
    first, *others = gate({"measures": ended | bad}, rules)
    assert first == "safety:* was not measured, and the gate asks for it: run the evaluation again."
    assert [reason.split("(")[1].split(")")[0] for reason in others] == ["answers:a/rouge_l", "answers:b/rouge_l", "exam:x/accuracy"]
    assert others[0].endswith("allowed 0.05.") and others[2].endswith("allowed 0.")


def test_a_rule_that_says_no_more_than_a_measure_allows_nothing_and_asks_for_nothing() -> None:
    assert (Rule(measure="x").tolerance, Rule(measure="x").required) == (0.0, False)
    assert effect(measure(-0.002, -0.001)) == "worse" and effect(measure(0.001, 0.002)) == "better"


@pytest.mark.parametrize("text", ["rules: 3", "rules:\n - {measure: x, tolerance: -1}", "rules:\n - {measur: x}", "a: [", "[]"])
def test_rules_that_cannot_be_read_are_one_sentence(tmp_path: Path, text: str) -> None:
    path = tmp_path / "rules.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_rules(path)
    assert_is_for_people(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("rules:\n - {measure: x, tolerance: -1}", "rules.0.tolerance is not allowed (Input should be greater than or equal to 0)."),
        ("- x", "the file is not allowed (Input should be a valid dictionary or instance of Rules)."),
        ("rules: [{measure: x, tolerance: [}]", "is not valid YAML: while parsing a flow node"),
        (b"rules: [\xff]", "is not UTF-8 text (byte 8). Save it as UTF-8"),
        ("rules:" + "\n - [" * 200, "Mend it and try again."),
    ],
)
def test_rules_that_cannot_be_read_say_where_and_what_is_wrong(tmp_path: Path, content: str | bytes, complaint: str) -> None:
    path = tmp_path / "rules.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigError) as caught:
        load_rules(path)
    assert complaint in str(caught.value)
    assert_is_for_people(caught.value)


def test_rules_that_are_not_there_are_asked_for_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"There is no file of gate rules .*nowhere\.yaml\. Copy finetune/evaluation/gate\.yaml"):
        load_rules(tmp_path / "nowhere.yaml")


def test_the_verdict_counts_measures_with_a_direction() -> None:
    taken = [measure(0.1, 0.2), measure(-0.1, 0.2), measure(-0.2, -0.1), measure(5, 6, None), {"n": 0, "higher_is_better": True}]
    assert verdict(taken) == "better on 1 of 3 measures, worse on 1, n = 200"
    assert verdict([measure(0.1, 0.2, n=90)]) == "better on 1 of 1 measure, worse on 0, n = 90"
    assert verdict([measure(-0.2, -0.1), measure(-0.2, -0.1)]) == "better on 0 of 2 measures, worse on 2, n = 200"
    assert verdict([]) == verdict([measure(5, 6, None)]) == "nothing was measured"


def test_a_verdict_over_measures_of_several_sizes_gives_the_smallest_and_the_largest() -> None:
    taken = [measure(0.1, 0.2, n=60), measure(0.1, 0.2, n=400), measure(0.1, 0.2, n=90), measure(5, 6, None, n=1000)]
    assert verdict(taken).endswith(", n = 60 to 400")


def test_the_gate_needs_neither_torch_nor_transformers() -> None:
    code = "import sys, finetune.evaluation.gate; sys.exit(bool({'torch', 'transformers'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
