"""Measures of an answer against a reference, intervals, and the paired comparison of two models. Pure functions; knows no model.

The measures of shared words split texts as `app.notices.words` does: in every script, and with the signs that matter in medicine, so
that "5 µg" is not "5 g" and "≥ 30" not "< 30".
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from rouge_score.rouge_scorer import RougeScorer
from rouge_score.tokenizers import Tokenizer
from scipy.stats import binomtest

from app.notices.words import words


class _Words(Tokenizer):
    def tokenize(self, text: str) -> list[str]:
        return words(text)


_ROUGE = RougeScorer(["rouge1", "rouge2", "rougeL"], tokenizer=_Words())
_ARTICLES = {"a", "an", "the"}

# Digits that a report keeps: rounding in the last ones differs between processors.
DIGITS = 6


@dataclass(frozen=True)
class Mean:
    """A mean with its 95% interval.

    Attributes:
        n: Values.
        value: Their mean.
        low, high: The interval's ends.
    """

    n: int
    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}] (n = {self.n})"


def rouge(prediction: str, reference: str) -> dict[str, float]:
    """F1 of ROUGE-1, ROUGE-2 and ROUGE-L, 0 to 1; 0 where either text has no word. Lin 2004, https://aclanthology.org/W04-1013/."""
    scores = _ROUGE.score(reference, prediction)
    return {f"rouge_{name[-1].lower()}": float(score.fmeasure) for name, score in scores.items()}


def rouge_l(prediction: str, reference: str) -> float:
    """ROUGE-L F1, 0 to 1; 0 for an empty prediction."""
    return rouge(prediction, reference)["rouge_l"]


def _bare_words(text: str) -> list[str]:
    return [word for word in words(text) if word not in _ARTICLES]


def token_f1(prediction: str, reference: str) -> float:
    """F1 of the words that both texts hold, in any order, articles left out. SQuAD's, https://arxiv.org/abs/1606.05250, with our words."""
    ours, theirs = Counter(_bare_words(prediction)), Counter(_bare_words(reference))
    shared = (ours & theirs).total()
    return 2 * shared / (ours.total() + theirs.total()) if shared else 0.0


def bootstrap_mean(values: Sequence[float], seed: int = 0, resamples: int = 2000) -> Mean:
    """Mean of `values` with a percentile bootstrap 95% interval.

    Args:
        values: One number per example.
        seed: Seed of the resampling.
        resamples: Bootstrap samples.

    Raises:
        ValueError: There are no values.
    """
    data = np.asarray(values)
    if data.size == 0:
        raise ValueError("bootstrap_mean needs at least one value")
    draws = np.random.default_rng(seed).choice(data, size=(resamples, data.size)).mean(axis=1)
    low, high = np.percentile(draws, [2.5, 97.5])
    return Mean(data.size, float(data.mean()), float(low), float(high))


def proportion(values: Sequence[bool]) -> Mean:
    """A share with Wilson's 95% interval, which stays wide where none or all of a few values are true.

    Raises:
        ValueError: There are no values.
    """
    count, n = sum(map(bool, values)), len(values)
    if n == 0:
        raise ValueError("proportion needs at least one value")
    interval = binomtest(count, n).proportion_ci(method="wilson")
    return Mean(n, count / n, float(interval.low), float(interval.high))


def mcnemar(base: Sequence[bool], tuned: Sequence[bool]) -> dict[str, float | int]:
    """McNemar's exact test: of the questions that only one model answered right, does either model have more than chance would give it?

    Returns:
        `only_base` and `only_tuned`, the counts of those questions, and the two-sided `p_value`. McNemar 1947,
        https://doi.org/10.1007/BF02295996, with the exact binomial distribution.
    """
    pairs = list(zip(base, tuned, strict=True))
    only_base, only_tuned = sum(b and not t for b, t in pairs), sum(t and not b for b, t in pairs)
    differing = only_base + only_tuned
    p_value = float(binomtest(only_base, differing).pvalue) if differing else 1.0
    return {"only_base": only_base, "only_tuned": only_tuned, "p_value": round(p_value, DIGITS)}


def rounded(mean: Mean) -> dict[str, float | int]:
    """A mean as a report holds it."""
    return {key: round(value, DIGITS) for key, value in asdict(mean).items()}


def compare(name: str, base: Sequence[float], tuned: Sequence[float], *, higher_is_better: bool | None, unit: str) -> dict[str, Any]:
    """Base against tuned on the same examples.

    Args:
        name: What people call the measure.
        base: One value per example.
        tuned: The same for the tuned model, in the same order.
        higher_is_better: None where neither direction is better.
        unit: "score" (0 to 1), "share" (of the examples), "nats/token" or "words".

    Returns:
        The measure as `evaluation.json` holds it: the two means, and the mean of the paired differences, tuned less base.

    Raises:
        ValueError: There are no values, or not as many of one model as of the other.
    """
    binary = all(isinstance(value, bool) for value in [*base, *tuned])
    mean = proportion if binary else bootstrap_mean
    differences = [float(after) - float(before) for before, after in zip(base, tuned, strict=True)]
    return {
        "name": name,
        "unit": unit,
        "higher_is_better": higher_is_better,
        "n": len(differences),
        "base": rounded(mean(base)),  # type: ignore[arg-type]
        "tuned": rounded(mean(tuned)),  # type: ignore[arg-type]
        "difference": rounded(bootstrap_mean(differences)),
    }


def not_measured(name: str, reason: str, unit: str = "score") -> dict[str, Any]:
    """A row for a measure that could not be taken; nothing is put in its place."""
    return {"name": name, "unit": unit, "higher_is_better": True, "n": 0, "not_measured": reason}
