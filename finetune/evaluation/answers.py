"""Base against tuned on sets of questions: both answer, and every measure is taken on both answers."""

import logging
import math
from collections.abc import Callable
from pathlib import Path
from statistics import mean
from typing import Any

from app.engine.model import LoadedModel
from app.errors import UserError
from app.notices.quantities import contradictions, quantities
from app.notices.words import words
from finetune.data.sources import read_json_rows
from finetune.evaluation.gate import verdict
from finetune.evaluation.metrics import compare, not_measured, rouge, token_f1
from finetune.evaluation.questions import QuestionSet
from finetune.evaluation.scoring import Item, Journal, Prediction, answer_completion, log_likelihoods, predict, text_completion
from finetune.evaluation.similarity import bert_score, embedding_cosine, find_judge

log = logging.getLogger(__name__)

GENERAL_TEXT = Path("assets/general_text.jsonl")
EXTREMES = 10
Scorer = Callable[[list[tuple[str, str]], Any], list[float]]
# Measures by a model of the user's choice: name, option of the command line, function.
JUDGES: dict[str, tuple[str, str, Scorer]] = {
    "embedding_cosine": ("Cosine of sentence embeddings", "--embedding-model", embedding_cosine),
    "bert_score": ("BERTScore", "--bertscore-model", bert_score),
}
# The other measures: name, whether higher is better, unit.
MEASURES: dict[str, tuple[str, bool | None, str]] = {
    "rouge_l": ("ROUGE-L", True, "score"),
    "rouge_1": ("ROUGE-1", True, "score"),
    "rouge_2": ("ROUGE-2", True, "score"),
    "token_f1": ("Token F1", True, "score"),
    "reference_nll": ("Surprise at the reference answer", False, "nats/token"),
    "ended": ("Answers that end by themselves", True, "share"),
    "words": ("Length of the answer", None, "words"),
}


def _reference_nll(loaded: LoadedModel, found: QuestionSet, use_adapter: bool, journal: Journal) -> list[float]:
    completions = [answer_completion(loaded, item.messages, item.reference) for item in found.items]
    scores = log_likelihoods(loaded, completions, use_adapter, name=f"{found.title}, reference", journal=journal)
    return [-score / max(1, len(c.ids) - c.prompt) for score, c in zip(scores, completions, strict=True)]


def _judged(pairs: dict[str, list[tuple[str, str]]], models: dict[str, str], used: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The measures by models of their own; one that cannot be had reads "not measured"."""
    rows = {}
    for key, (name, option, score) in JUDGES.items():
        if key not in models:
            rows[key] = not_measured(name, f"no model was given ({option})")
            continue
        try:
            judge = find_judge(models[key])
            base, tuned = score(pairs["base"], judge), score(pairs["tuned"], judge)
        except (UserError, OSError, ValueError, RuntimeError, KeyError) as error:
            known = isinstance(error, UserError)
            reason = " ".join(str(error).split()) if known else f"the model could not be used ({type(error).__name__})"
            log.warning("%s is not measured: %s", name, reason)
            rows[key] = not_measured(name, reason)
        else:
            used[key] = {"model": judge.name, "revision": judge.revision}
            rows[key] = compare(name, base, tuned, higher_is_better=True, unit="score")
    return rows


def _values(predictions: list[Prediction], items: list[Item], reference_nll: list[float]) -> dict[str, list[Any]]:
    """One value of every measure for every answer of one model."""
    pairs = list(zip(predictions, items, strict=True))
    scores = [rouge(prediction.text, item.reference) for prediction, item in pairs]
    return {
        **{key: [score[key] for score in scores] for key in ("rouge_l", "rouge_1", "rouge_2")},
        "token_f1": [token_f1(prediction.text, item.reference) for prediction, item in pairs],
        "reference_nll": reference_nll,
        "ended": [prediction.ended for prediction in predictions],
        "words": [float(len(words(prediction.text))) for prediction in predictions],
    }


def run_set(
    loaded: LoadedModel, found: QuestionSet, max_new_tokens: int, judges: dict[str, str], used: dict[str, Any], journal: Journal
) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Base against tuned on one set of questions.

    Args:
        loaded: The opened adapter.
        found: The questions.
        max_new_tokens: Tokens an answer may have.
        judges: Models by key of `JUDGES`; what is missing is not measured.
        used: Gets the revision of every such model that was used.
        journal: Finished batches.

    Returns:
        The set's entry of `evaluation.json`, and its measures by key.
    """
    predictions, values = {}, {}
    for model, use_adapter in (("tuned", True), ("base", False)):
        predictions[model] = predict(loaded, found.items, use_adapter, max_new_tokens=max_new_tokens, name=found.title, journal=journal)
        values[model] = _values(predictions[model], found.items, _reference_nll(loaded, found, use_adapter, journal))
    pairs = {m: [(p.text, item.reference) for p, item in zip(predictions[m], found.items, strict=True)] for m in predictions}
    measures = {
        key: compare(name, values["base"][key], values["tuned"][key], higher_is_better=better, unit=unit)
        for key, (name, better, unit) in MEASURES.items()
    } | _judged(pairs, judges, used)
    entry = {
        "key": found.key,
        "title": found.title,
        "note": found.note,
        "n": len(found.items),
        "left_out": found.left_out,
        "control": found.control,
        "unseen": found.unseen,
        "verdict": verdict(list(measures.values())),
        "reference_words": round(sum(len(words(item.reference)) for item in found.items) / len(found.items), 1),
        "empty": {model: sum(not p.text.strip() for p in predictions[model]) for model in ("base", "tuned")},
        "rouge_l": {model: [round(score, 4) for score in values[model]["rouge_l"]] for model in ("base", "tuned")},
        "contradictions": _contradicting(found.items, predictions),
    }
    if not found.control:
        entry |= _extremes(found.items, predictions, {model: values[model]["rouge_l"] for model in values})
    return entry, {f"answers:{found.key}/{key}": measure for key, measure in measures.items()}


def _contradicting(items: list[Item], predictions: dict[str, list[Prediction]]) -> dict[str, Any]:
    """Answers that contradict a quantity of their reference; no measure to be better in, since silence contradicts nothing."""
    found = {m: [contradictions(p.text, item.reference) for p, item in zip(predictions[m], items, strict=True)] for m in predictions}
    return {
        "with_quantities": sum(bool(quantities(item.reference)) for item in items),
        **{model: sum(map(bool, found[model])) for model in ("base", "tuned")},
        "listed": [
            {"id": item.id, "question": item.messages[-1]["content"], "reference": item.reference, "tuned": answer.text, "pairs": pairs}
            for item, answer, pairs in zip(items, predictions["tuned"], found["tuned"], strict=True)
            if pairs
        ],
    }


def _extremes(items: list[Item], predictions: dict[str, list[Prediction]], rouge_l: dict[str, list[float]]) -> dict[str, Any]:
    """The greatest gains and losses in ROUGE-L, with their texts."""
    order = sorted(range(len(items)), key=lambda i: (rouge_l["base"][i] - rouge_l["tuned"][i], i))
    rows = [
        {
            "id": items[i].id,
            "before": [message["content"] for message in items[i].messages[:-1]],
            "question": items[i].messages[-1]["content"],
            "reference": items[i].reference,
            **{model: predictions[model][i].text for model in ("base", "tuned")},
            **{f"{model}_rouge_l": round(rouge_l[model][i], 4) for model in ("base", "tuned")},
        }
        for i in order
    ]
    count = min(EXTREMES, len(items) // 2)
    return {"best": rows[:count], "worst": rows[::-1][:count]}


def run_forgetting(loaded: LoadedModel, journal: Journal) -> dict[str, dict[str, Any]]:
    """How surprising general text of ours, which has nothing to do with medicine, is to base and tuned model.

    A base to which it is more surprising than a draw among all tokens knows no general text, and has none to forget.
    """
    completions = [text_completion(loaded, row["text"]) for row in read_json_rows(GENERAL_TEXT)]

    def nll(use_adapter: bool) -> list[float]:
        scores = log_likelihoods(loaded, completions, use_adapter, name="general text", journal=journal)
        return [-score / (len(completion.ids) - 1) for score, completion in zip(scores, completions, strict=True)]

    key, name, unit = "forgetting:general_text/nll", "Surprise at general text", "nats/token"
    base = nll(False)
    draw = math.log(len(loaded.tokenizer))
    if mean(base) >= draw:
        return {
            key: not_measured(name, f"the base knows no general text ({mean(base):.1f} nats a token; a blind draw costs {draw:.1f})", unit)
        }
    return {key: compare(name, base, nll(True), higher_is_better=False, unit=unit)}
