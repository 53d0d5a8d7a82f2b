"""What is drawn, what is held out and what leaks, on conversations small enough to count by hand."""

import random
from collections import defaultdict

import numpy as np
import pytest

from app.errors import DataError
from finetune.data.clean import Cleaned
from finetune.data.families import word_sets
from finetune.data.forms import OPENING
from finetune.data.sources import Example
from finetune.data.split import Audit, Close, audit, draw, leak_of_a_random_split, split
from tests.conftest import assert_is_for_people


def example(question: str, answer: str, row: int = 0, source: str = "a") -> Example:
    return Example([{"role": "user", "content": question}, {"role": "assistant", "content": answer}], row, source)


def unlike(count: int, source: str = "a", start: int = 0) -> list[Example]:
    """Conversations without a word in common."""
    return [example(f"q{n}", f"a{n} b{n}", n, source) for n in range(start, start + count)]


def test_a_row_leaks_that_has_a_relatives_share_of_its_words_in_common() -> None:
    nine = " ".join(f"w{n}" for n in range(8))
    trained = [example("s", "t u v", 1), example("w8", nine, 2)]
    evaluated = [
        example("x", "y z", 0),
        example("o0", " ".join([nine, "w8", *(f"o{n}" for n in range(1, 11))]), 1),  # 9 of 20 words, as alike as relatives are
        example("other", " ".join([nine, *(f"o{n}" for n in range(11))]), 2),  # 8 of 21
        example("s", "t u v", 3),
        example("q", "s t v w", 4),  # 3 of 6
        example("q", "s v w x1 y1 z1 k1", 5),  # 2 of 10: too few to be listed
    ]
    found = audit(evaluated, trained)
    assert found == Audit(
        evaluated=6,
        trained=2,
        leaked=[1, 3, 4],
        closest=[
            Close(evaluated[3], trained[0], 1.0),
            Close(evaluated[4], trained[0], 0.5),
            Close(evaluated[1], trained[1], 0.45),
            Close(evaluated[2], trained[1], 8 / 21),
        ],
    )
    assert audit(evaluated, trained, listed=2).closest == found.closest[:2]
    sets = word_sets([e.text for e in [*evaluated, *trained]])
    assert audit(evaluated, trained, sets=(sets[:6], sets[6:])) == found


def test_a_row_is_listed_with_the_training_row_that_is_most_like_it_and_pairs_from_three_tenths_on() -> None:
    trained = [example("a", "b c x y", 1), example("a", "b c d", 2), example("a", "b c x", 3)]
    evaluated = [example("a", "b c d e", 7), example("a", "k l m n o p q r s", 8), example("b", "c d k l m n", 9)]
    found = audit(evaluated, trained)
    # Row 7 shares 3 of 7, 4 of 5 and 3 of 6 words, row 8 at most 1 of 13, and row 9 with the second 3 of 8, else 2 of 10 and 2 of 9.
    assert found.closest == [Close(evaluated[0], trained[1], 0.8), Close(evaluated[2], trained[1], 3 / 8)]
    three_tenths = audit([example("a", "b c d e f", 1)], [example("a", "b c k l m n", 2)])
    assert [close.similarity for close in three_tenths.closest] == [0.3]


def test_only_the_closest_twenty_pairs_are_listed_in_order_of_their_places_where_equally_close() -> None:
    rows = unlike(30)
    assert [close.evaluated.row for close in audit(rows, rows).closest] == list(range(20))


def test_a_question_asked_in_training_leaks_whatever_its_answer_but_a_greeting_does_not() -> None:
    trained = [example("What is gout?", "Urate."), example(OPENING, "first long answer of one kind")]
    evaluated = [example("what is GOUT", "A king's disease, once, of port wine."), example(OPENING, "nothing of that sort here, or there")]
    assert audit(evaluated, trained).leaked == [0]


def test_a_draw_is_a_share_up_to_one_and_a_number_above() -> None:
    rows = unlike(100)
    assert draw(rows, {}, 1, 1) == draw(rows, {}, 1.0, 1) == draw(rows, {}, 100, 1) == list(range(100))
    assert len(draw(rows, {}, 0.01, 1)) == 1
    assert len(draw(rows, {}, 1.5, 1)) == 2
    assert draw(rows, {}, 3, 0) == sorted(random.Random(0).sample(range(100), 3))


@pytest.mark.parametrize(("size", "asked"), [(101, "101"), (0.004, "0"), (0, "0")])
def test_a_draw_of_none_or_of_more_than_there_are_is_refused(size: float, asked: str) -> None:
    with pytest.raises(DataError) as caught:
        draw(unlike(100), {}, size, 1)
    assert str(caught.value) == (
        f"--rows {size:g} asks for {asked} conversations, and 100 can be had. Give a share up to 1, or a number from 1 to that."
    )


def test_a_weighted_draw_gives_each_source_its_share_of_what_the_scarcest_allows() -> None:
    rows = unlike(80, "big") + unlike(20, "small", 80)

    def counted(weights: dict[str, float], size: float | None) -> tuple[int, int]:
        places = draw(rows, weights, size, 1)
        assert places == sorted(set(places))
        return sum(place < 80 for place in places), sum(place >= 80 for place in places)

    assert counted({"big": 3, "small": 1}, None) == (60, 20)
    assert counted({"big": 9, "small": 1}, None) == (80, 9)  # 80 / 0.9 = 88.9 can be had
    assert counted({"big": 3, "small": 1}, 0.5) == (30, 10)
    assert counted({"big": 3, "small": 1}, 80) == (60, 20)
    assert counted({"big": 1, "small": 3}, 8) == (2, 6)
    with pytest.raises(DataError) as caught:
        draw(rows, {"big": 3, "small": 1}, 81, 1)
    assert "asks for 81 conversations, and 80 can be had in these weights without taking one twice." in str(caught.value)
    assert_is_for_people(caught.value)


def splits(rows: list[Example], families: list[int], shares: dict[str, float], seed: int = 1) -> dict[str, list[int]]:
    return split(rows, np.array(families), word_sets([row.text for row in rows]), shares, seed)


def test_test_and_validation_are_filled_to_their_share_with_whole_families() -> None:
    found = splits(unlike(20), list(range(20)), {"validation": 0.1, "test": 0.25})
    assert {name: len(places) for name, places in found.items()} == {"train": 13, "validation": 2, "test": 5}
    assert sorted(place for places in found.values() for place in places) == list(range(20))
    assert all(places == sorted(places) for places in found.values())
    assert list(found) == ["train", "validation", "test"]
    assert found == splits(unlike(20), list(range(20)), {"validation": 0.1, "test": 0.25})
    assert found != splits(unlike(20), list(range(20)), {"validation": 0.1, "test": 0.25}, seed=2)


def test_families_are_drawn_in_an_order_that_the_seed_gives() -> None:
    order = list(range(20))
    random.Random(7).shuffle(order)
    found = splits(unlike(20), list(range(20)), {"validation": 0.1, "test": 0.25}, seed=7)
    assert (found["test"], found["validation"]) == (sorted(order[:5]), sorted(order[5:7]))


def test_a_family_that_is_larger_than_the_room_left_is_trained_on() -> None:
    families = [0] * 3 + [1] * 2 + [2] * 2 + list(range(3, 16))
    for seed in range(6):
        found = splits(unlike(20), families, {"validation": 0.1, "test": 0.1}, seed)
        assert len(found["test"]) == len(found["validation"]) == 2
        assert set(found["train"]) >= {0, 1, 2}
        sides = defaultdict(set)
        for name, places in found.items():
            for place in places:
                sides[families[place]].add(name)
        assert all(len(names) == 1 for names in sides.values())
    assert splits(unlike(4), [0] * 4, {"validation": 0.25, "test": 1.0})["test"] == [0, 1, 2, 3]


def test_what_is_alike_all_the_same_is_trained_on_with_its_family_and_with_what_is_like_that() -> None:
    """A chain of which each link shares 7 of 13 words with the next and 4 of 16 with the one after; its ends have a relative each."""
    chain = [example(f"w{3 * n}", " ".join(f"w{3 * n + word}" for word in range(1, 10)), 14 + n) for n in range(6)]
    assert audit(chain[:1], chain[1:2]).leaked == [0] and audit(chain[:1], chain[2:]).leaked == []
    rows = [*unlike(14), *chain]
    families = [*range(14), 0, 15, 16, 17, 18, 1]
    for seed in range(12):
        found = splits(rows, families, {"validation": 0.2, "test": 0.2}, seed)
        assert set(found["train"]) >= {0, 1, 14, 15, 16, 17, 18, 19}
        assert sorted(place for places in found.values() for place in places) == list(range(20))
    untouched = splits([*unlike(14), *unlike(6, start=14)], families, {"validation": 0.2, "test": 0.2})
    assert len(untouched["test"]) == len(untouched["validation"]) == 4


def test_a_random_split_leaks_the_test_rows_that_have_a_relative_among_the_others() -> None:
    def leak(count: int, left: list[int], right: list[int], share: float, seed: int) -> tuple[int, int]:
        kinship = (np.array(left, dtype=int), np.array(right, dtype=int))
        return leak_of_a_random_split(Cleaned([], np.array([]), word_sets([]), [], [], kinship, count), share, seed)

    test = set(random.Random(5).sample(range(10), 3))
    inside, outside = sorted(test), sorted(set(range(10)) - test)
    assert leak(10, [], [], 0.3, 5) == (0, 3)
    assert leak(10, [inside[0], outside[0], outside[1]], [inside[1], outside[2], outside[3]], 0.3, 5) == (0, 3)
    # One test row has two relatives outside and stands left in one pair and right in the other; a second one has one.
    assert leak(10, [inside[0], outside[1], inside[2]], [outside[0], inside[0], outside[1]], 0.3, 5) == (2, 3)
    assert leak(10, [], [], 0.26, 5) == (0, 3)
