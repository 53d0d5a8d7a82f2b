"""Draws conversations by seed, splits them so that relatives stay together, and audits any evaluation set against any training set.

Knows examples and families, no files and no model.
"""

import random
from collections import defaultdict
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array

from app.errors import DataError
from finetune.data.clean import Cleaned, question_key
from finetune.data.families import FAMILY, similar_pairs, word_sets
from finetune.data.sources import SPLITS, Example

# Pairs below this are not worth listing.
LISTED = 0.3


@dataclass(frozen=True)
class Close:
    """A row of an evaluation set and the training row that is most like it.

    Attributes:
        similarity: Jaccard index of the words of the two conversations.
    """

    evaluated: Example
    trained: Example
    similarity: float


@dataclass(frozen=True)
class Audit:
    """What an evaluation set has in common with a training set.

    Attributes:
        evaluated, trained: Conversations in each.
        leaked: Places in the evaluation set of conversations with a relative in the training set.
        closest: The closest pairs, closest first.
    """

    evaluated: int
    trained: int
    leaked: list[int]
    closest: list[Close]


def audit(evaluated: list[Example], trained: list[Example], listed: int = 20, sets: tuple[csr_array, csr_array] | None = None) -> Audit:
    """Compares every row of an evaluation set with a training set.

    A row counts as leaked when a training row asks the same question or has as many words in common with it as relatives have.

    Args:
        evaluated: Rows to be judged.
        trained: Rows to compare them with.
        listed: How many of the closest pairs to name.
        sets: Words of the rows of each, where they are known already; see `finetune.data.families.word_sets`.
    """
    if sets is None:
        both = word_sets([example.text for example in [*evaluated, *trained]])
        sets = both[: len(evaluated)], both[len(evaluated) :]
    pairs = similar_pairs(sets[0], LISTED, sets[1])
    rising = sorted(zip(pairs.similarity.tolist(), pairs.right.tolist(), pairs.left.tolist(), strict=True))
    best = {left: (similarity, right) for similarity, right, left in rising}
    asked = {question_key(example) for example in trained} - {None}
    leaked = {place for place, (similarity, _) in best.items() if similarity >= FAMILY}
    leaked |= {place for place, example in enumerate(evaluated) if question_key(example) in asked}
    order = sorted(best, key=lambda place: (-best[place][0], place))[:listed]
    closest = [Close(evaluated[place], trained[best[place][1]], best[place][0]) for place in order]
    return Audit(len(evaluated), len(trained), sorted(leaked), closest)


def draw(examples: list[Example], weights: dict[str, float], size: float | None, seed: int) -> list[int]:
    """Draws rows by seed, never one twice.

    Args:
        examples: All usable conversations.
        weights: Weight of each source; of what is drawn, each source has its weight's share. Empty: as they come.
        size: Up to 1 a share, above it a number; None for as many as the weights allow.
        seed: Seed of the draw.

    Returns:
        Places in `examples`, in order.

    Raises:
        DataError: More are asked for than there are.
    """
    rng = random.Random(seed)
    places: dict[str, list[int]] = defaultdict(list)
    for place, example in enumerate(examples):
        places[example.source if weights else ""].append(place)
    shares = {name: weights[name] / sum(weights.values()) for name in weights} or {"": 1.0}
    most = min(len(places[name]) / share for name, share in shares.items())
    total = most if size is None else most * size if size <= 1 else size
    if total > most or total < 1:
        raise DataError(
            f"--rows {size:g} asks for {total:.0f} conversations, and {most:.0f} can be had"
            f"{' in these weights without taking one twice' if weights else ''}. Give a share up to 1, or a number from 1 to that."
        )
    return sorted(
        place for name, share in shares.items() for place in rng.sample(places[name], min(len(places[name]), round(total * share)))
    )


def given(examples: list[Example], families: np.ndarray, sets: csr_array) -> tuple[dict[str, list[int]], list[int]]:
    """The rows that their data set itself keeps for validation and test, and those that are too like them to be trained on.

    Args:
        examples: The conversations.
        families: (examples,) family of each.
        sets: (examples, words) words of each; see `finetune.data.families.word_sets`.

    Returns:
        Places for "validation" and "test", a relative of a test row left out of validation; and the places of all other relatives.
    """
    fixed: dict[str, list[int]] = {name: [place for place, e in enumerate(examples) if e.split == name] for name in SPLITS[1:]}
    left_out: set[int] = set()
    for name in ("test", "validation"):
        kept = [place for place in fixed[name] if place not in left_out]
        fixed[name] = kept
        others = [place for place in range(len(examples)) if place not in left_out and place not in {*fixed["test"], *kept}]
        if kept and others:
            leaked = audit([examples[place] for place in others], [examples[place] for place in kept], 0, (sets[others], sets[kept])).leaked
            related = {int(families[place]) for place in kept}
            left_out |= {others[place] for place in leaked} | {place for place in others if int(families[place]) in related}
    return fixed, sorted(left_out)


def split(examples: list[Example], families: np.ndarray, sets: csr_array, shares: dict[str, float], seed: int) -> dict[str, list[int]]:
    """Puts whole families into splits: test and validation are filled first, in random order, without going over their share.

    What the audit then finds to be alike in two splits all the same, because its comparison is fuller, goes to the training rows.

    Args:
        examples: The conversations.
        families: (examples,) family of each.
        sets: (examples, words) words of each; see `finetune.data.families.word_sets`.
        shares: Share of the conversations for "validation" and "test".
        seed: Seed of the order.

    Returns:
        Places in `examples` for each split, in order.
    """
    members: dict[int, list[int]] = defaultdict(list)
    for place, family in enumerate(families.tolist()):
        members[family].append(place)
    order = list(members)
    random.Random(seed).shuffle(order)
    room = {name: round(shares[name] * len(examples)) for name in ("test", "validation")}
    chosen: dict[str, list[int]] = {name: [] for name in SPLITS}
    for family in order:
        name = next((name for name, free in room.items() if free >= len(members[family])), SPLITS[0])
        chosen[name] += members[family]
        if name in room:
            room[name] -= len(members[family])
    _settle(examples, families, sets, members, chosen)
    return {name: sorted(places) for name, places in chosen.items()}


def _settle(
    examples: list[Example], families: np.ndarray, sets: csr_array, members: dict[int, list[int]], chosen: dict[str, list[int]]
) -> None:
    """Moves families to the training rows until no two splits hold conversations that are alike.

    After the first round only what has just come to the training rows can be like a row that stayed.
    """
    against = {"validation": chosen["train"], "test": chosen["train"] + chosen["validation"]}
    while any(against.values()):
        come: list[int] = []
        for name, others in against.items():
            judged, trained = ([examples[place] for place in places] for places in (chosen[name], others))
            leaked = audit(judged, trained, sets=(sets[chosen[name]], sets[others])).leaked
            moving = {int(families[chosen[name][place]]) for place in leaked}
            come += [place for family in moving for place in members[family]]
            chosen[name] = [place for place in chosen[name] if int(families[place]) not in moving]
        chosen["train"] = chosen["train"] + come
        against = dict.fromkeys(against, come)


def leak_of_a_random_split(cleaned: Cleaned, share: float, seed: int) -> tuple[int, int]:
    """What a split row by row would have done: (test rows with a relative among the other rows, test rows)."""
    count = round(share * cleaned.judged)
    test = np.isin(np.arange(cleaned.judged), random.Random(seed).sample(range(cleaned.judged), count))
    left, right = cleaned.kinship
    torn = test[left] != test[right]
    leaked = np.unique(np.where(test[left], left, right)[torn])
    return len(leaked), count
