"""Finds what may identify a patient in a text: names with titles, dates of birth, numbers, addresses.

The patterns stand in assets/identifiers.json, in a form that Python and browsers read alike, with `parts` that patterns and later parts
name as `<part>`; assets/page.js asks them before anything is sent, the server again. They warn and promise nothing: bare names pass.
"""

import json
import re
from dataclasses import dataclass
from functools import cache

from app.settings import ROOT

PATTERNS_FILE = ROOT / "assets" / "identifiers.json"


@dataclass(frozen=True)
class Identifier:
    """A piece of a text that may identify somebody.

    Attributes:
        label: What it seems to be, in words.
        start, end: Where it stands, in characters.
    """

    kind: str
    label: str
    start: int
    end: int


@cache
def _patterns() -> list[tuple[str, str, re.Pattern[str], bool]]:
    held = json.loads(PATTERNS_FILE.read_text(encoding="utf-8"))
    parts: dict[str, str] = {}

    def filled(pattern: str) -> str:
        return re.sub(r"<(\w+)>", lambda part: f"(?:{parts[part[1]]})", pattern)

    for name, pattern in held["parts"].items():
        parts[name] = filled(pattern)
    found = []
    for row in held["patterns"]:
        # ASCII, as in browsers: there \\b and \\w know no other letters.
        flags = re.ASCII | (re.IGNORECASE if "i" in row.get("flags", "") else 0)
        found.append((row["kind"], row["label"], re.compile(filled(row["pattern"]), flags), "check" in row))
    return found


def find(text: str) -> list[Identifier]:
    """The identifiers in a text in the order in which they stand, none overlapping another; of two, the pattern listed first counts."""
    found: list[Identifier] = []
    for kind, label, pattern, checked in _patterns():
        for match in pattern.finditer(text):
            start, end = match.span()
            free = all(end <= other.start or start >= other.end for other in found)
            if free and (not checked or is_nhs_number(match.group())):
                found.append(Identifier(kind, label, start, end))
    return sorted(found, key=lambda identifier: identifier.start)


def redact(text: str) -> str:
    """The text with each identifier replaced by its kind in brackets."""
    for identifier in reversed(find(text)):
        text = f"{text[: identifier.start]}[{identifier.label}]{text[identifier.end :]}"
    return text


def labels(text: str) -> str:
    """What was found, as words for a sentence; "" when there is nothing."""
    names = list(dict.fromkeys(identifier.label for identifier in find(text)))
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def is_nhs_number(text: str) -> bool:
    """Whether ten digits carry the check digit of an NHS number (modulus 11, NHS Data Dictionary)."""
    digits = [int(character) for character in text if character.isdigit()]
    if len(digits) != 10 or len(set(digits)) == 1:
        return False
    remainder = 11 - sum(digit * weight for digit, weight in zip(digits, range(10, 1, -1), strict=False)) % 11
    return remainder % 11 == digits[9]
