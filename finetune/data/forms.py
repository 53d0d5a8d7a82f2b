"""Rows of each known kind of data set become messages. Knows columns, but not where rows come from, no tokenizer and no model."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from app.errors import DataError
from app.notices.words import words
from finetune.data.files import Row
from finetune.data.turns import Message, merge, pair, read_messages
from finetune.data.values import Unusable, is_empty, is_missing, required, text_of, unpacked

# What a column mapping may name.
FIELDS = ("question", "answer", "context", "messages", "dialogue", "instruction", "input", "output", "prompt", "completion", "system")
# What readers look at beside the columns that mark a kind.
_ALSO = ("response", "answers", "tools", "is_impossible", "exp", "context")
# A consultation that the doctor opens needs something to answer to, since a prompt begins with the user.
OPENING = "Hello, doctor."
SYSTEM_NOTE = "system message kept as a note before the question"
ACCEPTED_FORMS = "question and answer; input and output; instruction and output; prompt and completion; messages (see docs/data.md)"
LISTED = 10  # columns that an error names
_DOCTORS = {"doctor", "guest_clinician", "clinician", "physician", "assistant"}
_SPEAKER = re.compile(r"^\s*([A-Za-z][A-Za-z_]{1,24})\s*:[ \t]*", re.MULTILINE)
# How many MedMCQA explanations begin: "Ans. A. ...", "Ans is 'b' i.e. ...", "Answer- (c) ...".
_ANSWER_HEAD = re.compile(r"^\W*ans(?:wer)?\b(?:\s+is\b)?[\s.:,'\"(\[-]*([a-d])\b[\s.:,'\")\]-]*(?:i\.?e\.?,?\s*)?", re.IGNORECASE)
# The instruction that stands before every question of Medical Meadow says nothing that the question does not.
_EMPTY_INSTRUCTION = ["answer", "this", "question", "truthfully"]


@dataclass
class Reading:
    """What a row became.

    Attributes:
        messages: User and assistant in turn.
        notes: What was not simply text, one sentence each.
        brings_text: The question holds the text or the options that it speaks of.
    """

    messages: list[Message] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    brings_text: bool = False


Reader = Callable[[Row], Reading]


def _asked(row: Row, question: str, answer: str, before: str | None = None) -> Reading:
    """One question and its answer, with a text before the question where the column `before` holds one."""
    notes: list[str] = []
    asked, context = required(row, question, "question", notes), row.get(before) if before else None
    has_context = not is_missing(context)
    if has_context:
        asked = f"{text_of(unpacked(context), notes, bullets=False)}\n\n{asked}"
    if not is_missing(row.get("system")):
        notes.append(SYSTEM_NOTE)
        asked = f"{text_of(row['system'], notes)}\n\n{asked}"
    return Reading(pair(asked, required(row, answer, "answer", notes)), notes, has_context)


def _instruction(row: Row) -> Reading:
    """Instruction and input as the original Alpaca prompt joins them, https://github.com/tatsu-lab/stanford_alpaca.

    Its headings for the instruction and the response are those of our template's question and answer.
    """
    answer = next((name for name in ("output", "response", "answer") if name in row), "output")
    given, task = not is_missing(row.get("input")), not is_missing(row.get("instruction"))
    if given and (not task or words(str(row["instruction"])) == _EMPTY_INSTRUCTION):
        return _asked(row, "input", answer)
    reading = _asked(row, "instruction", answer)
    if given:
        notes = reading.notes
        reading.messages[0]["content"] += f"\n\n### Input:\n{text_of(row['input'], notes)}"
        reading.brings_text = True
    return reading


def _prompt(row: Row) -> Reading:
    """Prompt and completion, each as text or, as TRL has them, as messages."""
    answer = "completion" if "completion" in row else "response"
    prompt, completion = unpacked(row.get("prompt")), unpacked(row.get(answer))
    if not isinstance(prompt, list) and not isinstance(completion, list):
        return _asked(row, "prompt", answer)
    given = prompt if isinstance(prompt, list) else pair(str(prompt), "")[:1]
    return _conversation({"messages": given + (completion if isinstance(completion, list) else pair("", str(completion))[1:])})


def _conversation(row: Row) -> Reading:
    value = next((row[name] for name in ("messages", "conversations", "conversation") if not is_missing(row.get(name))), None)
    if not is_missing(row.get("tools")) and row["tools"] != "[]":
        raise Unusable("tool call")
    notes: list[str] = []
    messages, system = read_messages(unpacked(value), notes)
    if not is_missing(row.get("system")):
        system.insert(0, text_of(row["system"], notes))
    if system:
        notes.append(SYSTEM_NOTE)
        messages[0] = messages[0] | {"content": "\n\n".join([*system, messages[0]["content"]])}
    return Reading(messages, notes, bool(system))


def _squad(row: Row) -> Reading:
    """Context, question and the first of the answers, which are several people's answers to the same question."""
    answers = unpacked(row.get("answers"))
    texts = answers.get("text") if isinstance(answers, dict) else answers
    texts = texts if isinstance(texts, list) else [texts]
    if row.get("is_impossible") is True or is_missing([text for text in texts if not is_missing(text)]):
        raise Unusable("no answer (the question cannot be answered from its text)")
    first = next(text for text in texts if not is_missing(text))
    return _asked(
        row | {"answer": first["text"] if isinstance(first, dict) and "text" in first else first}, "question", "answer", "context"
    )


def _dialogue(row: Row) -> Reading:
    """Lines of "Doctor: ..." and "Patient: ..." as in MTS-Dialog: clinicians are the assistant, everybody else the user.

    A consultation that the doctor opens gets `OPENING` before it; what the patient says last, unanswered, is left out.
    """
    notes: list[str] = []
    parts = _SPEAKER.split(required(row, "dialogue", "dialogue", notes))
    turns = [
        {"role": "assistant" if name.lower() in _DOCTORS else "user", "content": " ".join(text.split())}
        for name, text in zip(parts[1::2], parts[2::2], strict=True)
        if text.strip()
    ]
    messages = merge(turns)
    if parts[0].strip() or not messages:
        raise Unusable("no lines of the form 'Doctor: ...' and 'Patient: ...'")
    if messages[0]["role"] == "assistant":
        messages.insert(0, {"role": "user", "content": OPENING})
    if messages[-1]["role"] == "user":
        messages.pop()
    if not messages:
        raise Unusable("the doctor says nothing")
    return Reading(messages, notes)


def _pubmedqa(row: Row) -> Reading:
    """The abstract and the question; yes, no or maybe, and the conclusion. Reads the original JSON and the Hub's columns."""
    notes: list[str] = []
    given = unpacked(row.get("contexts") or row.get("context"))
    contexts = given.get("contexts") if isinstance(given, dict) else given
    decision = row.get("final_decision")
    if decision not in ("yes", "no", "maybe"):
        raise Unusable("the decision is none of yes, no, maybe")
    if is_missing(contexts):
        raise Unusable("empty context")
    asked = [text_of(contexts, [], bullets=False), "", required(row, "question", "question", notes)]
    return Reading(pair("\n".join(asked), f"{decision.capitalize()}. {required(row, 'long_answer', 'answer', notes)}"), notes, True)


def _medmcqa(row: Row) -> Reading:
    """The question with its options; the right letter and option, and the explanation. `cop` counts from 1 here; see `prepare_rows`."""
    if row.get("cop") not in (1, 2, 3, 4):
        raise Unusable("no right option is given")
    notes: list[str] = []
    if any(is_empty(row.get(key)) for key in ("opa", "opb", "opc", "opd")):
        raise Unusable("empty option")
    options = [text_of(row[key], notes).strip() for key in ("opa", "opb", "opc", "opd")]
    letter = "ABCD"[row["cop"] - 1]
    explanation = "" if is_missing(row.get("exp")) else text_of(row["exp"], notes).strip()
    head = _ANSWER_HEAD.match(explanation)
    if head and head[1].upper() != letter:
        raise Unusable("the explanation names another option than the key")
    explanation = explanation[head.end() :].strip() if head else explanation
    choices = [f"{name}. {option}" for name, option in zip("ABCD", options, strict=True)]
    question = "\n".join([required(row, "question", "question", notes).strip(), *choices])
    return Reading(pair(question, "\n\n".join(filter(None, [f"{letter}. {options[row['cop'] - 1]}", explanation]))), notes, True)


# The columns that mark a kind of data set, and how one of its rows becomes messages; the first whose columns are all there is taken.
READERS: list[tuple[frozenset[str], Reader]] = [
    *((frozenset({name}), _conversation) for name in ("messages", "conversations", "conversation")),
    (frozenset({"question", "contexts", "long_answer", "final_decision"}), _pubmedqa),
    (frozenset({"question", "context", "long_answer", "final_decision"}), _pubmedqa),
    (frozenset({"question", "opa", "opb", "opc", "opd", "cop"}), _medmcqa),
    (frozenset({"dialogue"}), _dialogue),
    *((frozenset({"instruction", name}), _instruction) for name in ("output", "response")),
    (frozenset({"input", "output"}), lambda row: _asked(row, "input", "output")),
    *((frozenset({"prompt", name}), _prompt) for name in ("completion", "response")),
    (frozenset({"question", "answers"}), _squad),
    (frozenset({"question", "answer"}), lambda row: _asked(row, "question", "answer", "context")),
]


def parse_columns(mapping: str | None) -> dict[str, str]:
    """Reads `question=Frage,answer=Antwort`.

    Returns:
        Our field for each of their columns.

    Raises:
        DataError: An entry is not of that form or names an unknown field.
    """
    columns = {}
    for entry in (mapping or "").split(",") if mapping else []:
        name, equals, column = (part.strip() for part in entry.partition("="))
        if not (equals and column) or name not in FIELDS:
            raise DataError(
                f"--columns has {entry!r}. Give field=column, as question=Frage,answer=Antwort; fields are {', '.join(FIELDS)}."
            )
        columns[column] = name
    return columns


def listed(names: set[str]) -> str:
    """The first names in order, at most `LISTED` of them, and how many more there are."""
    shown = sorted(names)[:LISTED]
    return ", ".join(shown) + (f" and {len(names) - LISTED} more" if len(names) > LISTED else "")


def renamed(rows: list[Row], found: set[str], name: str, columns: dict[str, str]) -> list[Row]:
    """The rows with our names: mapped columns alone, or all of them in lower case and without blanks around.

    Args:
        rows: All rows of a table.
        found: The columns of all of them.
        name: The table's name, for the message.
        columns: Our field for each of their columns; empty to keep all.

    Raises:
        DataError: A mapped column is not there.
    """
    folded: dict[str, str] = {}
    for column in sorted(found, key=lambda column: (column != column.strip().casefold(), column)):
        folded.setdefault(column.strip().casefold(), column)
    if columns:
        theirs = {column: column if column in found else folded.get(column.strip().casefold()) for column in columns}
        if missing := sorted(column for column, known in theirs.items() if known is None):
            raise DataError(f"{name} has no column {missing[0]!r}; it has {listed(found)}. Correct --columns.")
        return [{ours: row.get(str(theirs[column])) for column, ours in columns.items() if theirs[column] in row} for row in rows]
    if all(key == column for key, column in folded.items()):
        return rows
    return [{key: row[column] for key, column in folded.items() if column in row} for row in rows]


def unread(rows: list[Row], columns: dict[str, str]) -> list[str]:
    """Columns that no reader of rows looks at: those that are not mapped, or whose names are none of ours."""
    known = {*columns} or {*FIELDS, *_ALSO, *(name for wanted, _ in READERS for name in wanted)}
    theirs = set().union(*(row.keys() for row in rows))
    return sorted(column for column in theirs if column not in known and (columns or column.strip().casefold() not in known))


def prepare_rows(rows: list[Row], name: str, columns: dict[str, str]) -> tuple[list[Row], Reader]:
    """Gives columns our names, and finds the reader of these rows.

    Args:
        rows: All rows of a table.
        name: Its name, for the message.
        columns: Our field for each of their columns; see `parse_columns`.

    Raises:
        DataError: The columns are those of no known kind, or MedMCQA's key cannot be understood.
    """
    theirs = set().union(*(row.keys() for row in rows))
    rows = renamed(rows, theirs, name, columns)
    found = set().union(*(row.keys() for row in rows))
    for wanted, reader in READERS:
        if wanted <= found:
            return (_count_from_one(rows, name) if reader is _medmcqa else rows), reader
    raise DataError(
        f"{name} has the columns {listed(theirs)}. Training reads one of: {ACCEPTED_FORMS}. "
        "Name yours with --columns question=...,answer=..."
        "."
    )


def _count_from_one(rows: list[Row], name: str) -> list[Row]:
    """MedMCQA's `cop` counts from 1 in the original files and from 0 on the Hub, where -1 marks a hidden key."""

    def number(row: Row) -> int | None:
        text = str(row.get("cop")).removesuffix(".0")
        return int(text) if text.lstrip("-").isdecimal() else None

    keys: set[Any] = {number(row) for row in rows} - {None}
    if 0 in keys and 4 in keys or not keys & {0, 4}:
        raise DataError(
            f"{name} has {sorted(keys)} in the column cop, so nobody can tell whether it counts from 0 or from 1. Give the whole file."
        )
    shift = 1 if 0 in keys else 0
    return [row | {"cop": None if (found := number(row)) is None else found + shift} for row in rows]
