"""From data sets to a folder that training reads: cleaned, drawn and split conversations, and what became of every row.

    python -m finetune data prepare --data cards.jsonl --output outputs/data/cards

Knows no model; lengths come from the tokenizer that it is given.
"""

import hashlib
import json
import logging
import shutil
from collections import Counter
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import csr_array
from transformers import PreTrainedTokenizerBase

from app.errors import ConfigError, DataError, StorageError
from finetune.data.clean import Finding, clean, finding
from finetune.data.families import FAMILY
from finetune.data.sources import DATA_FILE, MAX_DROPPED, SPLITS, Example, Source, check_dropped, load_source
from finetune.data.split import Audit, audit, draw, given, leak_of_a_random_split, split
from finetune.data.tokens import measure

log = logging.getLogger(__name__)

TOO_LONG = "longer than max_length"
WITHOUT_LOSS = "no token of an answer would carry loss"
TOO_FEW = "See them with `data inspect`, mend the data, or raise --max-length or --max-dropped."
RELATIVE = "relative of a row that the data set keeps for validation or test"


@dataclass(frozen=True)
class Settings:
    """What `data prepare` was asked for; written to data.json.

    Attributes:
        data: Files or hub ids.
        revisions, licences: One for each of `data`, "" where none is given; or nothing.
        weights: One for each of `data`, or nothing.
        columns: Column mapping; see `finetune.data.forms.parse_columns`.
        encoding: Encoding of text files that state none and are not UTF-8.
        rows: Up to 1 a share of the usable rows, above it their number.
        validation, test: Shares of the drawn rows.
        max_length: Tokens that a conversation may have.
        max_dropped: Share of the rows that may be dropped.
        seed: Seed of the draw and of the splits.
        base, template: Whose tokenizer and which template the tokens are counted with.
    """

    data: list[str]
    revisions: list[str]
    licences: list[str]
    weights: list[float]
    columns: str | None = None
    encoding: str | None = None
    rows: float | None = None
    validation: float = 0.05
    test: float = 0.05
    max_length: int = 1024
    max_dropped: float = MAX_DROPPED
    seed: int = 3407
    base: str = ""
    template: str = "medical"


@dataclass(frozen=True)
class Prepared:
    """Everything that is known of a preparation; the folder and the page are written from it.

    Attributes:
        sources: The data sets as they were read.
        splits: Conversations by split.
        dropped, mended: Rows with reasons.
        not_drawn: Usable rows that --rows or the weights left out.
        random_leak: (test rows with a relative in the training set, test rows) of a split row by row.
        audit: The test rows against the training rows.
        tokens, answer_tokens: Tokens of each usable conversation, and those of them that carry loss.
    """

    settings: Settings
    sources: list[Source]
    splits: dict[str, list[Example]]
    dropped: list[Finding]
    mended: list[Finding]
    not_drawn: int
    families: int
    random_leak: tuple[int, int]
    audit: Audit
    tokens: list[int]
    answer_tokens: list[int]

    @property
    def rows_read(self) -> int:
        """Conversations and unusable rows in all data sets."""
        return sum(len(source.usable) + len(source.dropped) for source in self.sources)

    @property
    def reasons(self) -> dict[str, int]:
        """Dropped rows by reason, the most frequent first."""
        return dict(Counter(found.reason for found in self.dropped).most_common())


def load_sources(settings: Settings) -> list[Source]:
    """Opens every data set of the settings.

    Raises:
        DataError: One of them is a prepared folder, is named twice, or cannot be read.
        ConfigError: There are not as many weights, revisions or licences as data sets.
    """
    for option in ("weights", "revisions", "licences"):
        given = len(getattr(settings, option))
        if given not in (0, len(settings.data)):
            raise ConfigError(
                f"--data stands {len(settings.data)} times and --data-{option[:-1]} {given} times. Give one for each, or none."
            )
    if any(weight <= 0 for weight in settings.weights):
        raise ConfigError("--data-weight must be above 0. Leave a data set out that shall not be used.")
    sources: list[Source] = []
    for number, data in enumerate(settings.data):
        if (Path(data) / DATA_FILE).is_file():
            raise DataError(f"{data} has been prepared already. See its data.html, or give the data sets that it came from.")
        revision = settings.revisions[number] or None if settings.revisions else None
        source = load_source(data, revision, settings.columns, settings.encoding, max_dropped=1)  # judged with all that cleaning drops
        if settings.licences and settings.licences[number]:
            source = replace(source, licence=settings.licences[number])
        if any(source.id == other.id for other in sources):
            raise DataError(f"Two data sets are called {source.id}, so their rows could not be told apart. Rename one of the files.")
        sources.append(source)
    return sources


def prepare(settings: Settings, tokenizer: PreTrainedTokenizerBase, strict: bool = True) -> Prepared:
    """Reads, cleans, draws and splits.

    Args:
        settings: What is asked for.
        tokenizer: Tokenizer of the base with its chat template.
        strict: Stop when more than the allowed share of the rows goes; `inspect` shows what is wrong instead.

    Raises:
        DataError: Data cannot be read, or too much of it would be dropped.
    """
    sources = load_sources(settings)
    # Of two rows that say the same the earlier one stays: those that a data set keeps for its test come first.
    cleaned = clean([e for name in ("test", "validation", "examples") for source in sources for e in getattr(source, name)], log.info)
    sizes, usable, unusable = _measured(cleaned.examples, tokenizer, settings.max_length)
    dropped = [*(Finding(row, source.id, reason) for source in sources for row, reason in source.dropped), *cleaned.dropped, *unusable]
    weights = {source.id: weight for source, weight in zip(sources, settings.weights, strict=False)}
    candidates = [cleaned.examples[place] for place in usable]
    drawn = draw(candidates, weights, settings.rows, settings.seed) if candidates else []
    families, sets = cleaned.families[usable][drawn], cleaned.sets[usable][drawn]
    examples = [candidates[place] for place in drawn]
    places, relatives = _arrange(examples, families, sets, settings)
    dropped += [finding(examples[place], RELATIVE) for place in relatives]
    if strict:
        read = sum(len(source.usable) + len(source.dropped) for source in sources)
        check_dropped("", [found.reason for found in dropped], read, settings.max_dropped, TOO_FEW)
    splits = {name: [examples[place] for place in chosen] for name, chosen in places.items()}
    return Prepared(
        settings=settings,
        sources=sources,
        splits=splits,
        dropped=dropped,
        mended=[*(Finding(row, source.id, reason) for source in sources for row, reason in source.mended), *cleaned.mended],
        not_drawn=len(candidates) - len(examples),
        families=len(set(families.tolist())),
        random_leak=leak_of_a_random_split(cleaned, settings.test, settings.seed),
        audit=audit(splits["test"], splits["train"], sets=(sets[places["test"]], sets[places["train"]])),
        tokens=[length for length, _ in sizes],
        answer_tokens=[loss for _, loss in sizes],
    )


def _measured(
    examples: list[Example], tokenizer: PreTrainedTokenizerBase, max_length: int
) -> tuple[list[tuple[int, int]], list[int], list[Finding]]:
    """The sizes of all conversations (see `measure`), the places of those that can be trained on, and what is wrong with the others."""
    log.info("counting the tokens of %s conversations", f"{len(examples):,}")
    sizes = measure(tokenizer, examples)
    usable: list[int] = []
    dropped = []
    for place, (length, loss) in enumerate(sizes):
        if length <= max_length and loss:
            usable.append(place)
        else:
            dropped.append(finding(examples[place], TOO_LONG if length > max_length else WITHOUT_LOSS))
    return sizes, usable, dropped


def _arrange(examples: list[Example], families: np.ndarray, sets: csr_array, settings: Settings) -> tuple[dict[str, list[int]], list[int]]:
    """Places by split, and those left out for being like a row that its data set keeps: a data set's own splits are kept as they are."""
    fixed, relatives = given(examples, families, sets)
    gone = {*relatives, *fixed["validation"], *fixed["test"]}
    trained = [place for place, example in enumerate(examples) if example.split == SPLITS[0] and place not in gone]
    free = [place for place, example in enumerate(examples) if not example.split and place not in gone]
    shares = {"validation": settings.validation, "test": settings.test}
    places = split([examples[place] for place in free], families[free], sets[free], shares, settings.seed)
    chosen = {name: sorted([*(free[place] for place in places[name]), *fixed.get(name, [])]) for name in SPLITS}
    chosen[SPLITS[0]] = sorted([*chosen[SPLITS[0]], *trained])
    return chosen, relatives


def write(prepared: Prepared, output: Path) -> None:
    """Writes the folder beside `output` first and moves it there when it is complete.

    Raises:
        StorageError: The folder exists, or cannot be written.
    """
    if output.exists():
        raise StorageError(f"{output} exists already. Choose another folder with --output, or remove that one.")
    partial = output.with_name(output.name + ".partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        hashes = {}
        for name in SPLITS:
            rows: list[dict[str, Any]] = [{"source": e.source, "row": e.row, "messages": e.messages} for e in prepared.splits[name]]
            hashes[f"{name}.jsonl"] = _write_lines(partial / f"{name}.jsonl", rows)
        for name, found in (("dropped", prepared.dropped), ("mended", prepared.mended)):
            rows = [{"source": f.source, "row": f.row, "reason": f.reason} | ({"other": f.other} if f.other else {}) for f in found]
            hashes[f"{name}.jsonl"] = _write_lines(partial / f"{name}.jsonl", rows)
        (partial / DATA_FILE).write_text(json.dumps(about(prepared) | {"sha256": hashes}, indent=1) + "\n", encoding="utf-8")
        partial.rename(output)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise StorageError(f"Writing to {output} failed ({error.strerror}). Free some space or choose another folder.") from error


def _write_lines(path: Path, rows: list[dict[str, Any]]) -> str:
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode("utf-8", "surrogatepass")
    path.write_bytes(text)
    return hashlib.sha256(text).hexdigest()


def about(prepared: Prepared) -> dict[str, Any]:
    """What data.json says: ids, revisions, licences, counts, settings and the audit; no path of this machine and no text of a row."""
    settings = asdict(prepared.settings) | {"data": [source.id for source in prepared.sources], "base": Path(prepared.settings.base).name}
    used = Counter(example.source for examples in prepared.splits.values() for example in examples)
    return {
        "sources": [
            {
                "id": source.id,
                "revision": source.revision,
                "licence": source.licence,
                "rows_read": source.rows_read,
                "conversations_used": used[source.id],
            }
            for source in prepared.sources
        ],
        "counts": {
            "read": prepared.rows_read,
            "dropped": len(prepared.dropped),
            "mended": len(prepared.mended),
            "not_drawn": prepared.not_drawn,
            "families": prepared.families,
            **{name: len(examples) for name, examples in prepared.splits.items()},
        },
        "dropped": prepared.reasons,
        "leakage": {
            "family_similarity": FAMILY,
            "random_split": {"leaked": prepared.random_leak[0], "of": prepared.random_leak[1]},
            "this_split": {"leaked": len(prepared.audit.leaked), "of": prepared.audit.evaluated},
            "closest": [
                {
                    "test": [c.evaluated.source, c.evaluated.row],
                    "train": [c.trained.source, c.trained.row],
                    "jaccard": round(c.similarity, 3),
                }
                for c in prepared.audit.closest
            ],
        },
        "seed": prepared.settings.seed,
        "settings": settings,
    }


def table(prepared: Prepared) -> str:
    """The counts as a short table for the terminal."""
    leaked, of = prepared.random_leak
    rows: list[tuple[str, object]] = [
        ("rows read", prepared.rows_read),
        *((f"  dropped: {reason}", count) for reason, count in prepared.reasons.items()),
        *((f"  mended: {reason}", count) for reason, count in Counter(found.reason for found in prepared.mended).items()),
        ("not drawn", prepared.not_drawn),
        *((name, len(prepared.splits[name])) for name in SPLITS),
        ("families", prepared.families),
        ("test rows with a relative in training, random split", f"{leaked} of {of}"),
        ("test rows with a relative in training, this split", f"{len(prepared.audit.leaked)} of {prepared.audit.evaluated}"),
    ]
    return "\n".join(f"  {name:<68} {value:>10}" for name, value in rows)
