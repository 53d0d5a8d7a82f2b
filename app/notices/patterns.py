"""Finds patterns of words in a text, word by word; `rules/words.yaml` says how a pattern is written. Knows no notice and no gate."""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise, product

# Words over which the groups of one pattern may be spread.
REACH = 20
# Places of one group that are looked at, so that a long text costs little.
MOST_PLACES = 8

WORD = re.compile(r"[a-z0-9]+(?:\.[0-9]+)?")
Place = tuple[int, int]  # from and up to which word
_Part = tuple[int, str | re.Pattern[str]]  # words that may stand before it, and the word; "x*" begins so


@dataclass(frozen=True)
class Match:
    """A pattern that was found.

    Attributes:
        kind, rule: Its rule's kind and name.
        places: Where the words of each group stand.
    """

    kind: str
    rule: str
    places: tuple[Place, ...]

    @property
    def span(self) -> Place:
        """From its first word up to the one after its last."""
        return min(place[0] for place in self.places), max(place[1] for place in self.places)


def lines(block: str) -> list[str]:
    """The lines of a block, each with the indented ones that go on with it."""
    return re.sub(r"\n +", " ", re.sub(r"\|\n +|\n +\|", "|", block)).strip().splitlines()


class Patterns:
    """Patterns of several rules, looked for together.

    Args:
        rules: Kind, name and block of patterns of each rule.
        classes: The words of each class.
    """

    def __init__(self, rules: Iterable[tuple[str, str, str]], classes: Mapping[str, str]) -> None:
        # By the first word of a term: what follows it, and the groups that the term is in.
        self._first: dict[str, dict[tuple[_Part, ...], list[int]]] = defaultdict(dict)
        self._numbers: list[tuple[re.Pattern[str], tuple[_Part, ...], list[int]]] = []
        self._longest = 0
        self._patterns: list[tuple[str, str, list[int]]] = []
        self._of_group: dict[int, list[int]] = defaultdict(list)
        known: dict[str, int] = {}
        for kind, rule, block in rules:
            for line in lines(block):
                groups = []
                for words in line.split(" & "):
                    key = "|".join(word.strip() for word in words.split("|"))
                    if key not in known:
                        known[key] = len(known)
                        self._add(key, known[key], classes)
                    groups.append(known[key])
                for group in groups:
                    self._of_group[group].append(len(self._patterns))
                self._patterns.append((kind, rule, groups))

    def _add(self, words: str, group: int, classes: Mapping[str, str]) -> None:
        for word in _expand(words, classes):
            for form in [word] if not word.startswith("not ") else [f"{no} {word[4:]}" for no in ("not", "isnt", "arent", "aint")]:
                (_, first), *rest = _parts(form)
                if isinstance(first, str):
                    self._first[first].setdefault(tuple(rest), []).append(group)
                    self._longest = max(self._longest, len(first))
                else:
                    self._numbers.append((first, tuple(rest), [group]))

    def vocabulary(self) -> set[str]:
        """The words that the patterns name, those of a beginning alone left out."""
        rest = {part[1] for found in self._first.values() for parts in found for part in parts if isinstance(part[1], str)}
        return {word for word in (*self._first, *rest) if word.isalpha()}

    def find(self, words: list[str], tags: list[list[str]]) -> Iterator[Match]:
        """Where patterns match: one word of each of their groups, near one another and none in another's place.

        Args:
            words: The text.
            tags: The classes of each word that no list holds, such as `_count_`.
        """
        places: dict[int, list[Place]] = defaultdict(list)
        for at in range(len(words)):
            for rest, groups in self._at(words[at], tags[at]):
                if end := _end(rest, words, tags, at + 1):
                    for group in groups:
                        if len(places[group]) < MOST_PLACES and (at, end) not in places[group]:
                            places[group].append((at, end))
        for number in sorted({pattern for group in places if places[group] for pattern in self._of_group[group]}):
            kind, rule, groups = self._patterns[number]
            if not all(places.get(group) for group in groups):
                continue
            for chosen in product(*(places[group] for group in groups)):
                order = sorted(chosen)
                if order[-1][1] - order[0][0] <= REACH and all(before[1] <= after[0] for before, after in pairwise(order)):
                    yield Match(kind, rule, chosen)

    def _at(self, word: str, tags: list[str]) -> Iterator[tuple[tuple[_Part, ...], list[int]]]:
        for key in (word, *tags, *[f"{word[:length]}*" for length in range(1, min(len(word), self._longest) + 1)]):
            if key in self._first:
                yield from self._first[key].items()
        if word[0].isdigit():
            yield from ((rest, groups) for pattern, rest, groups in self._numbers if pattern.fullmatch(word))


def _expand(words: str, classes: Mapping[str, str]) -> list[str]:
    """The words of a group, with the members of its classes."""
    found = []
    for word in words.split("|"):
        found += _expand(classes[word], classes) if word in classes else [word.strip()]
    return found


def _parts(term: str) -> list[_Part]:
    parts: list[_Part] = []
    gap = 0
    for word in term.split():
        if word == "...":
            gap = 3
            continue
        number = any(sign in word for sign in "#[")
        pattern = word.replace(".", r"\.").replace("*", r"[\d.]*").replace("#", r"\d")
        parts.append((gap, re.compile(pattern) if number else word))
        gap = 0
    return parts


def _is(part: str | re.Pattern[str], word: str, tags: list[str]) -> bool:
    if isinstance(part, re.Pattern):
        return bool(part.fullmatch(word))
    return word.startswith(part[:-1]) if part.endswith("*") else word == part or part in tags


def _end(rest: tuple[_Part, ...], words: list[str], tags: list[list[str]], at: int) -> int:
    """The word after the last part when the parts stand from a word on; 0 when they do not."""
    for gap, part in rest:
        for place in range(at, min(at + gap + 1, len(words))):
            if _is(part, words[place], tags[place]):
                at = place + 1
                break
        else:
            return 0
    return at
