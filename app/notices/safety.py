"""Notices before an answer: emergencies, self-harm and personal dosing requests, found by the rules in `rules/` and nothing else.

`find(question)` says what a reader should be told first. A notice needs two things: words for what is happening (`emergency.yaml`,
`self_harm.yaml`, `dosing.yaml`), and signs that it happens to somebody now and is no lesson, vignette, memory or worry (`gates.yaml`).
An exam question about the same disease has the first and lacks the second. A gate cancels what it governs, in its clause or sentence,
and leaves the rest of the message. `words.yaml` says how a rule is read.

No notice means nothing: these rules warn, they do not judge how ill somebody is. Measured by `make safety`.
"""

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import yaml

from app.notices.patterns import WORD, Match, Patterns, Place, lines
from app.notices.spelling import Spelling

Kind = Literal["emergency", "self_harm", "dosing"]
# Which notice of its kind; `app.notices.advice` says what it tells the reader.
Name = Literal["emergency", "clinician", "overdose", "self_harm", "means", "dosing"]

RULES = Path(__file__).parent / "rules"
KINDS = ("emergency", "clinician", "overdose", "self_harm", "method", "dosing", "idioms")
WITHHELD = "The model's answer is not shown here. Please do first what the notice says."
# Letters before a sign in which a word that takes it back is looked for.
GOVERNED = 70
_SENTENCE = re.compile(r"[.!?;\n]+(?= |$)|\n")
_CLAUSE = re.compile(r"[.!?;:,\n()]+(?= |$)|\n|\b(?:and|but|now|then|so|because|although|though|however)\b")
_NUMBERS = {"ten", "eleven", "twelve", "fifteen", "sixteen", "eighteen", "twenty", "thirty", "forty", "fifty", "sixty", "hundred", "dozen"}


@dataclass(frozen=True)
class Finding:
    """Something that the reader should be told before the answer.

    Attributes:
        name: Which notice of its kind.
    """

    kind: Kind
    name: Name

    @property
    def withholds(self) -> bool:
        """Whether the model's answer is not shown."""
        return self.kind != "dosing"

    @property
    def final(self) -> bool:
        """Whether the question gets no answer at all: it asks how to do harm."""
        return self.name == "means"


class _Text:
    """A question in its usual form, with its words, and the matches of rules in it."""

    def __init__(self, question: str) -> None:
        self.plain = _plain(question)
        found = list(WORD.finditer(self.plain))
        self.words, self.spans = [match[0] for match in found], [match.span() for match in found]
        self.tags = [_tags(word) for word in self.words]
        self._matches: dict[str, list[Match]] = {}
        for match in _patterns().find(self.words, self.tags):
            self._matches.setdefault(match.kind, []).append(match)
        self.idioms = self._matches.get("idioms", [])

    def matches(self, kind: str) -> Iterator[Match]:
        """Matches of the rules of a kind that no idiom covers and no negation takes back."""
        for match in self._matches.get(kind, []):
            voided = [other.span for other in self.idioms]
            idiom = any(place[0] < end and start < place[1] for start, end in voided for place in match.places)
            if not idiom and not any(self._negated(place, match) for place in match.places):
                yield match

    def before(self, place: Place) -> str:
        """What stands before some words, as far as a word may govern them."""
        start = self.spans[place[0]][0]
        return self.plain[max(0, start - GOVERNED) : start]

    def _negated(self, place: Place, match: Match) -> bool:
        before = self.before(place)
        negation = _gate("negation").search(before)
        if negation is None:
            return False
        at = self.spans[place[0]][0] - len(before) + negation.start()
        inside = any(self.spans[first][0] <= at < self.spans[last - 1][1] for first, last in match.places)
        return not inside

    def around(self, place: Place, border: re.Pattern[str]) -> str:
        """The sentences or clauses that some words lie in."""
        start, end = self.spans[place[0]][0], self.spans[place[1] - 1][1]
        borders = [0, *(found.end() for found in border.finditer(self.plain)), len(self.plain)]
        return self.plain[max(place for place in borders if place <= start) : min(place for place in borders if place >= end)].strip()

    def over(self, match: Match) -> bool:
        """Whether it happened once: a part of it long ago, or all of it some time ago."""
        around = [(self.around(place, _SENTENCE), self.around(place, _CLAUSE)) for place in match.places]
        long_ago = any(_is_over(*pair, "long_ago") for pair in around)
        return long_ago or all(_is_over(*pair, "past") for pair in around)

    def has(self, *gates: str) -> bool:
        """Whether one of these gates is anywhere in the text."""
        return any(_gate(gate).search(self.plain) for gate in gates)


def idioms(text: str) -> set[str]:
    """The rules of `idioms.yaml` that are found in a text."""
    return {match.rule for match in _Text(text).idioms}


def find(question: str, before: str | None = None) -> list[Finding]:
    """What the reader should be told before the answer to a question; at most one finding of each kind, the gravest first.

    Args:
        question: The last message.
        before: The question before it, whose emergency goes on where this one asks nothing new.
    """
    text = _Text(question)
    overdose = any(text.matches("overdose"))
    found: list[Finding] = []
    if _is_emergency(text):
        clinician = text.has("clinician", "clinical")
        found.append(Finding("emergency", "overdose" if overdose else "clinician" if clinician else "emergency"))
    if _is_self_harm(text):
        found.append(Finding("self_harm", "means" if _asks_for_means(text) else "overdose" if overdose else "self_harm"))
    if not found and before is not None and not text.has("topic", "general"):
        found = [finding for finding in find(before) if finding.withholds]
    if not found and _is_personal_dosing(text):
        found.append(Finding("dosing", "dosing"))
    return found


def _is_emergency(text: _Text) -> bool:
    if text.has("case") and not text.has("clinician"):
        return False
    if text.has("vignette") and not text.has("near_me", "clinician"):
        return False
    kinds = ("emergency", "clinician") if text.has("clinician", "clinical") else ("emergency",)
    return any(_happens(text, match) for kind in kinds for match in text.matches(kind))


def _happens(text: _Text, match: Match) -> bool:
    sentence, clinician = text.around(match.span, _SENTENCE), text.has("clinician")
    denied = any(_gate("denied").search(text.before(place)) for place in match.places)
    if denied or _gate("figures_of_speech").search(sentence):
        return False
    general = bool(_gate("general").search(sentence) or _gate("lesson").search(_gate("own_child").sub("mine", sentence)))
    own = bool(_gate("own").search(sentence)) or (clinician and not general)
    study = _gate("study").search(sentence) or (text.has("study") and not own)
    if (general and not own) or study or (not clinician and _gate("patients").search(sentence)):
        return False
    # Without a person a sentence reports a state when it asks nothing in general and names more than a topic.
    reports = len(match.places) > 1 and not _gate("topic").search(sentence)
    person = clinician or reports or _is_somebody(_gate("asker").sub("", text.plain))
    return person and not text.over(match) and not _is_supposed(sentence)


def _is_self_harm(text: _Text) -> bool:
    # An exam that somebody failed is no lesson.
    around = _gate("students").sub("", text.plain) if text.has("own_wish") else text.plain
    if text.has("case") or _gate("study").search(around):
        return False
    for match in text.matches("self_harm"):
        sentence, clause = text.around(match.span, _SENTENCE), text.around(match.span, _CLAUSE)
        first = re.search(r"\b(?:i|im|ive|me|my|myself|whats the (?:point|use))\b", _gate("of_others").sub("", sentence))
        general = (_gate("general").search(sentence) or _gate("lesson").search(sentence)) and not first
        supposed = _is_supposed(sentence) and not first
        over = _is_over(sentence, clause, "past") and not re.search(r"\b(?:i|im|ive|myself)\b", _gate("past").sub("", clause))
        if _is_somebody(sentence) and not (general or supposed or over or _gate("figures_of_speech").search(sentence)):
            return True
    return _asks_for_means(text)


def _asks_for_means(text: _Text) -> bool:
    return any(not _gate("lesson").search(text.around(match.span, _SENTENCE)) for match in text.matches("method"))


def _is_personal_dosing(text: _Text) -> bool:
    vignette = text.has("vignette") and not text.has("near_me")
    if text.has("case", "study", "patients") or vignette or not any(text.matches("medicine")):
        return False
    for match in text.matches("dosing"):
        sentence = text.around(match.span, _SENTENCE)
        personal = _gate("personal").search(sentence)
        general = (_gate("general").search(sentence) or _gate("lesson").search(sentence)) and not personal
        own = text.has("personal", "dropped_i")
        if own and not (general or _gate("mechanism").search(sentence) or _gate("supposed").search(sentence)):
            return True
    return False


def _is_somebody(text: str) -> bool:
    return bool(_gate("somebody").search(text) or _gate("dropped_i").search(text))


def _is_supposed(sentence: str) -> bool:
    return bool(_gate("supposed").search(sentence) and not re.search(r"\b(?:right now|now|just)\b", sentence))


def _is_over(sentence: str, clause: str, gate: str) -> bool:
    if past := _gate(gate).search(clause):
        return not _gate("now").search(clause, past.end())
    told = _gate(gate).search(sentence) and _gate("past_tense").search(clause)
    return bool(told) and not (_gate("present").search(clause) or _gate("now").search(clause))


def _plain(question: str) -> str:
    """Lower case without accents and apostrophes, hyphens as spaces, usual spelling, and no roman I that is a number."""
    letters = "".join(letter for letter in unicodedata.normalize("NFKD", question) if not unicodedata.combining(letter))
    text = re.sub(r"[\u2019\u2018`\u00b4]", "'", letters.lower())
    text = re.sub(rf"\b({_whole(read('gates')['kin'])})'s\b", r"\1 is", text).replace("'", "")
    text = re.sub(r"[-\u2010-\u2014/]", " ", text)
    units = "mg|mcg|ml|mls|g|kg|units?|iu|puffs?|tablets?|pills?|weeks?|days?|months?|yo|yrs?|mins?|hrs?"
    text = re.sub(rf"(?<=\d)(?=(?:{units})\b)", " ", text)
    text = _spelling().usual(text)
    text = re.sub(r"\b(type|class|grade|stage|phase|factor|axis|mobitz|group|angiotensin|complex|hepatitis) i\b", r"\1 one", text)
    text = re.sub(r"\b(?:tell|give|remind|show|teach|help) me (?=what|which|how|why|when|the|about|understand|all|a list|some)", "", text)
    return re.sub(r"[ \t]+", " ", text).strip()


def _tags(word: str) -> list[str]:
    names, stems, never = _medicines()
    named = word in names or (word[-1] == "s" and word[:-1] in names) or (stems.fullmatch(word) and word not in never)
    found = ["_name_"] if named else []
    return [*found, "_count_"] if word in _NUMBERS or (word.isdigit() and len(word) > 1) else found


@cache
def read(name: str) -> Any:
    """What a file of `rules/` holds."""
    return yaml.safe_load((RULES / f"{name}.yaml").read_text(encoding="utf-8"))


def _whole(block: str) -> str:
    """A text that was written over several lines, in one."""
    return "".join(line.removeprefix("  ") for line in block.splitlines())


@cache
def _gate(name: str) -> re.Pattern[str]:
    return re.compile(_whole(read("gates")[name]).replace("<kin>", _whole(read("gates")["kin"])))


@cache
def _medicines() -> tuple[set[str], re.Pattern[str], set[str]]:
    lists = read("medicines")
    names = {name for kind in ("generic", "also", "brands") for name in lists[kind].split()}
    return names, re.compile(lists["stems"].replace(" ", "")), set(lists["never"].split())


@cache
def _patterns() -> Patterns:
    classes = dict(line.split(" = ") for line in lines(read("words")["classes"]))
    rules = [(kind, rule["name"], rule["patterns"]) for kind in KINDS for rule in read(kind)]
    return Patterns([*rules, ("medicine", "medicine", "_drug_")], classes)


@cache
def _spelling() -> Spelling:
    words = {word for word in _patterns().vocabulary() if len(word) > 3}
    return Spelling(read("words")["spellings"].items(), read("words")["right"].split(), words, _medicines()[0])
