"""Values of a row become text by stated rules, and what is missing is told from what is said. Knows values, no columns and no files.

Texts stay as they are, but for their line ends and HTML entities such as "&amp;", which become the characters that they stand for.
Numbers are written without an empty fraction, true and false in these words, dates as ISO 8601; a list becomes its only item, or lines
that begin with "- "; an object becomes its text where it has one (`text`, `value`, `content`, `answer`), else lines "name: value".
Whatever is not simply text leaves a note, which is counted and shown.
"""

import datetime
import html
import json
import re
from decimal import Decimal
from typing import Any

# What programs write where there is no value, as the whole of a cell. "None" in lower case and with a full stop are answers.
MARKS = frozenset(
    ["nan", "NaN", "NAN", "-nan", "-NaN", "NaT", "null", "NULL", "Null", "None", "NA", "<NA>", "N/A", "n/a", "#N/A", "#NA", "#N/A N/A"]
    + ["#VALUE!", "#REF!", "#DIV/0!", "#NAME?", "#NULL!", "#NUM!"]
)
MARKED = "marked as missing, by a word such as NaN, NULL or #N/A"
ENTITIES = "HTML entities written as characters"
_ENTITY = re.compile(r"&(?:#\d{1,7}|#x[0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")
# Under which an object holds its text.
_TEXT_KEYS = ("text", "value", "content", "answer")


class Unusable(Exception):
    """A row that cannot become a conversation; the text is the reason that is counted and shown."""


def is_missing(value: Any) -> bool:
    """Whether a cell says nothing: empty, not a number, or a mark such as "NULL" or "#N/A"."""
    return is_empty(value) or (isinstance(value, str) and value.strip() in MARKS)


def is_empty(value: Any) -> bool:
    """Whether there is nothing in a cell, whatever marks mean: one of the options of an exam may well be "None"."""
    if value is None or value != value:  # noqa: PLR0124 - true of every NaN
        return True
    return not value.strip() if isinstance(value, str) else isinstance(value, list | tuple | dict) and not value


def text_of(value: Any, notes: list[str], bullets: bool = True) -> str:
    """A value as text; see the top of the file.

    Args:
        value: A value of JSON, CSV, Parquet or a workbook; not a missing one.
        notes: Gets a sentence on what was not simply text.
        bullets: Lines of a list begin with "- ".

    Raises:
        Unusable: It is no text: bytes, or text with half a character.
    """
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise Unusable("half a character (a lone surrogate)") from error
        if "&" in value and (plain := _ENTITY.sub(_character, value)) != value:
            notes.append(ENTITIES)
            value = plain
        return value.replace("\r\n", "\n").replace("\r", "\n") if "\r" in value else value
    if isinstance(value, bool):
        notes.append("true or false written as text")
        return "true" if value else "false"
    if isinstance(value, int | float | Decimal):
        notes.append("a number written as text")
        return str(int(value)) if isinstance(value, float) and value.is_integer() and abs(value) < 1e15 else str(value)
    if isinstance(value, datetime.date | datetime.time):
        notes.append("a date written as text")
        return value.isoformat()
    if isinstance(value, list | tuple):
        return _list(value, notes, bullets)
    if isinstance(value, dict):
        return _object(value, notes)
    raise Unusable(f"a value that is no text ({type(value).__name__})")


def _character(match: re.Match[str]) -> str:
    return html.unescape(match[0]).replace("\xa0", " ")


def _list(value: list[Any] | tuple[Any, ...], notes: list[str], bullets: bool) -> str:
    items = [text_of(item, notes) for item in value if not is_missing(item)]
    if len(items) == 1:
        return items[0]
    notes.append("a list written as lines")
    return "\n".join(f"- {item}" if bullets else item for item in items)


def _object(value: dict[str, Any], notes: list[str]) -> str:
    key = next((key for key in _TEXT_KEYS if not is_missing(value.get(key))), None)
    if key is not None:
        notes.append("the text of an object taken")
        return text_of(value[key], notes)
    notes.append("an object written as lines")
    return "\n".join(f"{name}: {text_of(part, notes)}" for name, part in value.items() if not is_missing(part))


def required(row: dict[str, Any], column: str, what: str, notes: list[str]) -> str:
    """The text of a column without which a row is useless.

    Args:
        row: The row.
        column: Its column.
        what: "question" or "answer", for the reason.
        notes: As in `text_of`.

    Raises:
        Unusable: It is missing, or is no text.
    """
    value = row.get(column)
    if is_missing(value):
        raise Unusable(f"{what} {MARKED}" if isinstance(value, str) and value.strip() else f"empty {what}")
    text = text_of(value, notes)
    if not text.strip():
        raise Unusable(f"empty {what}")
    return text


def unpacked(value: Any) -> Any:
    """A list or object that stands in a cell as JSON, as tables of text alone hold it; else the value."""
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value
