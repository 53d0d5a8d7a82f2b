"""Data files and Hub data sets become rows: dictionaries from column to value. Knows nothing of what the columns mean."""

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.errors import DataError, HubUnavailable
from finetune.config import MEDICAL_MEADOW

Row = dict[str, Any]

SUFFIXES = (".json", ".jsonl", ".csv", ".parquet")


@dataclass(frozen=True)
class Table:
    """Rows and where they come from.

    Attributes:
        id: Hub id, or the file's name.
        revision: Commit of a Hub data set; None for a file.
        licence: As its card states it; None for a file, and where it states none.
    """

    rows: list[Row]
    id: str
    revision: str | None = None
    licence: str | None = None


def read_table(data: str, revision: str | None = None) -> Table:
    """Opens a JSON, JSONL, CSV or Parquet file, or a data set on the Hub.

    Args:
        data: Path of a file, or a hub id.
        revision: Commit, branch or tag of a hub data set.

    Raises:
        DataError: The file cannot be read.
        HubUnavailable: The Hub does not answer or has no such data set.
    """
    path = Path(data)
    if path.suffix not in SUFFIXES and not path.exists():
        return _read_hub(data, revision)
    if path.suffix == ".csv":
        return Table(_read_csv(path), path.name)
    if path.suffix == ".parquet":
        return Table(_read_parquet(path), path.name)
    return Table(read_json_rows(path), path.name)


def read_json_rows(path: Path) -> list[Row]:
    """Reads a JSON array of objects, an object of objects (their keys become the column `id`), or JSON lines.

    Raises:
        DataError: The file is missing, empty, or a line is no JSON object; the message names the line.
    """
    text = _read_text(path)
    rows: Any = []
    if text.lstrip().startswith("[") or path.suffix == ".json":
        try:
            rows = json.loads(text or "[]")
        except json.JSONDecodeError as error:
            raise DataError(f"{path} is not valid JSON: line {error.lineno}, {error.msg}. Mend that place and try again.") from error
        if isinstance(rows, dict) and rows and all(isinstance(row, dict) for row in rows.values()):
            rows = [{"id": key, **row} for key, row in rows.items()]
    else:
        for number, line in enumerate(text.split("\n"), 1):
            if not line.strip():
                continue
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError as error:
                raise DataError(
                    f"{path}, line {number} is not valid JSON ({error.msg}). Mend or delete that line and try again."
                ) from error
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise DataError(
            f"{path} holds no rows of the form {{'question': ..., 'answer': ...}}. See docs/data.md for the columns that are read."
        )
    return rows


def _read_text(path: Path) -> str:
    if not path.is_file():
        raise DataError(
            f"There is no data file {path}. Give a JSON, JSONL, CSV or Parquet file, or a data set id such as {MEDICAL_MEADOW}."
        )
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text (byte {error.start}). Save it as UTF-8 and try again.") from error


def _read_csv(path: Path) -> list[Row]:
    text = _read_text(path)
    head = text.split("\n", 1)[0]
    separator = max(",;\t", key=head.count)
    previous = csv.field_size_limit(10**8)
    try:
        reader = csv.DictReader(text.splitlines(keepends=True), delimiter=separator, strict=True)
        rows = list(reader)
    except csv.Error as error:
        raise DataError(f"{path} is not valid CSV: line {reader.line_num}, {error}. Mend that place and try again.") from error
    finally:
        csv.field_size_limit(previous)
    ragged = next((number for number, row in enumerate(rows, 1) if None in row or None in row.values()), None)
    if ragged:
        raise DataError(f"{path}, row {ragged} has not as many fields as the first line has names. Put texts with commas in quotes.")
    if not rows:
        raise DataError(
            f"{path} holds no rows below its first line, which names the columns. See docs/data.md for the columns that are read."
        )
    return rows


def _read_parquet(path: Path) -> list[Row]:
    import pyarrow as pa
    import pyarrow.parquet as parquet

    try:
        rows = parquet.read_table(path).to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path} cannot be read as Parquet ({type(error).__name__}). Check the path, or export the file again.") from error
    if not rows:
        raise DataError(f"{path} holds no rows. Export the file again.")
    return rows


def _read_hub(data: str, revision: str | None) -> Table:
    import datasets
    import httpx
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError

    try:
        info = huggingface_hub.HfApi().dataset_info(data, revision=revision)
        rows = datasets.load_dataset(data, revision=info.sha, split="train").to_list()
    except (HfHubHTTPError, httpx.HTTPError, OSError, ValueError) as error:
        raise HubUnavailable(
            f"The data set {data} could not be fetched from the Hub ({type(error).__name__}). Check the name and the network, "
            "or give a local JSON, JSONL, CSV or Parquet file with --data."
        ) from error
    licence = info.card_data.get("license") if info.card_data else None
    return Table(rows, data, info.sha, ", ".join(licence) if isinstance(licence, list) else licence)
