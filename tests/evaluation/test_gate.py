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


@pytest.mark.parametrize("text", ["rules: 3", "rules:\n - {measure: x, tolerance: -1}", "rules:\n - {measur: x}", "a: [", "[]"])
def test_rules_that_cannot_be_read_are_one_sentence(tmp_path: Path, text: str) -> None:
    path = tmp_path / "rules.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_rules(path)
    assert_is_for_people(caught.value)
    with pytest.raises(ConfigError):
        load_rules(tmp_path / "nowhere.yaml")


def test_the_verdict_counts_measures_with_a_direction() -> None:
    taken = [measure(0.1, 0.2), measure(-0.1, 0.2), measure(-0.2, -0.1), measure(5, 6, None), {"n": 0, "higher_is_better": True}]
    assert verdict(taken) == "better on 1 of 3 measures, worse on 1, n = 200"
    assert verdict([]) == "nothing was measured"


def test_the_gate_needs_neither_torch_nor_transformers() -> None:
    code = "import sys, finetune.evaluation.gate; sys.exit(bool({'torch', 'transformers'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
