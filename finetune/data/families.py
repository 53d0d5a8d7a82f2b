"""Finds near-duplicates by the words that two texts share, and the families that they form. Knows texts, no files and no model.

Two texts are compared by the Jaccard index of their sets of words: words in both over words in either. Candidates come from sparse
products, over pairs of a text's rarest words and over min-hashes (Broder 1997, https://doi.org/10.1109/SEQUEN.1997.666900), and each is
then verified over all words, so that a reported similarity is exact.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy.sparse import csr_array, vstack
from scipy.sparse.csgraph import connected_components

from app.notices.words import words

# Texts as alike as this are one card in other words: a pair of them may not straddle a split.
FAMILY = 0.45

# Two texts are compared when they share two of so many rarest words of each: that finds rewordings of something particular.
RAREST = 8
# They are also compared when they agree in one of so many bands of so many min-hashes: that finds texts made by one pattern.
BANDS, HASHES = 16, 4
# What more texts share than this is no sign of kinship, and comparing all of them would cost the square of their number.
SHARED_BY = 1000
# Two lists with at most so many pairs between them are compared in full.
EXACT = 20_000_000
# Products and comparisons made at once; they bound the memory to a few hundred MB.
PRODUCTS, COMPARISONS = 4_000_000, 100_000


def jaccard(left: Iterable[str], right: Iterable[str]) -> float:
    """Words in both sets over words in either; 0 for two empty ones."""
    one, other = set(left), set(right)
    return len(one & other) / (len(one | other) or 1)


@dataclass(frozen=True)
class Pairs:
    """Pairs of texts, as numbers of their places.

    Attributes:
        left, right: (N,) int64, places in the first and in the second list of texts.
        similarity: (N,) float64, Jaccard index of the two sets of words.
    """

    left: np.ndarray
    right: np.ndarray
    similarity: np.ndarray

    def at_least(self, threshold: float) -> "Pairs":
        """The pairs that are so alike or more."""
        kept = self.similarity >= threshold
        return Pairs(self.left[kept], self.right[kept], self.similarity[kept])


def word_sets(texts: Sequence[str | Sequence[str]]) -> csr_array:
    """The set of words of each text, or of each list of words.

    Returns:
        (texts, words) int8 of ones; words are numbered from the rarest to the commonest, and sorted within a row.
    """
    vocabulary: dict[str, int] = {}
    rows = []
    for text in texts:
        found = {vocabulary.setdefault(word, len(vocabulary)) for word in (words(text) if isinstance(text, str) else text)}
        rows.append(np.fromiter(found, np.int32, len(found)))
    ends = np.cumsum([0, *map(len, rows)])
    flat = np.concatenate([*rows, np.empty(0, np.int32)])
    rank = np.empty(len(vocabulary), np.int32)
    rank[np.argsort(np.bincount(flat), kind="stable")] = np.arange(len(vocabulary))
    sets = csr_array((np.ones(len(flat), np.int8), rank[flat], ends), shape=(len(texts), max(1, len(vocabulary))))
    sets.sort_indices()
    return sets


def _signs(sets: csr_array) -> csr_array:
    """(texts, signs) int8 of ones: what a text shares with the texts that it is to be compared with."""
    start, size = sets.indptr[:-1].astype(np.int64), np.diff(sets.indptr)
    keys, rows = [], []
    for first in range(RAREST):
        for second in range(first, RAREST):
            # A single word stands for a pair in texts that are too short for pairs.
            holders = np.flatnonzero(size > second) if first != second else np.flatnonzero((size > second) & (size < 4))
            one, other = (sets.indices[start[holders] + place].astype(np.uint64) for place in (first, second))
            keys.append(one * np.uint64(sets.shape[1]) + other)
            rows.append(holders)
    rng, filled = np.random.default_rng(0), np.flatnonzero(size)
    for band in range(BANDS):
        key = np.full(len(filled), band + 1, np.uint64)
        for _ in range(HASHES):
            order = rng.permutation(sets.shape[1]).astype(np.uint32)
            key = key * np.uint64(0x9E3779B97F4A7C15) + np.minimum.reduceat(order[sets.indices], start[filled]).astype(np.uint64)
        keys.append(key)
        rows.append(filled)
    _, column, texts_with = np.unique(np.concatenate(keys), return_inverse=True, return_counts=True)
    telling = (texts_with > 1) & (texts_with <= SHARED_BY)
    kept, number = telling[column], np.cumsum(telling) - 1
    shape = (sets.shape[0], max(1, int(telling.sum())))
    return csr_array((np.ones(int(kept.sum()), np.int8), (np.concatenate(rows)[kept], number[column[kept]])), shape=shape)


def similar_pairs(sets: csr_array, threshold: float = FAMILY, others: csr_array | None = None) -> Pairs:
    """Pairs of texts that are at least so alike: of two lists up to `EXACT` every one, else those that are found as candidates.

    Args:
        sets: Rows of `word_sets`.
        threshold: Least Jaccard index, above 0.
        others: Rows of the same `word_sets` to compare with; without them each pair within `sets` is reported once, the earlier one left.
    """
    mine, offset, in_full = sets.shape[0], 0, False
    if others is not None:
        offset, in_full = mine, mine * others.shape[0] <= EXACT
        sets = vstack([sets, others])
    signs = sets if in_full else _signs(sets)
    theirs = csr_array(signs[offset:].T)
    cost = np.cumsum(signs[:mine] @ np.diff(theirs.indptr))
    starts = [0, *(np.flatnonzero(np.diff(cost // PRODUCTS)) + 1).tolist(), mine]
    found = [(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))]
    for start, end in pairwise(starts):
        shared = (signs[start:end].astype(np.int32) @ theirs).tocoo()  # counted in bytes, 256 shared words would be none
        left, right = shared.row.astype(np.int64) + start, shared.col.astype(np.int64) + offset
        later = right > left
        found += _verified(sets, left[later], right[later], threshold)
    left, right, similarity = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return Pairs(left, right - offset, similarity)


def _verified(sets: csr_array, left: np.ndarray, right: np.ndarray, threshold: float) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    size = np.diff(sets.indptr)
    # Of two sets of which one is smaller than the share `threshold` of the other, too few words can be shared.
    possible = np.minimum(size[left], size[right]) >= threshold * np.maximum(size[left], size[right])
    left, right = left[possible], right[possible]
    found = []
    for start in range(0, len(left), COMPARISONS):
        one, other = left[start : start + COMPARISONS], right[start : start + COMPARISONS]
        both = np.diff(sets[one].multiply(sets[other]).tocsr().indptr)
        similarity = both / (size[one] + size[other] - both)
        kept = similarity >= threshold
        found.append((one[kept], other[kept], similarity[kept]))
    return found


def components(count: int, left: Sequence[int] | np.ndarray, right: Sequence[int] | np.ndarray) -> np.ndarray:
    """The family of each of `count` rows, (count,) int32, where rows that are joined by pairs, directly or not, are one family."""
    edges = csr_array((np.ones(len(left)), (left, right)), shape=(count, count))
    return connected_components(edges)[1]
