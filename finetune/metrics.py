"""Measures of an answer against a reference, and intervals for their means. Pure functions; knows no model."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from rouge_score.rouge_scorer import RougeScorer

_ROUGE = RougeScorer(["rougeL"], use_stemmer=False)


@dataclass(frozen=True)
class Mean:
    """A mean with its bootstrap 95% interval.

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


def rouge_l(prediction: str, reference: str) -> float:
    """ROUGE-L F1, 0 to 1; 0 for an empty prediction. Lin 2004, https://aclanthology.org/W04-1013/."""
    return float(_ROUGE.score(reference, prediction)["rougeL"].fmeasure) if prediction.strip() else 0.0


def bootstrap_mean(values: Sequence[float], seed: int = 0, resamples: int = 2000) -> Mean:
    """Mean of `values` with a percentile bootstrap 95% interval.

    Args:
        values: One number per example.
        seed: Seed of the resampling.
        resamples: Bootstrap samples.

    Raises:
        ValueError: There are no values.
    """
    data = np.asarray(values, dtype=float)
    if data.size == 0:
        raise ValueError("bootstrap_mean needs at least one value")
    draws = np.random.default_rng(seed).choice(data, size=(resamples, data.size)).mean(axis=1)
    low, high = np.percentile(draws, [2.5, 97.5])
    return Mean(data.size, float(data.mean()), float(low), float(high))
