"""Data files become rows: dictionaries from column to value. Knows formats, but not what the columns mean.

What a file is, its first bytes say, then its ending, then its text; so JSON lines are read under any name.
"""

import csv
import io
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

from app.errors import DataError
from finetune.data.decode import decode, read_bytes

Row = dict[str, Any]

# Endings of data files, in lower case and without .gz.
SUFFIXES = (".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet", ".arrow", ".feather", ".xlsx")
ACCEPTED = "a JSON, JSON lines, CSV, TSV, Parquet, Arrow or XLSX file, or one of these as .gz"
_MAGIC = {
    b"PAR1": "parquet",
    b"ARROW1": "arrow",
    b"\xff\xff\xff\xff": "arrow",
    b"FEA1": "arrow",
    b"PK\x03\x04": "xlsx",
    b"\xd0\xcf\x11\xe0": "xls",
}
_BY_ENDING = {".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "json", ".ndjson": "json"}
_BY_ENDING |= {".parquet": "parquet", ".arrow": "arrow", ".feather": "arrow", ".xlsx": "xlsx", ".xls": "xls"}
# Names under which an object may hold its rows.
_HOLDERS = ("data", "rows", "examples", "train")
SEPARATORS = ",;\t|"
BLANK = "blank row"


@dataclass(frozen=True)
class Rows:
    """Rows of a file or of a split.

    Attributes:
        rows: One dictionary for each row; empty for one that is refused.
        refused: Why a row could not be taken apart, by its number, counted from 0.
    """

    rows: list[Row] = field(default_factory=list)
    refused: dict[int, str] = field(default_factory=dict)


def ending(path: Path) -> str:
    """The ending that says what a file is, in lower case, that of the packed file for .gz."""
    return (path.with_suffix("") if path.suffix.lower() == ".gz" else path).suffix.lower()


def read_file(path: Path, encoding: str | None = None) -> Rows:
    """Reads a data file of any kind.

    Args:
        path: The file; of a workbook with several filled sheets as "cards.xlsx:Sheet".
        encoding: Encoding of a text file that states none and is not UTF-8.

    Raises:
        DataError: There is no such file, it is damaged or empty, or of no kind that is read.
    """
    sheet = None
    if not path.is_file() and ".xlsx:" in path.name:
        name, _, sheet = path.name.partition(":")
        path = path.with_name(name)
    if not path.is_file():
        raise DataError(f"There is no data file {path}. Give {ACCEPTED}, a folder with such files, or the id of a data set on the Hub.")
    data = read_bytes(path)
    kind = next((kind for magic, kind in _MAGIC.items() if data.startswith(magic)), None) or _BY_ENDING.get(ending(path))
    if kind in ("parquet", "arrow"):
        return Rows(_read_arrow(data, path, kind))
    if kind in ("xlsx", "xls"):
        return _read_xlsx(data, path, sheet, kind)
    text = decode(data, path, encoding)
    if kind == "json" or (kind is None and text.lstrip()[:1] in ("{", "[")):
        return _read_json(text, path)
    return _read_delimited(text, path)


def read_json_rows(path: Path) -> list[Row]:
    """Rows of a file of which every row is needed, such as those of `assets/`.

    Raises:
        DataError: As `read_file`, or a row is no object.
    """
    found = read_file(path)
    if found.refused:
        number, reason = next(iter(found.refused.items()))
        raise DataError(f"{path}, row {number}: {reason}. Mend that row and try again.")
    return found.rows


def _read_json(text: str, path: Path) -> Rows:
    values, place, decoder = [], 0, json.JSONDecoder()
    try:
        while place < len(text):
            if text[place] in " \t\r\n":
                place += 1
                continue
            value, place = decoder.raw_decode(text, place)
            values.append(value)
    except json.JSONDecodeError as error:
        raise DataError(f"{path}, line {error.lineno} is not valid JSON ({error.msg}). Mend or delete that line and try again.") from error
    except (RecursionError, ValueError) as error:
        raise DataError(
            f"{path} holds JSON that cannot be read ({type(error).__name__}): nested too deep, or a number too long."
        ) from error
    rows = values
    if len(values) == 1:
        rows = values[0] if isinstance(values[0], list) else _rows_of_object(values[0], path)
    if not any(isinstance(row, dict) for row in rows):
        raise DataError(
            f"{path} holds no rows of the form {{'question': ..., 'answer': ...}}. See docs/data.md for the columns that are read."
        )
    refused = {number: "no object with columns" for number, row in enumerate(rows) if not isinstance(row, dict)}
    return Rows([row if isinstance(row, dict) else {} for row in rows], refused)


def _rows_of_object(value: Any, path: Path) -> list[Any]:
    """One object: a row, rows by their id, rows under a name such as "data", or columns as pandas writes them."""
    if not isinstance(value, dict) or not value:
        return []
    if {"columns", "data"} <= value.keys() and isinstance(value["columns"], list):  # pandas, orient="split"
        return [dict(zip(value["columns"], row, strict=True)) for row in value["data"]]
    held = next((value[name] for name in _HOLDERS if isinstance(value.get(name), list) and _are_objects(value[name])), None)
    if held is not None:
        return _flat(held)
    parts = list(value.values())
    if all(isinstance(part, dict) for part in parts):
        if all(key.isdecimal() for part in parts for key in part) and any(parts):  # pandas, orient="columns"
            keys = dict.fromkeys(key for part in parts for key in part)
            return [{name: part.get(key) for name, part in value.items()} for key in keys]
        return [{"id": key, **row} for key, row in value.items()]
    if all(isinstance(part, list) for part in parts) and not any(map(_are_objects, parts)):
        if len({len(part) for part in parts}) > 1:
            sizes = ", ".join(f"{name}: {len(part)}" for name, part in list(value.items())[:10])
            raise DataError(f"{path} holds columns of different lengths ({sizes}), so they form no rows. Export the file again.")
        return [dict(zip(value, row, strict=True)) for row in zip(*parts, strict=True)]
    return [value]


def _flat(rows: list[Row]) -> list[Row]:
    """SQuAD's own file nests questions in paragraphs in articles: one row for each question, with its paragraph."""
    if not all(isinstance(row.get("paragraphs"), list) for row in rows):
        return rows
    paragraphs = [part for row in rows for part in row["paragraphs"] if isinstance(part, dict)]
    return [{"context": part.get("context"), **question} for part in paragraphs for question in part.get("qas", [])]


def _are_objects(part: Any) -> bool:
    return bool(part) and all(isinstance(item, dict) for item in part)


def _read_delimited(text: str, path: Path) -> Rows:
    first, _, rest = text.partition("\n")
    separator = first.strip().strip('"').removeprefix("sep=") if first.strip().strip('"').startswith("sep=") else ""
    if separator:
        text = rest
    previous = csv.field_size_limit(10**8)
    reader = csv.reader(_lines(text), delimiter=separator or _separator(text, path), strict=True)
    try:
        return _grid((record for record in reader if record), path, "fields")
    except csv.Error as error:
        raise DataError(f"{path} is not valid CSV: line {reader.line_num}, {error}. Mend that place and try again.") from error
    finally:
        csv.field_size_limit(previous)


def _lines(text: str) -> io.StringIO:
    """Lines that end as the file's lines do: a carriage return alone ends one only where there is no other end of lines."""
    return io.StringIO(text, newline="\n" if "\n" in text else "")


def _separator(text: str, path: Path) -> str:
    """The separator by which the first line has several names and most of the next 50 as many fields."""
    if ending(path) == ".tsv":
        return "\t"

    def fit(separator: str) -> tuple[float, int]:
        sizes: list[int] = []
        try:
            for record in csv.reader(_lines(text), delimiter=separator, strict=True):
                sizes += [len(record)] * bool(record)
                if len(sizes) > 50:
                    break
        except csv.Error:
            return 0.0, 0
        several = bool(sizes) and sizes[0] > 1
        return (sum(size == sizes[0] for size in sizes) / len(sizes), sizes[0]) if several else (0.0, 0)

    return max(SEPARATORS, key=fit)


def _is_blank(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def _grid(records: Iterable[Iterable[Any]], path: Path, cells: str) -> Rows:
    """Lines of cells, the first of them names, become rows; a line that does not fit the names refuses itself."""
    table = [list(record) for record in records]
    while table and all(map(_is_blank, table[-1])):
        table.pop()
    while table and all(map(_is_blank, table[0])):
        table.pop(0)
    if len(table) < 2:
        raise DataError(
            f"{path} holds no rows below its first line, which names the columns. See docs/data.md for the columns that are read."
        )
    names = ["" if _is_blank(name) else str(name).strip() for name in table[0]]
    width = max((place + 1 for place, name in enumerate(names) if name), default=0)
    taken = _columns(names, table[1:], path)
    rows: list[Row] = []
    refused = {}
    for number, record in enumerate(table[1:]):
        filled = max((place + 1 for place, value in enumerate(record) if not _is_blank(value)), default=0)
        if not filled:
            refused[number] = BLANK
        elif filled > width:
            refused[number] = f"more {cells} than the first line has names (are texts with the separator in quotes?)"
        rows.append({} if number in refused else {name: record[place] if place < len(record) else None for name, place in taken.items()})
    return Rows(rows, refused)


def _columns(names: list[str], records: list[list[Any]], path: Path) -> dict[str, int]:
    """The place of each named column; of two with one name that which holds anything."""
    places: dict[str, int] = {}
    twice = Counter(name for name in names if name)
    for place, name in enumerate(names):
        if name and (twice[name] == 1 or any(place < len(record) and not _is_blank(record[place]) for record in records)):
            if name in places:
                raise DataError(f"{path} has two columns called {name!r}, and both hold values. Rename or delete one of them.")
            places[name] = place
    return places


def _read_arrow(data: bytes, path: Path, kind: str) -> list[Row]:
    import pyarrow as pa
    import pyarrow.feather as feather
    import pyarrow.parquet as parquet

    try:
        if kind == "parquet":
            table = parquet.read_table(pa.BufferReader(data))
        elif data[:4] == b"\xff\xff\xff\xff":  # a stream, as datasets keeps them
            table = pa.ipc.open_stream(data).read_all()
        else:
            table = feather.read_table(pa.BufferReader(data))
        rows = named_labels(table.to_pylist(), table.schema)
    except (OSError, pa.ArrowException, ValueError) as error:
        raise DataError(
            f"{path} cannot be read as {kind.capitalize()} ({type(error).__name__}). Check the path, or export the file again."
        ) from error
    if not rows:
        raise DataError(f"{path} holds no rows. Export the file again.")
    return rows


def named_labels(rows: list[Row], schema: Any) -> list[Row]:
    """The rows with the names of their labels, where datasets has written into the schema which number stands for which name."""
    if b"huggingface" not in (schema.metadata or {}):
        return rows
    from datasets import ClassLabel, Features

    labels = {name: kind.names for name, kind in Features.from_arrow_schema(schema).items() if isinstance(kind, ClassLabel)}
    for row in rows:
        for name, names in labels.items():
            number = row.get(name)
            row[name] = names[number] if isinstance(number, int) and 0 <= number < len(names) else None
    return rows


def _read_xlsx(data: bytes, path: Path, sheet: str | None, kind: str) -> Rows:
    if kind == "xls":
        raise DataError(f"{path} is a workbook of the old form, or locked by a password. Save it as .xlsx without one, or as CSV UTF-8.")
    from openpyxl import load_workbook
    from openpyxl.utils.exceptions import InvalidFileException

    try:
        workbook = load_workbook(io.BytesIO(data), read_only=True, data_only=True)
        filled = {}
        for found in workbook.worksheets:
            found.reset_dimensions()  # what some programs write there is wrong
            cells = [list(record) for record in found.iter_rows(values_only=True)]
            if any(not _is_blank(value) for record in cells for value in record):
                filled[found.title] = cells
    except (BadZipFile, InvalidFileException, KeyError, ValueError, TypeError, OSError, SyntaxError, EOFError) as error:
        raise DataError(
            f"{path} cannot be read as a workbook ({type(error).__name__}). Save it again as .xlsx, or as CSV UTF-8."
        ) from error
    if sheet is None and len(filled) > 1 or sheet is not None and sheet not in filled:
        names = ", ".join(list(filled)[:10])
        raise DataError(f"{path} has the filled sheets {names}. Say which one is meant, as in {path.name}:{next(iter(filled), 'Sheet1')}.")
    if not filled:
        raise DataError(f"{path} holds no rows. Save the workbook again with its data.")
    return _grid(filled[sheet or next(iter(filled))], path, "cells")
