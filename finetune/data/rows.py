"""Files, folders with splits and data sets of the Hub become tables of rows. Knows nothing of what the columns mean."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.errors import DataError, HubUnavailable
from finetune.config import MEDICAL_MEADOW
from finetune.data.files import ACCEPTED, SUFFIXES, Row, Rows, ending, named_labels, read_file

__all__ = ["Row", "Rows", "Table", "read_table"]

TRAIN = "train"
# Names of splits as people give them to files, folders and splits on the Hub; the words are those that datasets looks for.
_SPLIT_NAMES = {
    "test": re.compile(r"(?<![a-z])(?:test|testing|eval|evaluation)(?![a-z])"),
    "validation": re.compile(r"(?<![a-z])(?:validation|valid|val|dev)(?![a-z])"),
    TRAIN: re.compile(r"(?<![a-z])(?:train|training)(?![a-z])"),
}
_HUB_ID = re.compile(r"[\w.-]+(?:/[\w.-]+)?(?::[\w.-]+){0,2}")


@dataclass(frozen=True)
class Table:
    """Rows and where they come from.

    Attributes:
        splits: Rows by "train", "validation" and "test"; a file has "train" alone.
        id: Hub id with its configuration, or the name of the file or folder.
        revision: Commit of a Hub data set; None for a file.
        licence: As its card states it; None for a file, and where it states none.
    """

    splits: dict[str, Rows]
    id: str
    revision: str | None = None
    licence: str | None = None


def read_table(data: str, revision: str | None = None, encoding: str | None = None) -> Table:
    """Opens a data file, a folder of them, or a data set on the Hub.

    Args:
        data: Path of a file or folder, or a hub id as OWNER/NAME, OWNER/NAME:CONFIGURATION or OWNER/NAME:CONFIGURATION:SPLIT.
        revision: Commit, branch or tag of a hub data set.
        encoding: Encoding of text files that state none and are not UTF-8.

    Raises:
        DataError: A file cannot be read, or it is not clear which rows are meant.
        HubUnavailable: The Hub does not answer or has no such data set.
    """
    path = Path(data)
    if path.is_dir():
        return _read_folder(path, encoding)
    if path.exists() or ".xlsx:" in path.name or ending(path) in (*SUFFIXES, ".xls") or path.suffix.lower() == ".gz":
        return Table({TRAIN: read_file(path, encoding)}, path.name)
    if not _HUB_ID.fullmatch(data):
        raise DataError(
            f"There is no data file {path}. Give {ACCEPTED}, a folder with such files, or a data set id such as {MEDICAL_MEADOW}."
        )
    return _read_hub(data, revision)


def split_of(name: str) -> str | None:
    """Which split a file or a split of the Hub belongs to by its name; None when the name says nothing of it."""
    return next((split for split, pattern in _SPLIT_NAMES.items() if pattern.search(name.lower())), None)


def _read_folder(folder: Path, encoding: str | None) -> Table:
    """A folder with files of splits, such as train.jsonl and test/part-0.parquet, or one that datasets has saved."""
    if any((folder / name).is_file() for name in ("state.json", "dataset_dict.json")):
        return _read_saved(folder)
    files = sorted(
        path
        for path in folder.rglob("*")
        if path.is_file() and ending(path) in SUFFIXES and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
    named = {path: split_of(path.relative_to(folder).as_posix()) for path in files}
    if len(files) > 1 and None in named.values():
        first = next(path for path, split in named.items() if split is None).relative_to(folder)
        raise DataError(
            f"{folder} holds {len(files)} data files, and the name of {first} does not say which split it is. "
            "Name each for train, validation or test, or give one file with --data."
        )
    if not files:
        raise DataError(
            f"{folder} holds no data file. Give {ACCEPTED}, a folder with such files, or a data set id such as {MEDICAL_MEADOW}."
        )
    splits: dict[str, Rows] = {}
    for path, split in named.items():
        splits[split or TRAIN] = _join(splits.get(split or TRAIN, Rows()), read_file(path, encoding))
    return Table(splits, folder.resolve().name)


def _join(one: Rows, other: Rows) -> Rows:
    moved = {number + len(one.rows): reason for number, reason in other.refused.items()}
    return Rows(one.rows + other.rows, one.refused | moved)


def _read_saved(folder: Path) -> Table:
    import datasets

    try:
        found = datasets.load_from_disk(str(folder))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder} is a damaged data set of the datasets library ({type(error).__name__}). Save it again.") from error
    parts = found if isinstance(found, datasets.DatasetDict) else {TRAIN: found}
    return Table(_hub_splits(parts, folder.name), folder.resolve().name)


def _hub_splits(parts: Any, name: str) -> dict[str, Rows]:
    """Splits of a data set by our names; labels are given by their names."""
    splits: dict[str, Rows] = {}
    for split, part in parts.items():
        known = TRAIN if len(parts) == 1 else split_of(split)
        if known is None:
            raise DataError(
                f"{name} has the splits {', '.join(list(parts)[:10])}, and {split} is none for train, validation or test. "
                "Name the one to read, as in OWNER/NAME:CONFIGURATION:SPLIT."
            )
        splits[known] = _join(splits.get(known, Rows()), Rows(_with_labels(part)))
    return splits


def _with_labels(part: Any) -> list[Row]:
    return named_labels(part.to_list(), part.features.arrow_schema)


def _read_hub(data: str, revision: str | None) -> Table:
    import datasets
    import httpx
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError

    name, *rest = data.split(":")
    config, split = (*rest, None, None)[:2]
    try:
        info = huggingface_hub.HfApi().dataset_info(name, revision=revision)
        configs = datasets.get_dataset_config_names(name, revision=info.sha)
        config = config or ("default" if "default" in configs or len(configs) < 2 else None)
        if config not in configs and (len(configs) > 1 or rest):
            raise DataError(f"{name} has the configurations {', '.join(configs[:10])}. Name one of them, as in {name}:{configs[0]}.")
        found = datasets.load_dataset(name, config if len(configs) > 1 else None, revision=info.sha, split=split)
    except datasets.exceptions.DatasetGenerationError as error:
        reason = " ".join(str(error.__cause__ or error).split())[:150]
        raise DataError(
            f"The files of {data} could not be read as a table ({reason}). Fetch them and give one that can with --data."
        ) from error
    except (HfHubHTTPError, httpx.HTTPError, OSError, ValueError) as error:
        raise HubUnavailable(
            f"The data set {data} could not be fetched from the Hub ({type(error).__name__}). Check the name and the network, "
            f"or give a local file with --data: {ACCEPTED}."
        ) from error
    licence = info.card_data.get("license") if info.card_data else None
    splits = {TRAIN: Rows(_with_labels(found))} if split else _hub_splits(found, name)
    return Table(splits, data, info.sha, ", ".join(licence) if isinstance(licence, list) else licence)
