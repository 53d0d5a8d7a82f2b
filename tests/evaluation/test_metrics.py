"""Measures are what their sources define, and intervals say what the data allow."""

import math

import pytest

from finetune.evaluation.metrics import bootstrap_mean, compare, mcnemar, proportion, rouge, rouge_l, token_f1


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
    assert rouge("", "x") == rouge("x", "") == {"rouge_1": 0.0, "rouge_2": 0.0, "rouge_l": 0.0}


@pytest.mark.parametrize(
    ("prediction", "reference", "score"),
    [("The aspirin!", "aspirin", 1.0), ("aspirin daily", "daily statin", 0.5), ("", "aspirin", 0.0), ("a the", "aspirin", 0.0)],
)
def test_token_f1_ignores_articles_order_and_punctuation(prediction: str, reference: str, score: float) -> None:
    assert token_f1(prediction, reference) == pytest.approx(score)


def test_an_interval_holds_its_mean_and_repeats() -> None:
    mean = bootstrap_mean([0, 1, 1, 1, 0, 1, 1, 0, 1, 1])
    assert (mean.n, mean.value) == (10, pytest.approx(0.7))
    assert 0.2 < mean.low < 0.7 < mean.high <= 1
    assert bootstrap_mean([0, 1, 1, 1, 0, 1, 1, 0, 1, 1]) == mean
    assert (bootstrap_mean([0.5]).low, bootstrap_mean([0.5]).high) == (0.5, 0.5)
    with pytest.raises(ValueError, match="at least one"):
        bootstrap_mean([])


def test_a_share_of_none_is_not_certain() -> None:
    share = proportion([False] * 20)
    assert share.value == share.low == 0 and 0.1 < share.high < 0.25
    with pytest.raises(ValueError, match="at least one"):
        proportion([])


def test_the_difference_is_paired() -> None:
    noisy = [float(i % 7) for i in range(70)]
    measure = compare("x", noisy, [value + 0.1 for value in noisy], higher_is_better=True, unit="score")
    assert measure["difference"]["low"] == pytest.approx(0.1) == measure["difference"]["high"]
    assert measure["base"]["high"] > measure["tuned"]["low"]  # the means alone would not show it


def test_mcnemar_looks_at_the_questions_that_only_one_model_got_right() -> None:
    base = [True] * 5 + [False] * 15
    tuned = [True] * 4 + [False] + [True] * 9 + [False] * 6
    found = mcnemar(base, tuned)
    assert (found["only_base"], found["only_tuned"]) == (1, 9)
    assert found["p_value"] == pytest.approx(2 * (1 + 10) / 2**10, abs=1e-6)
    assert mcnemar([True, False], [True, False])["p_value"] == 1.0
    assert not math.isnan(found["p_value"])
