"""What a notice says: one idea a line, with the numbers of the owner's country.

The words stand in `rules/advice.yaml`, the numbers in `rules/helplines.yaml`, the languages in `rules/languages.yaml`.
"""

import re
import unicodedata

from app.errors import ConfigError
from app.notices.safety import Name, read

# Shown where the owner has set no country.
ANY_NUMBER = "your local emergency number (112, 911, 999 or 000, depending on where you are)"
SEVERAL = ("GB", "US", "AU", "IE", "CA", "IN")
EVERYWHERE = "findahelpline.com lists crisis lines of other countries."
# What makes a message one of a language: letters of its script, or different words of it and their share of all words.
LETTERS, SHARE, WORDS = 4, 0.34, 3

_LATIN = re.compile(r"[a-z]+")


def check_country(country: str) -> None:
    """Raises `ConfigError` for a country whose numbers are not known."""
    if country and country not in read("helplines"):
        known = ", ".join(sorted(read("helplines")))
        raise ConfigError(f"COUNTRY={country} has no numbers here; allowed are {known}. Add it to app/notices/rules/helplines.yaml.")


def advice(name: Name, country: str = "") -> str:
    """The text of a notice.

    Args:
        name: Which one.
        country: Whose numbers it gives, ISO 3166-1 alpha-2; several countries' when empty.

    Returns:
        Lines; a number to dial stands after "call" or "Call".
    """
    own = read("helplines").get(country)
    number = own["emergency"] if own else ANY_NUMBER
    found: list[str] = []
    for line in read("advice")[name]:
        listed = {"{poison}": "poison", "{crisis}": "crisis"}.get(line)
        found += _lines(listed, country) if listed else [line.replace("{number}", number)]
    return "\n".join(found)


def _lines(what: str, country: str) -> list[str]:
    table = read("helplines")
    found: list[str] = []
    for code in [country] if country in table else SEVERAL:
        entry = table[code][what]
        start = "" if country in table else f"{table[code]['name']}: "
        found += [start + line for line in ([entry] if isinstance(entry, str) else entry[: 3 if country in table else 1]) if line]
    return found if country in table or what == "poison" else [*found, EVERYWHERE]


def numbers(text: str) -> list[str]:
    """What can be dialled in a notice: the digits after "call", each as it is written."""
    return [
        number
        for line in text.splitlines()
        for spoken in re.findall(r"\bcall ((?:\d[\d -]*\d|\d)(?: or \d[\d -]*\d)?)", line, re.IGNORECASE)
        for number in spoken.split(" or ")
    ]


def foreign(question: str) -> str | None:
    """Where to call, in the language of a message that is not English; None for English, and for languages that the table lacks."""
    for row in read("languages"):
        if "script" in row and len(re.findall(f"[{row['script']}]", question)) >= LETTERS:
            return str(row["call"])
    letters = unicodedata.normalize("NFKD", question.lower().replace("'", "").replace("\u0131", "i").replace("\u0111", "d"))
    words = _LATIN.findall("".join(letter for letter in letters if not unicodedata.combining(letter)))
    best, call = 0, None
    for row in read("languages"):
        hits = [word for word in words if word in row.get("words", "").split()]
        if len(set(hits)) >= WORDS and len(hits) >= max(SHARE * len(words), best + 1):
            best, call = len(hits), row["call"]
    return call or None
