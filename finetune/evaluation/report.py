"""Turns `evaluation.json` into one self-contained page. Knows no model: the page can be made again from the figures alone."""

import math
from pathlib import Path
from typing import Any

import jinja2

from finetune.evaluation.gate import effect, verdict

TEMPLATE = Path(__file__).parent / "report.html.jinja"
BINS = 10
# Shown in this order; of the measures, what each one says.
EXPLANATIONS = {
    "rouge_l": "longest run of words in common with the reference, in order; 1 is word for word",
    "rouge_1": "words in common with the reference",
    "rouge_2": "pairs of neighbouring words in common",
    "token_f1": "words in common, without articles",
    "embedding_cosine": "nearness in meaning, by a sentence embedding model",
    "bert_score": "nearness in meaning, word by word, by a language model",
    "reference_nll": "how unlikely the model finds the reference answer; lower is better; perplexity in brackets",
    "ended": "the rest ran on until they were cut off",
    "words": "neither longer nor shorter is better",
    "accuracy": "the option that the model finds most likely is the right one",
    "accuracy_norm": "the same, with the length of the options evened out",
    "nll": "how unlikely the model finds plain text that has nothing to do with medicine; perplexity in brackets",
}
EFFECTS = {"better": "better", "worse": "worse", "unclear": "no clear change", None: ""}


def shareable(evaluation: dict[str, Any]) -> dict[str, Any]:
    """The evaluation without questions, references and answers, for data whose licence does not let them be handed on."""
    sets = [{key: value for key, value in entry.items() if key not in ("best", "worst")} for entry in evaluation["sets"]]
    for entry in sets:
        if "contradictions" in entry:
            entry["contradictions"] = entry["contradictions"] | {"listed": []}
    return evaluation | {"sets": sets}


def show(value: float, unit: str, sign: bool = False) -> str:
    """A figure as people read it: shares in percent, surprise with its perplexity, words with one decimal."""
    mark = "+" if sign else ""
    if unit == "share":
        text = f"{100 * value:+.1f}" if sign else f"{100 * value:.0f}%"
    elif unit == "nats/token":
        text = f"{value:{mark}.2f}" if sign else f"{value:.2f} ({_perplexity(value)})"
    else:
        text = f"{value:{mark}.1f}" if unit == "words" else f"{value:{mark}.2f}"
    return text.replace("-", "\u2212")


def _perplexity(nll: float) -> str:
    value = math.exp(min(nll, 50))
    return f"{value:,.1f}" if value < 1000 else f"{value:,.0f}"


def row(key: str, measure: dict[str, Any]) -> dict[str, Any]:
    """A measure as one line of a table."""
    name = key.rpartition("/")[2]
    line = {"name": measure["name"], "explanation": EXPLANATIONS.get(name, ""), "n": measure["n"], "unit": measure["unit"]}
    if "difference" not in measure:
        return line | {"not_measured": measure["not_measured"]}
    difference, unit = measure["difference"], measure["unit"]
    found = effect(measure)
    return line | {
        "base": show(measure["base"]["value"], unit),
        "tuned": show(measure["tuned"]["value"], unit),
        "base_interval": " to ".join(show(measure["base"][end], unit) for end in ("low", "high")),
        "tuned_interval": " to ".join(show(measure["tuned"][end], unit) for end in ("low", "high")),
        "change": show(difference["value"], unit, True),
        "interval": f"{show(difference['low'], unit, True)} to {show(difference['high'], unit, True)}",
        "effect": found,
        "effect_text": EFFECTS[found],
        "sign": 0 if measure["higher_is_better"] is None else 1 if measure["higher_is_better"] else -1,
        "difference": difference,
    }


def table(measures: dict[str, Any], prefix: str) -> list[dict[str, Any]]:
    """The lines of all measures whose key begins with `prefix`, each with the geometry of its plot: 0 is the left edge, 100 the right.

    Within a table, measures of one unit share one scale, so that their bars compare. Right of the middle is better.
    """
    lines = [row(key, measure) for key, measure in measures.items() if key.startswith(prefix)]
    for line in lines:
        if not line.get("sign"):
            continue
        alike = [other["difference"] for other in lines if other.get("sign") and other["unit"] == line["unit"]]
        reach = max([abs(d[end]) for d in alike for end in ("low", "high")] + [1e-9])
        at = {end: 50 + 48 * line["sign"] * line["difference"][end] / reach for end in ("low", "value", "high")}
        line["plot"] = {"left": min(at["low"], at["high"]), "right": max(at["low"], at["high"]), "dot": at["value"]}
        line["reach"] = show(reach, line["unit"], True).lstrip("+")
    return lines


def histogram(scores: dict[str, list[float]]) -> list[dict[str, float]]:
    """Counts of scores from 0 to 1 in `BINS` bins, base and tuned, with bar heights up to 100."""
    counts = {model: [0] * BINS for model in scores}
    for model, values in scores.items():
        for value in values:
            counts[model][min(BINS - 1, int(value * BINS))] += 1
    most = max(max(column) for column in counts.values()) or 1
    return [
        {"from": i / BINS, **counted, **{f"{model}_height": 100 * count / most for model, count in counted.items()}}
        for i in range(BINS)
        for counted in [{model: counts[model][i] for model in counts}]
    ]


def glance(evaluation: dict[str, Any]) -> list[tuple[str, str]]:
    """One line for each part of the page: its name, and what happened to its measures."""
    measures = evaluation["measures"]
    lines = [(entry["title"], entry["verdict"]) for entry in ordered(evaluation["sets"])]
    parts = (("exams", "exam:"), ("safety", "safety:"), ("forgetting", "forgetting:"))
    return lines + [
        (name, verdict(taken)) for name, prefix in parts if (taken := [m for key, m in measures.items() if key.startswith(prefix)])
    ]


def ordered(sets: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The sets with the controls at the end: they are no result."""
    return sorted(sets, key=lambda entry: bool(entry["control"]))


def render(evaluation: dict[str, Any]) -> str:
    """The page.

    Args:
        evaluation: The content of `evaluation.json`.

    Returns:
        HTML that needs no other file; all texts are escaped, because models and data sets wrote them.
    """
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.globals.update(table=table, histogram=histogram, show=show, ordered=ordered, glance=glance)
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(e=evaluation, measures=evaluation["measures"])
