"""Brings words to one spelling: usual forms of what people write in several ways, and slips in words that a rule names.

A word that is in no list of English words and one letter away from a rule's word or a medicine is taken for it: "siezure", "ibuprofin".
The list is SCOWL's, sizes up to 35, American and British, words of three letters and more (http://wordlist.aspell.net; see NOTICE).
"""

import gzip
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

ENGLISH = Path(__file__).parent / "rules" / "english.txt.gz"
# Letters that a word must have before a slip in it is mended, and that a name must have, which may be that of a person.
SHORTEST, SHORTEST_NAME = 5, 7
# Letters from which on a word may have two slips.
LONG = 9

_ENDINGS = ("s", "ed", "d", "ing")
_SAME = [("ph", "f"), ("ck", "k"), ("c", "k"), ("z", "s"), ("y", "i"), ("ae", "e"), ("oe", "e")]


class Spelling:
    """Knows the words that count.

    Args:
        usual: A form and the regular expression of what is written for it.
        right: Words that are right as they are, though no list of English words has them.
        words: Words that rules name.
        names: Names of medicines.
    """

    def __init__(self, usual: Iterable[tuple[str, str]], right: Iterable[str], words: set[str], names: set[str]) -> None:
        self._usual = [(form, re.compile(rf"\b(?:{written})\b")) for form, written in usual]
        self._known = {*gzip.decompress(ENGLISH.read_bytes()).decode().split(), *right, *words, *names}
        self._near: dict[str, str] = {}
        for word in [*sorted(names), *sorted(words)]:
            if len(word) >= (SHORTEST - 1 if word in words else SHORTEST_NAME):
                for key in _keys(word):
                    self._near[key] = word

    def usual(self, text: str) -> str:
        """The text with the usual forms, and slips mended; lower case, no apostrophes."""
        text = re.sub(r"([a-z])\1{2,}", r"\1\1", text)
        for form, written in self._usual:
            text = written.sub(form, text)
        return re.sub(r"\b[a-z]{5,}\b", lambda match: self.word(match[0]), text)

    def word(self, word: str) -> str:
        """A word that a rule names, where this is likely to be it; else the word as it is."""
        if word in self._known or any(word.endswith(ending) and self._is_stem(word.removesuffix(ending)) for ending in _ENDINGS):
            return word
        return next((self._near[key] for key in _keys(word) if key in self._near and _close(word, self._near[key])), word)

    def _is_stem(self, word: str) -> bool:
        return word in self._known or f"{word}e" in self._known or (word[-2:-1] == word[-1:] and word[:-1] in self._known)


def _keys(word: str) -> Iterator[str]:
    """What two words share that are one slip apart: the word, and the word without one of its letters."""
    plain = word
    for written, meant in _SAME:
        plain = plain.replace(written, meant)
    plain = re.sub(r"(.)\1", r"\1", plain)
    yield plain
    if len(word) >= SHORTEST_NAME:
        yield re.sub(r"[aeiou]+", "_", plain)
    if len(word) > SHORTEST:
        yield from (plain[:at] + plain[at + 1 :] for at in range(1, len(plain)))


def _close(word: str, other: str) -> bool:
    return word[0] == other[0] and _slips(word, other) <= (1 if len(word) < LONG else 2)


def _slips(word: str, other: str) -> int:
    """Letters left out, put in, mistaken or swapped between two words (Damerau 1964, https://doi.org/10.1145/363958.363994)."""
    before, row = [0] * (len(other) + 1), list(range(len(other) + 1))
    for at, letter in enumerate(word, 1):
        older, before, row = before, row, [at]
        for place, wanted in enumerate(other, 1):
            slips = min(before[place] + 1, row[place - 1] + 1, before[place - 1] + (letter != wanted))
            if at > 1 and place > 1 and letter == other[place - 2] and word[at - 2] == wanted:
                slips = min(slips, older[place - 2] + 1)
            row.append(slips)
    return row[-1]
