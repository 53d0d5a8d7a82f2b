"""Near-duplicates are those that comparing each text with each would find, and what is compared follows from the words that texts share."""

import random

import numpy as np
import pytest

from finetune.data import families
from finetune.data.families import FAMILY, Pairs, components, jaccard, similar_pairs, word_sets


def listed(pairs: Pairs) -> list[tuple[int, int, float]]:
    return sorted(zip(pairs.left.tolist(), pairs.right.tolist(), pairs.similarity.tolist(), strict=True))


def texts(count: int, most: int, vocabulary: int, seed: int = 0) -> list[str]:
    """Texts of up to `most` words each, drawn from so few words that many are alike."""
    rng = random.Random(seed)
    return [" ".join(f"w{rng.randrange(vocabulary)}" for _ in range(rng.randrange(most + 1))) for _ in range(count)]


def in_full(some: list[str], threshold: float, others: list[str] | None = None) -> list[tuple[int, int, float]]:
    """What comparing each with each finds."""
    sets = [[set(text.split()) for text in list_of] for list_of in (some, some if others is None else others)]
    pairs = [
        (left, right, jaccard(one, other))
        for left, one in enumerate(sets[0])
        for right, other in enumerate(sets[1])
        if others is not None or left < right
    ]
    return [pair for pair in pairs if pair[2] >= threshold]


@pytest.mark.parametrize(
    ("left", "right", "index"),
    [([], [], 0), (["a"], [], 0), (["a", "b"], ["b", "c"], 1 / 3), (["a", "a", "b"], ["b", "a"], 1), (["a"], ["b"], 0)],
)
def test_the_jaccard_index_is_words_in_both_over_words_in_either(left: list[str], right: list[str], index: float) -> None:
    assert jaccard(left, right) == pytest.approx(index)


def test_words_are_numbered_from_the_rarest_and_each_counts_once_in_a_text() -> None:
    sets = word_sets(["b a A!", "a c", "", "b a"])
    assert sets.toarray().tolist() == [[0, 1, 1], [1, 0, 1], [0, 0, 0], [0, 1, 1]]  # c stands in one text, b in two, a in three
    assert sets.dtype == np.int8
    assert all(np.all(np.diff(sets[row : row + 1].indices) > 0) for row in range(3))
    assert (word_sets([]).shape, word_sets(["", "?"]).shape) == ((0, 1), (2, 1))


def test_words_that_are_equally_rare_are_numbered_as_they_come() -> None:
    assert word_sets([f"w{number}" for number in range(60)]).indices.tolist() == list(range(60))


def test_pairs_as_alike_as_the_threshold_count() -> None:
    pairs = Pairs(np.array([0, 1, 2]), np.array([3, 4, 5]), np.array([0.2, 0.5, 0.7]))
    assert listed(pairs.at_least(0.5)) == [(1, 4, 0.5), (2, 5, 0.7)]
    half = word_sets(["a b c", "b c d"])  # two words of four
    assert listed(similar_pairs(half, 0.5)) == [(0, 1, 0.5)]
    assert listed(similar_pairs(half, 0.51)) == []
    assert listed(similar_pairs(word_sets(["a b", "a b c d"]), 0.5)) == [(0, 1, 0.5)], "as small as it may be for the threshold"
    nine = word_sets([" ".join(map(str, range(9))), " ".join(map(str, range(20)))])
    assert listed(similar_pairs(nine[:1], others=nine[1:])) == [(0, 0, FAMILY)], "9 words of 20"


@pytest.mark.parametrize("threshold", [FAMILY, 0.7, 1.0])
def test_of_short_texts_no_relative_is_missed(threshold: float) -> None:
    """Texts of eight words or fewer are compared when they share any two words, or any one where they are of fewer than four."""
    some = texts(120, 8, 25)
    assert listed(similar_pairs(word_sets(some), threshold)) == in_full(some, threshold)


@pytest.mark.parametrize("threshold", [0.1, FAMILY])
def test_of_two_lists_no_relative_is_missed_however_long_the_texts(threshold: float) -> None:
    some, others = texts(40, 30, 60), texts(70, 30, 60, seed=1)
    sets = word_sets(some + others)
    assert listed(similar_pairs(sets[:40], threshold, sets[40:])) == in_full(some, threshold, others)


def test_long_texts_that_share_256_words_are_alike() -> None:
    same = word_sets([" ".join(f"w{number}" for number in range(256))] * 2)
    assert listed(similar_pairs(same)) == [(0, 1, 1.0)]
    assert listed(similar_pairs(same[:1], others=same[1:])) == [(0, 0, 1.0)]


def test_lists_too_long_to_compare_in_full_are_compared_by_candidates(monkeypatch: pytest.MonkeyPatch) -> None:
    some, others = texts(40, 8, 30), texts(50, 8, 30, seed=1)
    sets = word_sets(some + others)
    full = similar_pairs(sets[:40], 0.2, sets[40:])
    monkeypatch.setattr(families, "EXACT", 40 * 50)
    assert listed(similar_pairs(sets[:40], 0.2, sets[40:])) == listed(full)
    monkeypatch.setattr(families, "EXACT", 40 * 50 - 1)
    monkeypatch.setattr(families, "BANDS", 0)
    found = similar_pairs(sets[:40], 0.2, sets[40:])
    assert set(listed(found)) < set(listed(full)), "one shared word of many is no candidate"
    assert listed(found.at_least(FAMILY)) == listed(full.at_least(FAMILY))


def test_within_one_list_a_shared_word_of_many_is_no_candidate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(families, "BANDS", 0)
    sets = word_sets(["a b c d", "a e f g", "a b h i"])
    assert [pair[:2] for pair in listed(similar_pairs(sets, 0.1))] == [(0, 2)]


@pytest.mark.parametrize("size", [1, 7, 50])
def test_working_in_small_parts_changes_nothing(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    some = texts(60, 8, 30)
    sets = word_sets(some)
    whole = listed(similar_pairs(sets)), listed(similar_pairs(sets[:20], FAMILY, sets[20:]))
    monkeypatch.setattr(families, "PRODUCTS", size)
    monkeypatch.setattr(families, "COMPARISONS", size)
    assert (listed(similar_pairs(sets)), listed(similar_pairs(sets[:20], FAMILY, sets[20:]))) == whole


def shared_signs(some: list[str]) -> np.ndarray:
    """(texts, texts): how many signs of being alike two texts share."""
    signs = families._signs(word_sets(some)).astype(int)
    return (signs @ signs.T).toarray()


def test_texts_are_compared_when_two_of_their_rarest_words_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(families, "BANDS", 0)
    common = "k l m n o p"
    some = [f"a b c d {common}", f"a b c e {common}", f"a f g h {common}", *(f"x{i} y{i} z{i} v{i} {common}" for i in range(9))]
    shared = shared_signs(some)
    # The eight rarest of each are its own four and the same four common words: 3 pairs of a, b, c; 3 * 4 of those with a common word; and
    # the 6 pairs of the common words, which all texts hold.
    assert shared[0, 1] == 3 + 12 + 6
    assert shared[0, 2] == 4 + 6
    assert shared[0, 3] == shared[3, 4] == 6
    monkeypatch.setattr(families, "SHARED_BY", 11)  # what 12 texts share is no sign any longer
    assert (shared_signs(some)[0, 1], shared_signs(some)[0, 2], shared_signs(some)[0, 3]) == (15, 4, 0)
    monkeypatch.setattr(families, "SHARED_BY", 12)
    assert shared_signs(some)[0, 3] == 6


def test_a_single_word_is_a_sign_in_texts_of_fewer_than_four_words_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(families, "BANDS", 0)
    shared = shared_signs(["a", "a b c", "a d e f", "a g h i", "j", ""])
    assert shared[0, 1] == 1 and shared[0, 2] == shared[1, 2] == shared[2, 3] == 0
    assert shared[4].tolist() == shared[5].tolist() == [0] * 6


def test_texts_of_one_pattern_are_compared_as_often_as_their_min_hashes_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two sets agree in a min-hash as often as their Jaccard index says, and in a band where all its min-hashes agree."""
    monkeypatch.setattr(families, "RAREST", 0)
    pairs = 400
    some = [
        " ".join([*(f"s{pair}x{word}" for word in range(16)), *(f"o{pair}x{side}x{word}" for word in range(2))])
        for pair in range(pairs)
        for side in range(2)
    ]
    shared = shared_signs([*some, some[0], ""])
    agreeing = np.array([shared[2 * pair, 2 * pair + 1] for pair in range(pairs)])
    assert agreeing.mean() == pytest.approx(16 * 0.8**4, rel=0.06)
    assert shared[0, 2 * pairs] == 16, "a text agrees with its copy in every band"
    assert shared[0, 2:-2].sum() == 0, "and with texts of other words in none"
    assert shared[-1].sum() == 0
    assert np.array_equal(shared_signs(some), shared_signs(some))


def test_relatives_of_relatives_are_one_family() -> None:
    assert components(6, [0, 4, 1], [2, 5, 4]).tolist() == [0, 1, 0, 2, 1, 1]
    assert components(2, [], []).tolist() == [0, 1]
