"""The model card of an adapter: from `run.json`, `evaluation.json` and the prompt contract to a README.md with valid metadata.

Knows no network. The text is in model_card.md.jinja.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from app.adapter.contract import Contract
from app.errors import DataError

PARTS = ("base", "tuned", "difference")
TEMPLATE = Path(__file__).with_name("model_card.md.jinja")
# Of `run.json`'s configuration, what a reader wants to see; the rest is in the file.
TRAINING = (
    "num_train_epochs",
    "max_steps",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "learning_rate",
    "lr_scheduler_type",
    "warmup_steps",
    "optim",
    "max_length",
    "packing",
    "load_in_4bit",
    "lora_rank",
    "lora_alpha",
    "lora_dropout",
    "use_rslora",
    "target_modules",
    "template",
    "seed",
)


@dataclass(frozen=True)
class Interval:
    """A mean and the ends of its 95% interval."""

    value: float
    low: float
    high: float

    def show(self, sign: str = "") -> str:
        """As text; `sign` is "+" for a difference."""
        return f"{self.value:{sign}.3f} [{self.low:{sign}.3f}, {self.high:{sign}.3f}]"


@dataclass(frozen=True)
class Row:
    """One measure, base against adapter.

    Attributes:
        key: Unique name, as `answers:held_out/rouge_l`.
        questions: What was asked, for people.
        name: The measure, for people.
        trained_on: Whether training saw these very questions, so that the figure claims nothing.
    """

    key: str
    questions: str
    name: str
    trained_on: bool
    n: int
    base: Interval
    tuned: Interval
    difference: Interval
    higher_is_better: bool | None


@dataclass(frozen=True)
class Card:
    """Everything that the card says beside `run.json` and the evaluation.

    Attributes:
        repo: OWNER/NAME.
        contract: As it is published, with the base's hub id and commit.
        licence: Licence of the base, and so of the adapter.
        llama: Whether it is one of Meta's Llama licences.
        licence_files: Names of the licence files that go along.
        prompt: The golden question as the model reads it.
        pad_token_id: Token that fills up a batch.
        shipped: Names of all files that go along.
        refused: What the gate said against publishing; empty when it said nothing.
        reason: Why it is published all the same.
    """

    repo: str
    contract: Contract
    licence: str
    llama: bool
    licence_files: list[str]
    prompt: str
    pad_token_id: int
    shipped: frozenset[str]
    refused: list[str]
    reason: str | None


def metadata(card: Card, run: dict[str, Any], rows: list[Row]) -> ModelCardData:
    """The card's YAML block: https://huggingface.co/docs/hub/model-cards#model-card-metadata."""
    data = run.get("data", {})
    on_hub = bool(data.get("revision")) and "/" in str(data.get("id"))
    results = [
        EvalResult(
            task_type="text-generation",
            dataset_type=str(data.get("id") or "held-out"),
            dataset_name=row.questions,
            dataset_config=row.key.rpartition("/")[0],
            metric_type=row.key.rpartition("/")[2],
            metric_name=row.name,
            metric_value=round(row.tuned.value, 4),
        )
        for row in rows
        if not row.trained_on
    ]
    return ModelCardData(
        model_name=card.repo.split("/")[1],
        base_model=card.contract.base.id,
        base_model_relation="adapter",
        library_name="peft",
        pipeline_tag="text-generation",
        license=card.licence,
        language="en",
        tags=["medical", "lora", "question-answering", *(["llama"] if card.llama else [])],
        datasets=[data["id"]] if on_hub else None,
        eval_results=results,
    )


def render(card: Card, run: dict[str, Any], rows: list[Row]) -> str:
    """The whole README.md; its metadata can be read back as what it was."""
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, autoescape=False, keep_trailing_newline=True)  # noqa: S701 - Markdown
    config = run.get("config", {})
    text = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        name=card.repo.split("/")[1],
        repo=card.repo,
        llama=card.llama,
        base=card.contract.base,
        licence=card.licence,
        licence_files=card.licence_files,
        refused=card.refused,
        reason=_cell(card.reason),
        data={"id": "unknown", "revision": None, "licence": None, "conversations": "?", "training_rows": "?", "training_rows_sha256": "?"}
        | run.get("data", {}),
        cards_shipped="training_cards.jsonl.gz" in card.shipped,
        report_shipped="evaluation.html" in card.shipped,
        training=[(key, _cell(config[key])) for key in TRAINING if config.get(key) not in (None, -1)] + _outcome(run),
        rows=rows,
        prompt=card.prompt,
        eos=card.contract.eos_token_ids,
        pad=card.pad_token_id,
        environment=[
            ("commit of the code", f"{run.get('commit') or 'unknown'}{' with local changes' if run.get('dirty') else ''}"),
            ("python", run.get("python", "unknown")),
            *run.get("versions", {}).items(),
            ("hardware", _cell(run.get("hardware", "unknown"))),
        ],
    )
    content = f"---\n{metadata(card, run, rows).to_yaml()}\n---\n\n{text}"
    ModelCard(content)  # reads the metadata back; the Hub validates it once more when it takes the commit
    return content


def _outcome(run: dict[str, Any]) -> list[tuple[str, str]]:
    history = run.get("loss_history") or []
    found = [("final training loss", f"{history[-1]['loss']:.3f}")] if history else []
    if run.get("tokens_seen"):
        found.append(("tokens seen", f"{run['tokens_seen']:,}"))
    if run.get("seconds"):
        found.append(("training time", f"{run['seconds'] / 60:.0f} minutes"))
    return found


def _cell(value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return " ".join(text.split()).replace("|", "\\|")


def rows_of(evaluation: dict[str, Any]) -> list[Row]:
    """The measures of an `evaluation.json` that were taken, base against adapter.

    Raises:
        DataError: It has another form.
    """
    try:
        sets = {f"answers:{entry['key']}": entry for entry in evaluation.get("sets", [])}
        return [
            Row(
                key=key,
                questions=sets.get(key.rpartition("/")[0], {}).get("title") or key.rpartition("/")[0].replace(":", ", ").replace("_", " "),
                trained_on=bool(sets.get(key.rpartition("/")[0], {}).get("control")),
                name=measure["name"],
                n=int(measure["n"]),
                higher_is_better=measure["higher_is_better"],
                **{part: Interval(*(float(measure[part][end]) for end in ("value", "low", "high"))) for part in PARTS},
            )
            for key, measure in evaluation["measures"].items()
            if "difference" in measure
        ]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError("evaluation.json is damaged or of another version. Run `python -m finetune evaluate` again.") from error


def compare(approved: dict[str, Any] | None, proposed: dict[str, Any]) -> str:
    """What would change for people who use the approved adapter, as a table for a terminal."""
    before = {row.key: row for row in rows_of(approved)} if approved else {}
    lines = [f"{'measure':44} {'n':>6}  {'approved':>9}  {'proposed':>9}  {'change':>9}"]
    for row in rows_of(proposed):
        old = before.get(row.key)
        was, change = (f"{old.tuned.value:.3f}", f"{row.tuned.value - old.tuned.value:+.3f}") if old else ("-", "")
        lines.append(f"{row.key[:44]:44} {row.n:6}  {was:>9}  {row.tuned.value:>9.3f}  {change:>9}")
    return "\n".join(lines if approved else [*lines, "Nothing is approved yet."])
