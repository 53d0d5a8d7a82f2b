"""Measures an adapter: base against tuned, on the same prompts, with one model in memory and the adapter switched on and off.

    python -m finetune evaluate --adapter assets/demo/adapter

Answers, exams, safety and forgetting, written as `evaluation.json` and as a page beside it. Opens adapters as the app does, never
with Unsloth. The same adapter, data and machine give the same file, apart from `times`.
"""

import hashlib
import json
import logging
import platform
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from app.adapter.directory import public_name
from app.engine.model import LoadedModel, load
from app.errors import DataError, StorageError
from app.notices.evidence import Evidence
from app.settings import ROOT
from finetune import environment
from finetune.data.sources import MAX_DROPPED, Card, read_cards, read_json_rows
from finetune.evaluation.answers import run_forgetting, run_set
from finetune.evaluation.exams import card_exam, read_exam, run_exam
from finetune.evaluation.gate import gate
from finetune.evaluation.metrics import Mean, rounded
from finetune.evaluation.notices import notice_rates
from finetune.evaluation.questions import QuestionSet, data_sets, digest, held_out_items, sample
from finetune.evaluation.ratings import read_ratings, write_sheet
from finetune.evaluation.report import render
from finetune.evaluation.safety_suite import PROMPTS, read_prompts, run_safety
from finetune.evaluation.scoring import MAX_NEW_TOKENS, Item, Journal, Prediction, fits, predict

log = logging.getLogger(__name__)

CARDS = "assets/flashcards.jsonl"
OUT_OF_SCOPE = Path("assets/out_of_scope.jsonl")
# Questions of each set, and of each exam, that a suite takes.
SUITES: dict[str, tuple[int | None, int | None]] = {"quick": (48, 32), "full": (None, None)}
LIBRARIES = ("torch", "transformers", "peft", "numpy", "scipy", "rouge_score", "sentence-transformers", "bert-score")


@dataclass(frozen=True)
class Options:
    """What to measure.

    Attributes:
        base: A folder with the base, where it does not lie where the contract says.
        data: Data sets to ask from: flashcards, a prepared folder, another folder or file with data, or a hub id.
        suite: A key of `SUITES`.
        columns, encoding, max_dropped: How to read the data; see `finetune.data.sources.load_source`.
        limit: Questions of each set instead of the suite's.
        exams: Files of multiple-choice questions, beside the one made of our cards.
        exam_columns: What the columns of those files mean, where they are neither MedMCQA's nor PubMedQA's.
        safety: Prompts of the safety suite.
        judges: Models by key of `JUDGES`; what is missing is not measured.
        beside: Other evaluations whose rows on questions never trained on are shown, too.
        max_new_tokens: Tokens an answer may have.
    """

    data: list[str] = field(default_factory=lambda: [CARDS])
    suite: str = "quick"
    limit: int | None = None
    columns: str | None = None
    encoding: str | None = None
    max_dropped: float = MAX_DROPPED
    exams: list[Path] = field(default_factory=list)
    exam_columns: dict[str, str] | None = None
    safety: Path = PROMPTS
    judges: dict[str, str] = field(default_factory=dict)
    beside: list[Path] = field(default_factory=list)
    max_new_tokens: int = MAX_NEW_TOKENS
    base: str = ""


def _provenance(loaded: LoadedModel, options: Options) -> dict[str, Any]:
    return {
        "format": 1,
        "adapter": public_name(loaded.name),
        "adapter_revision": loaded.adapter_revision,
        "base": loaded.base,
        "base_revision": loaded.base_revision,
        "demo": loaded.is_demo,
        "suite": options.suite,
        "seed": 0,
        "max_new_tokens": options.max_new_tokens,
        **environment.code(),
        "versions": environment.versions(LIBRARIES),
        "device": torch.cuda.get_device_name() if loaded.device == "cuda" else f"CPU ({platform.machine()})",
        "dtype": loaded.dtype,
        "training_data": {key: (loaded.run.get("data") or {}).get(key) for key in ("id", "revision", "licence", "training_rows_sha256")},
    }


def open_adapter(adapter: str, base: str = "") -> LoadedModel:
    """Opens an adapter for measuring; a small model gets one CPU thread, which is fastest for it and gives the same figures anywhere."""
    loaded = load(adapter, base=base)
    if loaded.device == "cpu" and loaded.model.config.hidden_size <= 1024:
        torch.set_num_threads(1)
    return loaded


def question_sets(loaded: LoadedModel, options: Options) -> list[QuestionSet]:
    """All sets of the chosen data; a prompt that leaves no room for an answer is left out and counted.

    Raises:
        DataError: A data set cannot be read, has nothing to test with, or no question fits the model's context.
    """
    limit = options.limit if options.limit is not None else SUITES[options.suite][0]
    sets: list[QuestionSet] = []
    for data in options.data:
        for found in data_sets(data, loaded.run, limit, options.columns, options.encoding, options.max_dropped):
            items = [item for item in found.items if fits(loaded, item, options.max_new_tokens)]
            key = found.key if all(found.key != other.key for other in sets) else f"{found.key}-{len(sets) + 1}"
            if items:
                sets.append(QuestionSet(key, found.title, found.note, items, found.control, found.unseen, len(found.items) - len(items)))
    if not sets:
        raise DataError(f"No question of {', '.join(options.data)} fits the model's context of {loaded.contract.context_length} tokens.")
    return sets


def evaluate(adapter: str, options: Options, journal_path: Path | None = None, resume: bool = False) -> dict[str, Any]:
    """Runs the measures at the top of the file.

    Args:
        adapter: A folder or hub id.
        options: What to measure.
        journal_path: Where finished batches are kept until the run is done.
        resume: Go on with the batches that are there.

    Returns:
        The content of `evaluation.json`; every mean has n and a 95% interval.

    Raises:
        UserError: The adapter or a file cannot be used; the message names the cure.
    """
    started = time.time()
    loaded = open_adapter(adapter, options.base)
    sets = question_sets(loaded, options)
    cards = read_cards(Path(CARDS)) if CARDS in options.data else []
    exams = [read_exam(path, options.exam_columns, options.encoding) for path in options.exams]
    prompts = read_prompts(options.safety)
    evaluation = _provenance(loaded, options) | {"data_sha256": digest(sets), "data": [public_name(data) for data in options.data]}
    journal = _open_journal(journal_path, [evaluation, asdict(options)], resume)
    judges: dict[str, Any] = {}
    measures: dict[str, dict[str, Any]] = {}
    entries = []
    for found in sets:
        entry, taken = run_set(loaded, found, options.max_new_tokens, options.judges, judges, journal)
        entries.append(entry)
        measures |= taken
        _log_set(found, taken)
    exam_entries = []
    for exam in [*([card_exam(cards)] if cards else []), *exams]:
        entry, taken = run_exam(loaded, exam.first(options.limit if options.limit is not None else SUITES[options.suite][1]), journal)
        exam_entries.append(entry)
        measures |= taken
    safety, taken = run_safety(loaded, prompts, options.max_new_tokens, journal)
    measures |= taken | run_forgetting(loaded, journal)
    evaluation |= {"judges": judges, "sets": entries, "exams": exam_entries, "safety": safety, "measures": measures}
    evaluation |= run_notices(loaded, cards, options, journal)
    for path in options.beside:
        add_beside(evaluation, path)
    _conclude(evaluation, started)
    journal.close()
    return evaluation


def _open_journal(path: Path | None, of: list[Any], resume: bool) -> Journal:
    """The journal of just these options on just these questions: batches of another run do not count."""
    journal = Journal(path, hashlib.sha256(json.dumps(of, default=str, sort_keys=True).encode()).hexdigest(), resume)
    if resume:
        log.info("%d batches are there from the run before.", journal.count)
    return journal


def _log_set(found: QuestionSet, taken: dict[str, dict[str, Any]]) -> None:
    for model, state in (("tuned", "on"), ("base", "off")):
        log.info("%-48s ROUGE-L %s", f"{found.title}, adapter {state}", Mean(**taken[f"answers:{found.key}/rouge_l"][model]))


def run_notices(loaded: LoadedModel, cards: list[Card], options: Options, journal: Journal) -> dict[str, Any]:
    """Answers held-out wordings and questions outside the cards with the adapter, and counts the notices; see `notice_rates`.

    Returns:
        The rates under "notices"; nothing where the adapter has no cards, or ours are not measured.
    """
    if not (loaded.cards and cards and OUT_OF_SCOPE.is_file()):
        return {}
    limit = options.limit if options.limit is not None else SUITES[options.suite][0]
    rows = read_json_rows(OUT_OF_SCOPE)
    outside = {
        kind: [Item([{"role": "user", "content": row["question"]}], "") for row in rows if row["kind"] == kind][:limit]
        for kind in sorted({row["kind"] for row in rows})
    }
    known = held_out_items(sample(cards, limit))

    def answers(items: list[Item], name: str) -> list[Prediction]:
        return predict(loaded, items, max_new_tokens=options.max_new_tokens, name=name, journal=journal)

    rates = notice_rates(
        Evidence(loaded.cards),
        known,
        answers(known, "notices, held-out wordings"),
        outside,
        {kind: answers(items, f"notices, outside the cards, {kind}") for kind, items in outside.items()},
    )
    for name, rate in rates.items():
        log.info("notice shown, %-62s %s", name, rate)
    return {"notices": {name: rounded(rate) for name, rate in rates.items()}}


def _conclude(evaluation: dict[str, Any], started: float) -> None:
    """Adds the verdict in one sentence, what the default gate says, and the times; `started` in seconds since 1970."""
    first = next((entry for entry in evaluation["sets"] if not entry["control"]), evaluation["sets"][0])
    evaluation["verdict"] = f"{first['title']}: {first['verdict']}"
    evaluation["refused"] = gate(evaluation)
    evaluation["times"] = {"started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)), "seconds": round(time.time() - started, 1)}


def read_evaluation(path: Path) -> dict[str, Any]:
    """Reads an `evaluation.json`.

    Raises:
        DataError: It is not there or is none.
    """
    try:
        evaluation = json.loads(path.read_text(encoding="utf-8"))
        if {"measures", "sets", "adapter"} <= evaluation.keys():
            return dict(evaluation)
    except (OSError, ValueError, AttributeError) as error:
        raise DataError(f"{path} is no evaluation. Write one with `python -m finetune evaluate --adapter DIR`.") from error
    raise DataError(f"{path} is no evaluation of this version. Write it anew with `python -m finetune evaluate --adapter DIR`.")


def add_beside(evaluation: dict[str, Any], path: Path) -> None:
    """Adds another adapter's rows on questions it never saw, labelled as such; the gate does not look at them.

    Raises:
        DataError: The file is no evaluation, or has no such row.
    """
    other = read_evaluation(path)
    unseen = [entry for entry in other["sets"] if entry["unseen"]]
    if not unseen:
        raise DataError(
            f"{path} has no row on questions never trained on. Train that adapter on a part of the cards, and evaluate it again."
        )
    for entry in unseen:
        key = f"{other['adapter']}:{entry['key']}"
        note = f"Measured with another adapter, {other['adapter']}, which was trained without these cards. {entry['note']}"
        evaluation["sets"].append(entry | {"key": key, "note": note, "beside": {k: other[k] for k in ("adapter", "adapter_revision")}})
        start = f"answers:{entry['key']}/"
        evaluation["measures"] |= {
            f"beside:{key}/{name.removeprefix(start)}": value for name, value in other["measures"].items() if name.startswith(start)
        }


def rating_sheet(adapter: str, options: Options, sheet: Path) -> Path:
    """Answers the first set that is no control and writes a blinded sheet of it; returns the key's path."""
    loaded = open_adapter(adapter, options.base)
    sets = question_sets(loaded, options)
    found = next((found for found in sets if not found.control), sets[0])
    base, tuned = (predict(loaded, found.items, use, max_new_tokens=options.max_new_tokens, name=found.title) for use in (False, True))
    about = {"adapter": public_name(loaded.name), "adapter_revision": loaded.adapter_revision}
    return write_sheet(sheet, found.items, base, tuned, about)


def output_path(adapter: str) -> Path:
    """Where an evaluation goes: into the adapter's folder, or for a Hub repository into one of ours."""
    folder = next((path for path in (Path(adapter).expanduser(), ROOT / adapter) if path.is_dir()), None)
    return (folder or Path("outputs") / adapter.replace("/", "--").replace("@", "--")) / "evaluation.json"


def with_ratings(evaluation: dict[str, Any], sheets: list[Path], key: Path | None) -> dict[str, Any]:
    """The evaluation with what the raters said.

    Raises:
        DataError: The key was not given, belongs to another adapter, or a sheet cannot be read.
    """
    if key is None:
        raise DataError("Ratings need the key that was written beside the sheet: name it with --rating-key.")
    ratings = read_ratings(sheets, key)
    if ratings["adapter_revision"] != evaluation["adapter_revision"]:
        raise DataError(f"{key} belongs to another adapter than this evaluation. Give the key of the sheet written for this one.")
    return evaluation | {"ratings": ratings}


def write(evaluation: dict[str, Any], path: Path) -> Path:
    """Writes `evaluation.json` and the page beside it.

    Returns:
        The page's path.

    Raises:
        StorageError: A file could not be written.
    """
    page = path.with_suffix(".html")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(evaluation, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        page.write_text(render(evaluation), encoding="utf-8")
    except OSError as error:
        raise StorageError(f"Writing {path} failed ({error.strerror}). Free some space, or give another --output.") from error
    return page
