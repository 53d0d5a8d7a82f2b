"""Measures an adapter on flashcards, adapter on against off, on the same prompts and with one model in memory.

    python -m finetune evaluate --adapter assets/demo/adapter

Reports ROUGE-L to the card's answer on a trained wording, on the held-out wording and on the held-out wording of the second
turn, and how often the page's far-from-the-cards notice is right. Opens adapters as the app does, never with Unsloth.
"""

import json
import logging
import random
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from app.evidence import Evidence
from app.model import LoadedModel, load, public_name
from finetune.metrics import Mean, bootstrap_mean, rouge_l
from finetune.sources import Card, Message, read_cards, read_json_rows

log = logging.getLogger(__name__)

OUT_OF_SCOPE = Path("assets/out_of_scope.jsonl")
MAX_NEW_TOKENS = 128


@dataclass(frozen=True)
class Item:
    """A prompt and the answer it should get."""

    messages: list[Message]
    reference: str


@dataclass(frozen=True)
class Prediction:
    """An answer of the model.

    Attributes:
        ended: Whether it ended by itself, with an end-of-sequence token.
    """

    text: str
    ended: bool


def _user(text: str) -> Message:
    return {"role": "user", "content": text}


def trained_items(cards: list[Card], seed: int = 0) -> list[Item]:
    """One trained wording of each card, drawn by seed."""
    rng = random.Random(seed)
    return [Item([_user(rng.choice(card.trained_wordings()))], card.answer) for card in cards]


def held_out_items(cards: list[Card]) -> list[Item]:
    """The held-out wording of each card."""
    return [Item([_user(card.held_out)], card.answer) for card in cards]


def follow_up_items(cards: list[Card]) -> list[Item]:
    """The held-out wording of each second turn, after the card's question and answer."""
    return [
        Item(
            [_user(card.question), {"role": "assistant", "content": card.answer}, _user(card.follow_up.rewordings[-1])],
            card.follow_up.answer,
        )
        for card in cards
        if card.follow_up
    ]


@torch.inference_mode()
def predict(loaded: LoadedModel, items: list[Item], use_adapter: bool = True, batch_size: int = 64) -> list[Prediction]:
    """Greedy answers, batched by length of the prompt; the order of `items` is kept.

    Args:
        loaded: The opened adapter.
        items: What to answer.
        use_adapter: False answers with the base alone.
        batch_size: Prompts answered at once.
    """
    tokenizer, eos = loaded.tokenizer, set(loaded.contract.eos_token_ids)
    tokenizer.padding_side = "left"
    order = sorted(range(len(items)), key=lambda i: sum(len(m["content"]) for m in items[i].messages))
    predictions: list[Prediction | None] = [None] * len(items)
    for start in tqdm(range(0, len(order), batch_size), desc="tuned" if use_adapter else "base", unit="batch"):
        part = order[start : start + batch_size]
        inputs = tokenizer.apply_chat_template(
            [items[i].messages for i in part], add_generation_prompt=True, return_dict=True, padding=True, return_tensors="pt"
        ).to(loaded.device)

        def generate(inputs: Any = inputs) -> torch.Tensor:
            return loaded.model.generate(
                **inputs, max_new_tokens=MAX_NEW_TOKENS, do_sample=False, eos_token_id=sorted(eos), pad_token_id=tokenizer.pad_token_id
            )

        if use_adapter:
            output = generate()
        else:
            with loaded.model.disable_adapter():
                output = generate()
        for index, row in zip(part, output[:, inputs["input_ids"].shape[1] :], strict=True):
            predictions[index] = Prediction(tokenizer.decode(row, skip_special_tokens=True), bool(eos & set(row.tolist())))
    return [prediction for prediction in predictions if prediction is not None]


def notice_rates(evidence: Evidence, cards: list[Card], out_of_scope: list[dict[str, Any]]) -> dict[str, Mean]:
    """How often the far-from-the-cards notice is shown: it should be for questions outside the cards and not for held-out wordings."""
    rates = {"held-out wordings (should be 0)": bootstrap_mean([evidence.is_far(card.held_out) for card in cards])}
    for kind in sorted({row["kind"] for row in out_of_scope}):
        rates[f"outside the cards, {kind} (should be 1)"] = bootstrap_mean(
            [evidence.is_far(r["question"]) for r in out_of_scope if r["kind"] == kind]
        )
    return rates


def evaluate(adapter: str, cards_path: Path, limit: int | None = None) -> dict[str, Any]:
    """Runs the measures at the top of the file.

    Args:
        adapter: A folder or hub id.
        cards_path: Flashcards with rewordings.
        limit: Only so many cards, drawn by a fixed seed.

    Returns:
        A JSON-ready report; every mean has n and a 95% interval.
    """
    cards = read_cards(cards_path)
    if limit is not None and limit < len(cards):
        cards = random.Random(0).sample(cards, limit)
    loaded = load(adapter)
    report: dict[str, Any] = {
        "adapter": public_name(loaded.name),
        "adapter_revision": loaded.adapter_revision,
        "base": loaded.base,
        "measures": {},
    }
    sets = {
        "trained wording": trained_items(cards),
        "held-out wording": held_out_items(cards),
        "second turn, held-out wording": follow_up_items(cards),
    }
    for name, items in sets.items():
        if not items:
            continue
        for use_adapter in (True, False):
            predictions = predict(loaded, items, use_adapter)
            scores = [rouge_l(p.text, item.reference) for p, item in zip(predictions, items, strict=True)]
            key = f"{name}, adapter {'on' if use_adapter else 'off'}"
            report["measures"][key] = {
                "rouge_l": asdict(bootstrap_mean(scores)),
                "ended": asdict(bootstrap_mean([p.ended for p in predictions])),
            }
            log.info("%-48s ROUGE-L %s", key, bootstrap_mean(scores))
    if loaded.cards and OUT_OF_SCOPE.is_file():
        rates = notice_rates(Evidence(loaded.cards), cards, read_json_rows(OUT_OF_SCOPE))
        report["far_notice"] = {name: asdict(rate) for name, rate in rates.items()}
        for name, rate in rates.items():
            log.info("notice shown, %-52s %s", name, rate)
    return report


def write(report: dict[str, Any], path: Path) -> None:
    """Writes the report as JSON."""
    path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
