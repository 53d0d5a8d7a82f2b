"""What pandas, datasets and Excel write comes back row for row, whatever stands in the cells."""

import contextlib
import csv
import gzip
import io
import json
import tempfile
from pathlib import Path
from typing import Any

import datasets
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openpyxl import Workbook
from openpyxl.cell.cell import ILLEGAL_CHARACTERS_RE

from app.errors import DataError
from finetune.data.files import read_file
from finetune.data.rows import read_table
from finetune.data.values import is_missing, text_of

# Any text of any script, unusual line ends among it, that says something; a lone surrogate is no text.
TEXTS = st.text(
    st.characters(exclude_categories=["Cs"]) | st.sampled_from("\u2028\u2029\x85\x0b\x0c\x1c\r\n\t;,\"'|&"), min_size=1, max_size=30
)
SAYING = TEXTS.filter(lambda text: not is_missing(text))
ROWS = st.lists(st.fixed_dictionaries({"question": SAYING, "answer": SAYING}), min_size=1, max_size=8)
FUZZ = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def read(name: str, content: bytes) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, name)
        path.write_bytes(content)
        found = read_file(path)
    assert found.refused == {}
    return found.rows


def bytes_of(write: Any) -> bytes:
    file = io.BytesIO()
    write(file)
    return file.getvalue()


@FUZZ
@given(ROWS, st.sampled_from([",", ";", "\t", "|"]), st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-32"]))
def test_a_table_of_pandas_comes_back(rows: list[dict[str, str]], separator: str, encoding: str) -> None:
    text = pd.DataFrame(rows).to_csv(index=False, sep=separator, quoting=csv.QUOTE_ALL, lineterminator="\r\n")
    assert read("x.csv", text.encode(encoding)) == rows


# A carriage return is what pandas leaves without quotes.
@FUZZ
@given(ROWS.filter(lambda rows: not any("\r" in text for row in rows for text in row.values())))
def test_a_table_of_pandas_with_as_few_quotes_as_may_be_comes_back(rows: list[dict[str, str]]) -> None:
    assert read("x.tsv", pd.DataFrame(rows).to_csv(index=False, sep="\t").encode()) == rows
    assert read("x.csv.gz", gzip.compress(pd.DataFrame(rows).to_csv(index=False).encode())) == rows


@FUZZ
@given(ROWS, st.sampled_from(["records", "columns", "split"]), st.booleans())
def test_json_of_pandas_comes_back(rows: list[dict[str, str]], orient: Any, ascii_alone: bool) -> None:
    assert read("x.json", pd.DataFrame(rows).to_json(orient=orient, force_ascii=ascii_alone).encode()) == rows
    assert read("x.jsonl", pd.DataFrame(rows).to_json(orient="records", lines=True, force_ascii=ascii_alone).encode()) == rows


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)


@FUZZ
@given(st.lists(st.fixed_dictionaries({"question": SAYING, "answer": VALUES}), min_size=2, max_size=5), st.booleans())
def test_json_of_any_values_comes_back(rows: list[dict[str, Any]], ascii_alone: bool) -> None:
    assert read("x.json", json.dumps(rows, ensure_ascii=ascii_alone, indent=1).encode()) == rows
    lines = "".join(json.dumps(row, ensure_ascii=ascii_alone) + "\r\n" for row in rows)
    assert read("x", lines.encode()) == rows


@FUZZ
@given(ROWS, st.lists(st.integers() | st.none(), min_size=8, max_size=8))
def test_parquet_and_arrow_of_datasets_come_back(rows: list[dict[str, Any]], numbers: list[int | None]) -> None:
    rows = [
        row | {"n": None if n is None else n % 1000, "turns": [{"role": "user", "content": row["answer"]}]}
        for row, n in zip(rows, numbers, strict=False)
    ]
    found = datasets.Dataset.from_list(rows)
    assert read("x.parquet", bytes_of(found.to_parquet)) == rows
    assert read("x.feather", bytes_of(pd.DataFrame(rows)[["question", "answer"]].to_feather)) == [
        {name: row[name] for name in ("question", "answer")} for row in rows
    ]


@settings(max_examples=15, deadline=None)
@given(ROWS)
def test_a_saved_data_set_comes_back(rows: list[dict[str, str]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        datasets.DatasetDict({"train": datasets.Dataset.from_list(rows), "test": datasets.Dataset.from_list(rows[:1])}).save_to_disk(folder)
        table = read_table(folder)
        assert (table.splits["train"].rows, table.splits["test"].rows) == (rows, rows[:1])


# What a workbook can hold; an equals sign first would be a formula, and openpyxl writes a return as a new line.
CELLS = SAYING.filter(
    lambda text: not ILLEGAL_CHARACTERS_RE.search(text) and not text.startswith("=") and "\r" not in text and "_x" not in text
)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.fixed_dictionaries({"question": CELLS, "answer": CELLS | st.integers(0, 10**6) | st.booleans()}), min_size=1, max_size=6)
)
def test_a_workbook_comes_back(rows: list[dict[str, Any]]) -> None:
    book = Workbook()
    book.active.append(["question", "answer"])
    for row in rows:
        book.active.append([row["question"], row["answer"]])
    assert read("x.xlsx", bytes_of(book.save)) == rows


@given(VALUES.filter(lambda value: not is_missing(value)))
def test_every_value_becomes_text_and_text_alone_needs_no_note(value: Any) -> None:
    notes: list[str] = []
    text = text_of(value, notes)
    assert isinstance(text, str)
    assert notes or isinstance(value, str) or (isinstance(value, list) and len([item for item in value if not is_missing(item)]) == 1)
    if isinstance(value, str) and "&" not in value and "\r" not in value:
        assert (text, notes) == (value, [])


@pytest.mark.parametrize("cut", [0, 1, 5, 20])
def test_no_beginning_of_a_file_crashes_the_reader(cut: int) -> None:
    frame = pd.DataFrame({"question": ["Q?"] * 3, "answer": ["A"] * 3})
    for name, whole in {
        "x.csv": frame.to_csv().encode(),
        "x.json": frame.to_json().encode(),
        "x.parquet": bytes_of(frame.to_parquet),
        "x.feather": bytes_of(frame.to_feather),
        "x.xlsx": bytes_of(lambda file: frame.to_excel(file, index=False)),
        "x.jsonl.gz": gzip.compress(frame.to_json(orient="records", lines=True).encode()),
    }.items():
        with contextlib.suppress(DataError):  # of a table of text the beginning is a table
            assert read(name, whole[: len(whole) * cut // 21])
