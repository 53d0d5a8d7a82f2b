"""Measures are what their sources define, and intervals say what the data allow."""

import math

import pytest
from scipy.stats import binom, norm

from finetune.evaluation.metrics import (
    Mean,
    bootstrap_mean,
    compare,
    mcnemar,
    not_measured,
    proportion,
    rouge,
    rouge_l,
    rounded,
    token_f1,
)


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


def test_rouge_1_and_2_count_words_and_pairs() -> None:
    scores = rouge("sat cat the", "the cat sat")
    assert (scores["rouge_1"], scores["rouge_2"]) == (1.0, 0.0)
    # Two of two words and one of one pair are in the reference, which has four words and three pairs.
    assert rouge("the cat", "the cat sat down") == pytest.approx({"rouge_1": 2 / 3, "rouge_2": 1 / 2, "rouge_l": 2 / 3})
    assert rouge("", "x") == rouge("x", "") == {"rouge_1": 0.0, "rouge_2": 0.0, "rouge_l": 0.0}


@pytest.mark.parametrize(
    ("prediction", "reference", "score"),
    [
        ("The aspirin!", "aspirin", 1.0),
        ("aspirin daily", "daily statin", 0.5),
        ("pain and pain", "pain", 0.5),
        ("aspirin daily with food", "Food, with aspirin.", 6 / 7),
        ("An answer in five words", "answer", 0.4),
        ("", "aspirin", 0.0),
        ("a the", "aspirin", 0.0),
        ("a the", "the a", 0.0),
    ],
)
def test_token_f1_ignores_articles_order_and_punctuation(prediction: str, reference: str, score: float) -> None:
    assert token_f1(prediction, reference) == pytest.approx(score)


def test_an_interval_holds_its_mean_and_repeats() -> None:
    mean = bootstrap_mean([0, 1, 1, 1, 0, 1, 1, 0, 1, 1])
    assert (mean.n, mean.value) == (10, pytest.approx(0.7))
    assert 0.2 < mean.low < 0.7 < mean.high <= 1
    assert bootstrap_mean([0, 1, 1, 1, 0, 1, 1, 0, 1, 1]) == mean
    assert (bootstrap_mean([0.5]).low, bootstrap_mean([0.5]).high) == (0.5, 0.5)
    assert str(Mean(3, 0.12345, -1.0, 2.0)) == "0.123 [-1.000, 2.000] (n = 3)"


def test_an_interval_leaves_out_a_fortieth_at_either_end() -> None:
    """The mean of resampled zeros and ones is a binomial count: its quantiles are known."""
    n, share = 400, 0.5
    mean = bootstrap_mean([0.0, 1.0] * (n // 2))
    assert mean.value == share
    assert [mean.low * n, mean.high * n] == pytest.approx([binom.ppf(0.025, n, share), binom.ppf(0.975, n, share)], abs=1)
    assert type(mean.low) is type(mean.high) is type(mean.value) is float


def test_an_interval_rests_on_two_thousand_resamples_by_one_seed() -> None:
    values = [0.1 * number**2 for number in range(12)]
    found = bootstrap_mean(values)
    assert found == bootstrap_mean(values, 0, 2000)
    assert found not in (bootstrap_mean(values, 1), bootstrap_mean(values, resamples=2001))


def test_an_interval_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="^bootstrap_mean needs at least one value$"):
        bootstrap_mean([])
    with pytest.raises(ValueError, match="^proportion needs at least one value$"):
        proportion([])


@pytest.mark.parametrize(("true", "n"), [(0, 20), (15, 20), (1, 1), (400, 400)])
def test_a_share_has_wilsons_interval(true: int, n: int) -> None:
    z, p = norm.ppf(0.975), true / n
    centre, half = p + z**2 / (2 * n), z * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    share = proportion([True] * true + [False] * (n - true))
    assert (share.n, share.value) == (n, p)
    assert (share.low, share.high) == pytest.approx(((centre - half) / (1 + z**2 / n), (centre + half) / (1 + z**2 / n)), abs=1e-9)


def test_the_difference_is_paired() -> None:
    noisy = [float(i % 7) for i in range(70)]
    measure = compare("x", noisy, [value + 0.1 for value in noisy], higher_is_better=True, unit="score")
    assert measure["difference"]["low"] == pytest.approx(0.1) == measure["difference"]["high"]
    assert measure["base"]["high"] > measure["tuned"]["low"]  # the means alone would not show it
    with pytest.raises(ValueError, match="shorter"):
        compare("x", [1.0, 2.0], [1.0], higher_is_better=True, unit="score")


def test_a_measure_holds_both_models_means_and_tuned_less_base() -> None:
    measure = compare("Accuracy", [True, False, False], [True, True, False], higher_is_better=True, unit="share")
    difference = bootstrap_mean([0.0, 1.0, 0.0])
    assert measure == {
        "name": "Accuracy",
        "unit": "share",
        "higher_is_better": True,
        "n": 3,
        "base": rounded(proportion([True, False, False])),
        "tuned": rounded(proportion([True, True, False])),
        "difference": {"n": 3, "value": 0.333333, "low": 0.0, "high": round(difference.high, 6)},
    }
    half = compare("x", [True, False], [1.0, 0.5], higher_is_better=None, unit="score")
    assert half["base"] == rounded(bootstrap_mean([1.0, 0.0])) != rounded(proportion([True, False])), "not both are yes or no"
    assert half["higher_is_better"] is None and half["difference"]["value"] == 0.25


def test_what_was_not_measured_has_a_reason_and_no_value() -> None:
    row = {"name": "X", "unit": "score", "higher_is_better": True, "n": 0, "not_measured": "no model"}
    assert not_measured("X", "no model") == row
    assert not_measured("X", "no model", "words") == row | {"unit": "words"}


def test_mcnemar_looks_at_the_questions_that_only_one_model_got_right() -> None:
    base = [True] * 5 + [False] * 15
    tuned = [True] * 4 + [False] + [True] * 9 + [False] * 6
    found = mcnemar(base, tuned)
    assert (found["only_base"], found["only_tuned"]) == (1, 9)
    assert found["p_value"] == round(2 * (1 + 10) / 2**10, 6)
    assert mcnemar([True, False], [True, False]) == {"only_base": 0, "only_tuned": 0, "p_value": 1.0}
    assert mcnemar([True] * 6, [False] * 6)["p_value"] == round(2 / 2**6, 6)
    for base, tuned in (([True, False], [True]), ([True], [True, False])):
        with pytest.raises(ValueError, match="argument 2"):
            mcnemar(base, tuned)
