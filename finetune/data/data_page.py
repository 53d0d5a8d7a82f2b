"""One self-contained HTML page about prepared data: counts, lengths, defects with examples, leakage, a batch as the model reads it."""

import io
import random
from collections import defaultdict
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.figure import Figure
from transformers import PreTrainedTokenizerBase

from app.errors import StorageError
from finetune.data.languages import languages
from finetune.data.prepare import Prepared, about
from finetune.data.sources import SPLITS, Example
from finetune.data.tokens import tokenize

EXAMPLES = 5  # of each defect
DRAWN = 10  # conversations shown as they are trained on
# Stand-ins for the page's own colours, which a reader's light or dark setting chooses.
_INK, _FILL = "#010203", "#040506"


def histogram(tokens: list[int], limit: int) -> Markup:
    """Lengths in tokens as an inline SVG that takes its colours from the page."""
    figure = Figure(figsize=(6, 2.6), layout="constrained")
    axes = figure.add_subplot()
    axes.hist(tokens, bins=min(60, max(10, len(set(tokens)))), color=_FILL)
    if max(tokens) > 0.8 * limit:
        axes.axvline(limit, color=_INK, linewidth=1, linestyle="--")
        axes.annotate("limit", (limit, 1), xycoords=("data", "axes fraction"), xytext=(3, -9), textcoords="offset points", color=_INK)
    axes.set(xlabel="tokens of a conversation", ylabel="conversations", xlim=(0, None))
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_INK)
    axes.tick_params(colors=_INK)
    axes.xaxis.label.set_color(_INK)
    axes.yaxis.label.set_color(_INK)
    text = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "lengths", "font.family": "sans-serif", "font.size": 9}):
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    drawing = text.getvalue()
    drawing = drawing[drawing.index("<svg") :].replace(_INK, "currentColor").replace(_FILL, "var(--accent)")
    return Markup(drawing.replace("<svg ", '<svg role="img" aria-label="Histogram of lengths in tokens" ', 1))  # noqa: S704 - our own drawing


def drawn(prepared: Prepared, tokenizer: PreTrainedTokenizerBase, size: int = DRAWN) -> list[dict[str, Any]]:
    """Training conversations drawn by the seed, as runs of text with and without loss."""
    examples = prepared.splits[SPLITS[0]]
    chosen = random.Random(prepared.settings.seed).sample(examples, min(size, len(examples)))
    return [_rendered(example, tokenizer) for example in chosen]


def _rendered(example: Example, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    row = tokenize(tokenizer, example.messages)
    marked = [(token, label != -100) for token, label in zip(row["input_ids"], row["labels"], strict=True)]
    runs = [
        {"loss": loss, "text": tokenizer.decode([token for token, _ in group])} for loss, group in groupby(marked, key=lambda item: item[1])
    ]
    return {
        "source": example.source,
        "row": example.row,
        "tokens": len(marked),
        "loss": sum(loss for _, loss in marked),
        "runs": runs,
    }


def findings(prepared: Prepared) -> list[dict[str, Any]]:
    """Defects by reason, the most frequent first, each with its count, its share of the rows read and a few examples."""
    grouped = defaultdict(list)
    for done, found in (("dropped", prepared.dropped), ("mended", prepared.mended)):
        for finding in found:
            grouped[(finding.reason, done)].append(finding)
    order = sorted(grouped.items(), key=lambda item: -len(item[1]))
    read = max(1, prepared.rows_read)
    return [
        {"reason": reason, "done": done, "count": len(found), "share": len(found) / read, "examples": found[:EXAMPLES]}
        for (reason, done), found in order
    ]


def render(prepared: Prepared, tokenizer: PreTrainedTokenizerBase) -> str:
    """The page."""
    facts = about(prepared)
    names = [source.id for source in prepared.sources]
    counts = [("rows read", facts["counts"]["read"]), *((name, facts["counts"][name]) for name in ("dropped", "mended"))]
    counts += [("not drawn", prepared.not_drawn)] * bool(prepared.not_drawn)
    counts += [("training", len(prepared.splits["train"])), *((name, len(prepared.splits[name])) for name in SPLITS[1:])]
    tokens = prepared.tokens
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True)
    return environment.get_template("data_page.html").render(
        names=", ".join(names),
        counts=counts,
        about=facts,
        lengths=tokens
        and {
            "median": int(np.median(tokens)),
            "p90": int(np.percentile(tokens, 90)),
            "most": max(tokens),
            "loss": sum(prepared.answer_tokens) / sum(tokens),
        },
        histogram=histogram(tokens, prepared.settings.max_length) if tokens else "",
        findings=findings(prepared),
        closest=prepared.audit.closest,
        languages=languages([example.text for name in SPLITS for example in prepared.splits[name]], prepared.settings.seed),
        left_out=sorted({column for source in prepared.sources for column in source.columns_left_out}),
        drawn=drawn(prepared, tokenizer),
    )


def write_page(prepared: Prepared, tokenizer: PreTrainedTokenizerBase, path: Path) -> None:
    """Writes the page.

    Raises:
        StorageError: The file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(render(prepared, tokenizer), encoding="utf-8", errors="replace")
    except OSError as error:
        raise StorageError(f"{path} could not be written ({error.strerror}). Choose another place with --output.") from error
