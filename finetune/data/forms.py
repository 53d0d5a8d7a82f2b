"""Rows of each known kind of data set become messages. Knows columns, but not where rows come from, no tokenizer and no model."""

import re
from collections.abc import Callable
from typing import Any

from app.errors import DataError
from finetune.data.rows import Row

Message = dict[str, str]

# What a column mapping may name.
FIELDS = ("question", "answer", "context", "messages", "dialogue")
# A consultation that the doctor opens needs something to answer to, since a prompt begins with the user.
OPENING = "Hello, doctor."
_DOCTORS = {"doctor", "guest_clinician", "clinician", "physician", "assistant"}
_SPEAKER = re.compile(r"^\s*([A-Za-z][A-Za-z_]{1,24})\s*:[ \t]*", re.MULTILINE)
# How many MedMCQA explanations begin: "Ans. A. ...", "Ans is 'b' i.e. ...", "Answer- (c) ...".
_ANSWER_HEAD = re.compile(r"^\W*ans(?:wer)?\b(?:\s+is\b)?[\s.:,'\"(\[-]*([a-d])\b[\s.:,'\")\]-]*(?:i\.?e\.?,?\s*)?", re.IGNORECASE)


class Unusable(Exception):
    """A row that cannot become a conversation; the text is the reason that is counted and shown."""


def pair(question: str, answer: str) -> list[Message]:
    """One question and its answer."""
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def _meadow(row: Row) -> list[Message]:
    return pair(row["input"], row["output"])


def _question_answer(row: Row) -> list[Message]:
    return pair(row["question"], row["answer"])


def _with_context(row: Row) -> list[Message]:
    context = row["context"] or ""
    return pair(f"{context}\n\n{row['question']}" if str(context).strip() else row["question"], row["answer"])


def merge(messages: list[Message]) -> list[Message]:
    """Joins what one speaker says in several messages on end into one message of several lines."""
    merged: list[Message] = []
    for message in messages:
        if merged and merged[-1]["role"] == message["role"]:
            merged[-1] = {"role": message["role"], "content": f"{merged[-1]['content']}\n{message['content']}"}
        else:
            merged.append(message)
    return merged


def _messages(row: Row) -> list[Message]:
    return merge([{"role": m["role"], "content": m["content"]} for m in row["messages"]])


def _dialogue(row: Row) -> list[Message]:
    """Lines of "Doctor: ..." and "Patient: ..." as in MTS-Dialog: clinicians are the assistant, everybody else the user.

    A consultation that the doctor opens gets `OPENING` before it; what the patient says last, unanswered, is left out.
    """
    parts = _SPEAKER.split(row["dialogue"])
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
    return messages


def _pubmedqa(row: Row) -> list[Message]:
    """The abstract and the question; yes, no or maybe, and the conclusion. Reads the original JSON and the Hub's columns."""
    lower = {key.lower(): value for key, value in row.items()}
    contexts = lower.get("contexts") or lower["context"]["contexts"]
    decision = lower["final_decision"]
    if decision not in ("yes", "no", "maybe"):
        raise Unusable("the decision is none of yes, no, maybe")
    return pair("\n".join([*contexts, "", lower["question"]]), f"{decision.capitalize()}. {lower['long_answer']}")


def _medmcqa(row: Row) -> list[Message]:
    """The question with its options; the right letter and option, and the explanation. `cop` counts from 1 here; see `prepare_rows`."""
    if row["cop"] not in (1, 2, 3, 4):
        raise Unusable("no right option is given")
    options = [str(row[key] or "").strip() for key in ("opa", "opb", "opc", "opd")]
    if not str(row["question"] or "").strip() or not all(options):
        raise Unusable("empty question or answer")
    letter = "ABCD"[row["cop"] - 1]
    explanation = (row.get("exp") or "").strip()
    head = _ANSWER_HEAD.match(explanation)
    if head and head[1].upper() != letter:
        raise Unusable("the explanation names another option than the key")
    explanation = explanation[head.end() :].strip() if head else explanation
    question = "\n".join([row["question"].strip(), *(f"{name}. {option}" for name, option in zip("ABCD", options, strict=True))])
    return pair(question, "\n\n".join(filter(None, [f"{letter}. {options[row['cop'] - 1]}", explanation])))


# The columns that mark a kind of data set, and how one of its rows becomes messages; the first whose columns are all there is taken.
READERS: list[tuple[frozenset[str], Callable[[Row], list[Message]]]] = [
    (frozenset({"messages"}), _messages),
    (frozenset({"QUESTION", "CONTEXTS", "LONG_ANSWER", "final_decision"}), _pubmedqa),
    (frozenset({"question", "context", "long_answer", "final_decision"}), _pubmedqa),
    (frozenset({"question", "opa", "opb", "opc", "opd", "cop"}), _medmcqa),
    (frozenset({"dialogue"}), _dialogue),
    (frozenset({"input", "output"}), _meadow),
    (frozenset({"question", "answer", "context"}), _with_context),
    (frozenset({"question", "answer"}), _question_answer),
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
        field, equals, column = (part.strip() for part in entry.partition("="))
        if not (equals and column) or field not in FIELDS:
            raise DataError(
                f"--columns has {entry!r}. Give field=column, as question=Frage,answer=Antwort; fields are {', '.join(FIELDS)}."
            )
        columns[column] = field
    return columns


def prepare_rows(rows: list[Row], name: str, columns: dict[str, str]) -> tuple[list[Row], Callable[[Row], list[Message]]]:
    """Renames mapped columns, and finds the reader of these rows.

    Args:
        rows: All rows of a table.
        name: Its name, for the message.
        columns: Our field for each of their columns; see `parse_columns`.

    Raises:
        DataError: The columns are those of no known kind, or MedMCQA's key cannot be understood.
    """
    found = set().union(*(row.keys() for row in rows[:100]))
    if columns:
        if missing := sorted(set(columns) - found):
            raise DataError(f"{name} has no column {missing[0]!r}; it has {', '.join(sorted(found))}. Correct --columns.")
        rows = [{columns[key]: value for key, value in row.items() if key in columns} for row in rows]
        found = set(columns.values())
    for wanted, reader in READERS:
        if wanted <= found:
            return (_count_from_one(rows, name) if reader is _medmcqa else rows), reader
    accepted = "; ".join(" and ".join(sorted(wanted)) for wanted, _ in READERS)
    raise DataError(
        f"{name} has the columns {', '.join(sorted(found))}. Training reads one of: {accepted}. "
        "Name yours with --columns question=...,answer=..."
        "."
    )


def _count_from_one(rows: list[Row], name: str) -> list[Row]:
    """MedMCQA's `cop` counts from 1 in the original files and from 0 on the Hub, where -1 marks a hidden key."""
    keys: set[Any] = {int(row["cop"]) for row in rows if str(row.get("cop")).lstrip("-").isdigit()}
    if 0 in keys and 4 in keys or not keys & {0, 4}:
        raise DataError(
            f"{name} has {sorted(keys)} in the column cop, so nobody can tell whether it counts from 0 or from 1. Give the whole file."
        )
    shift = 1 if 0 in keys else 0
    return [row | {"cop": int(row["cop"]) + shift if str(row.get("cop")).lstrip("-").isdigit() else None} for row in rows]
