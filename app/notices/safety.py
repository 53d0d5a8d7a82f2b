"""Notices before an answer: emergencies, self-harm and personal dosing requests, found by the rules in `rules/` and nothing else.

`find(question)` says what a reader should be told first. A notice needs two things: words for what is happening (`emergency.yaml`,
`self_harm.yaml`, `dosing.yaml`), and signs that it happens to somebody now and is no lesson, vignette, memory or worry (`gates.yaml`).
An exam question about the same disease has the first and lacks the second. `words.yaml` says how a rule is read.

What the rules do not cover: languages other than English, spelling far from usual, pictures of speech that name no symptom, what was
said in earlier turns, emergencies not listed there. A clinician's question about "a patient" gets no notice, unless the
patient is "here", "in front of me" or "just" fell ill. No notice means nothing: these rules warn, they do not judge how ill somebody
is. Measured by `make safety`.
"""

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import pairwise, product
from pathlib import Path
from typing import Any, Literal

import yaml

Kind = Literal["emergency", "self_harm", "dosing"]

RULES = Path(__file__).parent / "rules"
NOTICES: dict[Kind, str] = {
    "emergency": (
        "This may be an emergency. Call the local emergency number first (112, 911, 999 or 000, depending on where you are) and do what "
        "they tell you; do not wait for an answer here."
    ),
    "self_harm": (
        "It sounds as if things are very hard right now, and you do not have to carry this alone. If there is danger at this moment, call "
        "the local emergency number. You can talk to somebody now: in the US and Canada call or text 988, in the UK and Ireland call "
        "116 123, in Australia 13 11 14; findahelpline.com lists other countries. Or tell somebody near you."
    ),
    "dosing": "A dose for a person depends on things that this page does not know. Ask a pharmacist or doctor, or read the leaflet, first.",
}
WITHHELD = "This question gets no answer here. Please talk to somebody first: the notice says where."
# Letters over which groups of one rule may be spread: some twenty words.
REACH = 100
# Places of one group that are looked at, so that a long text costs little.
MOST_PLACES = 12
_SENTENCE = re.compile(r"[.!?;\n]+(?= |$)|\n")
_CLAUSE = re.compile(r"[.!?;\n]+(?= |$)|\n|,|\b(?:and|but|now)\b")


@dataclass(frozen=True)
class Finding:
    """Something that the reader should be told before the answer.

    Attributes:
        text: The notice.
        withholds: The question gets no answer: it asks how to do harm.
    """

    kind: Kind
    text: str
    withholds: bool = False


def find(question: str) -> list[Finding]:
    """What the reader should be told before the answer to a question; at most one finding of each kind, the gravest first."""
    text = _plain(question)
    found: list[Kind] = []
    if _is_emergency(text):
        found.append("emergency")
    harm = _is_self_harm(text)
    if harm:
        found.append("self_harm")
    if not found and _is_personal_dosing(text):
        found.append("dosing")
    return [Finding(kind, NOTICES[kind], withholds=kind == "self_harm" and any(_spans("method", text))) for kind in found]


def _is_emergency(text: str) -> bool:
    urgent = bool(re.search(r"\b(?:right now|as we speak|help me|please help|not for (?:an exam|school|class)|ambulance)\b", text))
    if (_is_lesson(text) or _gate("patients").search(text)) and not urgent:
        return False
    if _gate("vignette").search(text) and not _gate("near_me").search(text):
        return False
    soon = _gate("urgent").search(text) or _gate("now").search(text)
    if not _is_somebody(_gate("asker").sub("", text)) and (not soon or _gate("general").search(text)):
        return False
    return any(_happens(text, start, end) for start, end in _spans("emergency", text))


def _is_self_harm(text: str) -> bool:
    if _is_lesson(text) or _gate("patients").search(text):
        return False
    for start, end in _spans("self_harm", text):
        sentence = _around(text, start, end, _SENTENCE)
        supposed = _is_supposed(sentence) and not re.search(r"\b(?:im|ive|my|me|myself|i (?:want|hurt|cut|feel|think|get))\b", sentence)
        own = re.search(r"\b(?:i|im|ive|me|myself|whats the (?:point|use))\b", sentence)
        said = _gate("past").sub("", _CLAUSE.split(sentence)[0])
        over = _is_over(text, start, end) and not re.search(r"\b(?:i|im|ive|myself)\b", said)
        general = _is_general(sentence) and not own
        if _is_somebody(sentence) and not (general or supposed or over or _gate("figures_of_speech").search(sentence)):
            return True
    return any(_spans("method", text))


def _is_personal_dosing(text: str) -> bool:
    vignette = _gate("vignette").search(text) and not _gate("near_me").search(text)
    if _is_lesson(text) or _gate("patients").search(text) or vignette:
        return False
    personal = _gate("personal")
    for start, end in _spans("dosing", text):
        sentence = _around(text, start, end, _SENTENCE)
        general = (_gate("general").search(sentence) and not personal.search(sentence)) or _gate("mechanism").search(sentence)
        own = personal.search(text) or _gate("dropped_i").search(text)
        if _gate("medicine").search(text) and own and not (general or _gate("supposed").search(sentence)):
            return True
    return False


def _is_somebody(text: str) -> bool:
    return bool(_gate("somebody").search(text) or _gate("dropped_i").search(text))


def _happens(text: str, start: int, end: int) -> bool:
    sentence = _around(text, start, end, _SENTENCE)
    if _gate("denied").search(text[max(0, start - 60) : start]) or _gate("figures_of_speech").search(sentence):
        return False
    return not (_is_general(sentence) or _is_supposed(sentence) or _is_over(text, start, end))


def _is_lesson(text: str) -> bool:
    return bool(_gate("lesson").search(_gate("own_child").sub("mine", text)))


def _is_general(sentence: str) -> bool:
    return bool(_gate("general").search(sentence) and not _gate("own").search(sentence))


def _is_supposed(sentence: str) -> bool:
    return bool(_gate("supposed").search(sentence) and not re.search(r"\b(?:right now|now|just)\b", sentence))


def _is_over(text: str, start: int, end: int) -> bool:
    if not _gate("past").search(_around(text, start, end, _SENTENCE)):
        return False
    clause = _around(text, start, end, _CLAUSE)
    return bool(_gate("past").search(clause)) or not (_gate("present").search(clause) or _gate("now").search(clause))


def _around(text: str, start: int, end: int, border: re.Pattern[str]) -> str:
    """The sentences or clauses that a match lies in."""
    borders = [0, *(match.end() for match in border.finditer(text)), len(text)]
    return text[max(place for place in borders if place <= start) : min(place for place in borders if place >= end)].strip()


def _plain(question: str) -> str:
    """Lower case without accents and apostrophes, hyphens as spaces, and no roman I that is a number."""
    letters = "".join(letter for letter in unicodedata.normalize("NFKD", question) if not unicodedata.combining(letter))
    text = re.sub(r"[\u2019\u2018`]", "'", letters.lower())
    text = re.sub(rf"\b({_gate('kin').pattern})'s\b", r"\1 is", text).replace("'", "")
    text = re.sub(r"[-\u2010-\u2014/]", " ", text)
    for usual, pattern in _spellings():
        text = pattern.sub(usual, text)
    text = re.sub(r"\b(type|class|grade|stage|phase|factor|axis|mobitz|group|angiotensin|complex|hepatitis) i\b", r"\1 one", text)
    text = re.sub(r"\b(?:tell|give|remind|show|teach|help) me (?=what|which|how|why|when|the|about|understand|all|a list|some)", "", text)
    return re.sub(r"[ \t]+", " ", text).strip()


@cache
def read(name: str) -> Any:
    """What a file of `rules/` holds."""
    return yaml.safe_load((RULES / f"{name}.yaml").read_text(encoding="utf-8"))


def _whole(block: str) -> str:
    """A text that was written over several lines, in one."""
    return "".join(line.removeprefix("  ") for line in block.splitlines())


@cache
def _gate(name: str) -> re.Pattern[str]:
    names = {"<kin>": _whole(read("gates")["kin"]), "<brands>": "|".join(read("words")["brands"].split())}
    pattern = _whole(read("gates")[name])
    for short, words in names.items():
        pattern = pattern.replace(short, words)
    return re.compile(pattern)


@cache
def _spellings() -> list[tuple[str, re.Pattern[str]]]:
    return [(usual, re.compile(rf"\b(?:{spelling})\b")) for usual, spelling in read("words")["spellings"].items()]


def _joined(block: str) -> list[str]:
    """The lines of a block, each with the indented ones that go on with it."""
    return re.sub(r"\n +", " ", re.sub(r"\|\n +", "|", block)).strip().splitlines()


@cache
def _rules(name: str) -> list[list[re.Pattern[str]]]:
    return [[_group(group) for group in line.split(" & ")] for rule in read(name) for line in _joined(rule["patterns"])]


@cache
def _classes() -> dict[str, str]:
    return dict(line.split(" = ") for line in _joined(read("words")["classes"]))


@cache
def _shorthand() -> dict[str, str]:
    many = (
        r"(?:[1-9]\d+|dozens?|ten|fifteen|twenty|thirty|forty|fifty|sixty) (?!mg|mcg|ml|units|iu|puffs|drops|g |cc)(?:\w+ ){0,3}?"
        r"(?:pills|tablets|tabs|caps|capsules|tylenols?|paracetamols?|ibuprofens?|aspirins?|advils?|xanax|\w{6,}s)"
    )
    return {"_drug_": _gate("medicine").pattern.removeprefix(r"\b").removesuffix(r"\b"), "_many_": many}


def _group(words: str) -> re.Pattern[str]:
    for name, members in _classes().items():
        words = words.replace(name, members)
    parts = [_shorthand().get(word.strip()) or _literal(word.strip()) for word in words.split("|")]
    return re.compile(rf"\b(?:{'|'.join(parts)})(?!\w)")


def _literal(word: str) -> str:
    pattern = re.escape(word).replace(r"\ \.\.\.\ ", r" (?:\w+ ){0,3}").replace(r"\*", r"\w*").replace(r"\#", r"\d")
    pattern = re.sub(r"\\\[(.*?)\\\]", lambda digits: f"[{digits[1]}]", pattern)
    return re.sub(r"^not\\ ", "(?:not|isnt|arent|aint) ", pattern)


def _spans(name: str, text: str) -> Iterator[tuple[int, int]]:
    """Where a rule matches: one word of each of its groups, near one another."""
    for groups in _rules(name):
        places: list[list[tuple[int, int]]] = []
        for group in groups:
            if not (found := [match.span() for match in group.finditer(text)][:MOST_PLACES]):
                break
            places.append(found)
        if len(places) < len(groups):
            continue
        for chosen in product(*places):
            start, end = min(place[0] for place in chosen), max(place[1] for place in chosen)
            if end - start <= REACH and _apart(chosen):
                yield start, end


def _apart(places: tuple[tuple[int, int], ...]) -> bool:
    order = sorted(places)
    return all(before[1] <= after[0] for before, after in pairwise(order))
