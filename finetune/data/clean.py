"""Finds the defects of conversations: what can be mended is mended, the rest is dropped, and both are counted with row and reason.

Knows texts alone: lengths in tokens are judged by `finetune.data.tokens`, because they depend on a model.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from sys import intern

import numpy as np
from scipy.sparse import csr_array

from app.notices.words import words
from finetune.data.families import Pairs, components, jaccard, similar_pairs, word_sets
from finetune.data.forms import OPENING
from finetune.data.sources import Example, Message

# Rows whose questions AND whose whole texts are as alike as this say the same: the later one is dropped. The question is judged by
# itself because answers made by one pattern differ in nothing but a name ("... symptoms of Malaria", "... symptoms of Mumps").
DUPLICATE = 0.9
# Questions as alike as this are rewordings of one question where their rows stand close together; far apart they often are only
# made by one pattern ("What are the symptoms of ...?").
ADJACENT_QUESTIONS, NEIGHBOURS = 0.5, 3
# An answer opens with its own question again when its first sentence is a question as alike as this.
REPEATED = 0.6

ABSENT_TEXT = "refers to a text that is not there"
LEFTOVER = "leftover of its source"
MARKUP = "HTML tags"
ONLY_QUESTION = "answer is only the question again"
ANOTHER_QUESTION = "answer is only another question"
REPEATS = "answer began with the question again (cut off)"
SAME = "same conversation as another row"
NEAR = "near-duplicate of another row"
CONFLICT = "another answer to a question that an earlier row answers"

_THING = r"(?:information|text|passage|context|statement|sentence|paragraph|details?|data|description|options?|vignette)"
_ABSENT = re.compile(
    rf"\b(?:as per|according to|based on|from|in) the (?:given|provided|above|preceding|following) {_THING}\b"
    rf"|\b(?:as per|according to|based on|from|in) the {_THING} (?:that (?:is|was) )?(?:provided|given|above|mentioned|supplied)\b"
    r"|\b(?:the|this) original question\b",
    re.IGNORECASE,
)
_ABSENT_PICTURE = re.compile(
    r"\bin the (?:image|picture|figure|photograph|diagram)s? (?:shown|given|above|below|provided)\b"
    r"|\b(?:shown|pictured|depicted|marked|seen) in the (?:given |above |following )?(?:image|picture|figure|photograph|diagram)\b"
    r"|\bthe (?:image|picture|figure|photograph|diagram)s? (?:above|below|shown|given)\b",
    re.IGNORECASE,
)
_LEFTOVER = re.compile(
    r"\bbonus (?:fact|question|point)s?\b|\bbonus\s*:|\{\{c\d+::|\[sound:"
    r"|&(?:nbsp|amp|lt|gt|quot|#\d+);|\bas an AI(?: language)? model\b|\bclick here\b",
    re.IGNORECASE,
)
# One of these, in lower case, is in whatever the patterns find: looking for them first takes a tenth of the time.
_ABSENT_SIGNS = [
    "given",
    "provided",
    "above",
    "preceding",
    "following",
    "mentioned",
    "supplied",
    "original",
]
_PICTURE_SIGNS = ["image", "picture", "figure", "photograph", "diagram"]
_LEFTOVER_SIGNS = ["bonus", "{{c", "[sound:", "&", "as an ai", "click here"]
_TAGS = re.compile(
    r"</?(?:br|div|img|b|i|u|em|strong|a|span|p|li|ul|ol|sub|sup|table|td|th|tr|h[1-6]|hr|pre|code)(?:\s+[\w-]+\s*=[^<>]*|\s*/)?\s*>", re.I
)
_ASKED = "?\u061f\uff1f\u037e"  # question marks: Latin, Arabic, of full width, Greek
_FIRST_QUESTION = re.compile(rf"^\s*([^{_ASKED}\n]{{4,400}}[{_ASKED}])\s*(.*)$", re.DOTALL)
_QUESTION_ALONE = re.compile(rf"^[^{_ASKED}.!\n。！]{{4,400}}[{_ASKED}]\s*$")
# Options that a question lists, on lines of their own or one after the other: "A. ...", "(b) ...", "3) ...".
_OPTIONS = re.compile(r"(?:^|\s)\(?(?:[A-Ea-e]|[1-5])[.)](?=\s)")
# A question of so many words brings what it speaks of.
LONG_QUESTION = 60


@dataclass(frozen=True)
class Finding:
    """A row that was dropped or mended.

    Attributes:
        row, source: Where it stands.
        reason: One of the sentences at the top of the file, or of the source's reader.
        other: The row that it repeats or contradicts, as "source, row".
        text: Its question, for the page; never written to a log.
    """

    row: int | str
    source: str
    reason: str
    other: str = ""
    text: str = ""


@dataclass(frozen=True)
class Cleaned:
    """Conversations without defects, and what became of the others.

    Attributes:
        examples: What is left.
        families: (examples,) family of each; relatives never straddle a split.
        sets: (examples, words) words of each; see `finetune.data.families.word_sets`.
        dropped, mended: Rows with reasons.
        kinship: Pairs of relatives among `judged`, which still holds duplicates: what a random split would tear apart.
        judged: How many conversations stood in that comparison.
    """

    examples: list[Example]
    families: np.ndarray
    sets: csr_array
    dropped: list[Finding]
    mended: list[Finding]
    kinship: tuple[np.ndarray, np.ndarray]
    judged: int


def finding(example: Example, reason: str, other: Example | None = None) -> Finding:
    """A finding about an example."""
    return Finding(example.row, example.source, reason, f"{other.source}, row {other.row}" if other else "", example.question)


def cut_repetition(question: str, answer: str) -> str:
    """The answer without its own question at its beginning; empty when nothing else is there."""
    # Texts of the same words are of like length, and few answers are as short as their questions.
    if len(answer) < 2 * len(question) + 20 and words(question) == words(answer) != []:
        return ""
    match = _FIRST_QUESTION.match(answer)
    if match and jaccard(words(question), words(match[1])) >= REPEATED:
        return match[2].strip()
    return answer


def _mend(example: Example) -> Example:
    messages: list[Message] = []
    for message in example.messages:
        answers = message["role"] == "assistant"
        messages.append(message | {"content": cut_repetition(messages[-1]["content"], message["content"])} if answers else message)
    return replace(example, messages=messages) if messages != example.messages else example


def _brings_text(example: Example) -> bool:
    """Whether a question may speak of a text or of options: it has a context, lists options, or is long enough to hold them."""
    return example.brings_text or len(_OPTIONS.findall(example.question)) > 1 or len(example.question.split()) >= LONG_QUESTION


def _defect(example: Example) -> str | None:
    text = example.text
    if any(not message["content"] for message in example.messages):
        return ONLY_QUESTION
    if len(example.messages) == 2 and example.question != OPENING and _QUESTION_ALONE.match(example.answer):
        return ANOTHER_QUESTION
    if _is_in(text, _ABSENT_PICTURE, _PICTURE_SIGNS) or (_is_in(text, _ABSENT, _ABSENT_SIGNS) and not _brings_text(example)):
        return ABSENT_TEXT
    if "<" in text and _TAGS.search(text):
        return MARKUP
    return LEFTOVER if _is_in(text, _LEFTOVER, _LEFTOVER_SIGNS) else None


def _is_in(text: str, pattern: re.Pattern[str], signs: list[str]) -> bool:
    lower = text.lower()
    return any(sign in lower for sign in signs) and bool(pattern.search(text))


def clean(examples: list[Example], progress: Callable[[str], None] = lambda text: None) -> Cleaned:
    """Drops and mends defects, drops duplicates, and groups relatives.

    Args:
        examples: Conversations of one data set or of several.
        progress: Told what is being done.
    """
    dropped: list[Finding] = []
    mended: list[Finding] = []
    usable: list[Example] = []
    for example in examples:
        better = _mend(example)
        if reason := _defect(better):
            dropped.append(finding(example, reason))
            continue
        usable.append(better)
        if better is not example:
            mended.append(finding(example, REPEATS))
    progress(f"comparing {len(usable):,} conversations")
    said = [tuple(map(intern, words(example.text))) for example in usable]
    asked = [tuple(map(intern, words(example.question))) for example in usable]
    sets = word_sets(said)
    pairs = similar_pairs(sets)
    left, right = (np.concatenate(parts) for parts in zip((pairs.left, pairs.right), _other_kin(usable, said, asked), strict=True))
    family = components(len(usable), left, right)
    gone = _duplicates(usable, said, asked, pairs, dropped)
    kept = [place for place in range(len(usable)) if place not in gone]
    return Cleaned([usable[place] for place in kept], family[kept], sets[kept], dropped, mended, (left, right), len(usable))


def question_key(example: Example) -> tuple[str, ...] | None:
    """What the same question has in common; None where the first line may be a mere greeting."""
    return tuple(words(example.question)) if _asks_once(example) else None


def _asks_once(example: Example) -> bool:
    return len(example.messages) == 2 and example.question != OPENING


def _other_kin(examples: list[Example], said: list[tuple[str, ...]], asked: list[tuple[str, ...]]) -> tuple[np.ndarray, np.ndarray]:
    """Pairs that are relatives whatever their words: the same row, the same question or text, rewordings next to each other."""
    first: dict[object, int] = {}
    edges: list[tuple[int, int]] = []
    sets = [set(asked[place]) if len(example.messages) == 2 else set() for place, example in enumerate(examples)]
    for place, example in enumerate(examples):
        for key in ((example.source, example.row), asked[place] if _asks_once(example) else None, said[place]):
            if key and (earlier := first.setdefault(key, place)) != place:
                edges.append((earlier, place))
        for other in range(max(0, place - NEIGHBOURS), place):
            if _near_rows(example, examples[other]) and jaccard(sets[place], sets[other]) >= ADJACENT_QUESTIONS:
                edges.append((other, place))
    pairs = np.array(edges, np.int64).reshape(-1, 2)
    return pairs[:, 0], pairs[:, 1]


def _near_rows(one: Example, other: Example) -> bool:
    numbered = isinstance(one.row, int) and isinstance(other.row, int)
    return numbered and one.source == other.source and abs(int(one.row) - int(other.row)) <= NEIGHBOURS


def _duplicates(
    examples: list[Example], said: list[tuple[str, ...]], asked: list[tuple[str, ...]], pairs: Pairs, dropped: list[Finding]
) -> set[int]:
    """Places of rows that repeat an earlier row, or answer its question otherwise; wordings of one card are no duplicates."""
    gone: set[int] = set()
    seen: dict[tuple[str, ...], int] = {}
    first: dict[tuple[str, ...], int] = {}

    def drop(place: int, other: int, reason: str) -> None:
        example, earlier = examples[place], examples[other]
        if place not in gone and (example.source, example.row) != (earlier.source, earlier.row):
            gone.add(place)
            dropped.append(finding(example, reason, earlier))

    for place, text in enumerate(said):
        if text and (earlier := seen.setdefault(text, place)) != place:
            drop(place, earlier, SAME)
    close = pairs.at_least(DUPLICATE)
    for one, other in sorted(zip(close.left.tolist(), close.right.tolist(), strict=True)):
        if one not in gone and jaccard(asked[one], asked[other]) >= DUPLICATE:
            drop(other, one, NEAR)
    for place, example in enumerate(examples):
        key = asked[place] if _asks_once(example) else None
        if key and place not in gone and (earlier := first.setdefault(key, place)) != place:
            drop(place, earlier, CONFLICT)
    return gone
