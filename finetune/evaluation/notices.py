"""Measures the page's notices about the training cards: how often they warn where they should, and where they should not.

Knows `app.evidence` and answers, but no model.
"""

from app.notices.evidence import Evidence
from finetune.evaluation.metrics import Mean, proportion, rouge_l
from finetune.evaluation.scoring import Item, Prediction

# ROUGE-L to the card's answer from which an answer is that card's. Answers are one card's or another's: few lie between 0.3 and 0.9.
RIGHT = 0.5


def far(evidence: Evidence, item: Item) -> bool:
    """Whether the notice before the answer is shown for the item's last question."""
    return evidence.is_far(item.messages[-1]["content"], follow_up=len(item.messages) > 1)


def warned(evidence: Evidence, item: Item, answer: Prediction) -> bool:
    """Whether a notice is shown before the answer, or after one that ended by itself."""
    question, later = item.messages[-1]["content"], len(item.messages) > 1
    return far(evidence, item) or (answer.ended and evidence.recited(question, answer.text, follow_up=later) is not None)


def notice_rates(
    evidence: Evidence,
    known: list[Item],
    answers: list[Prediction],
    outside: dict[str, list[Item]],
    outside_answers: dict[str, list[Prediction]],
) -> dict[str, Mean]:
    """How often the notices are shown.

    Args:
        evidence: The index over the training cards.
        known: Questions that a card answers, in wordings that were not trained on.
        answers: The tuned model's answers to them.
        outside: Questions that no card answers, by kind.
        outside_answers: The answers to those.

    Returns:
        Rates by what they are of; kinds without questions are left out.
    """
    right = [rouge_l(answer.text, item.reference) >= RIGHT for item, answer in zip(known, answers, strict=True)]
    shown = [warned(evidence, item, answer) for item, answer in zip(known, answers, strict=True)]
    groups = {
        "held-out wordings, before the answer (should be 0)": [far(evidence, item) for item in known],
        "held-out wordings answered right, before or after (should be 0)": [s for s, r in zip(shown, right, strict=True) if r],
        "held-out wordings answered wrong, before or after (should be 1)": [s for s, r in zip(shown, right, strict=True) if not r],
    }
    everything: list[bool] = []
    for kind, items in sorted(outside.items()):
        told = [warned(evidence, item, answer) for item, answer in zip(items, outside_answers[kind], strict=True)]
        groups[f"outside the cards, {kind}, before the answer (should be 1)"] = [far(evidence, item) for item in items]
        groups[f"outside the cards, {kind}, before or after (should be 1)"] = told
        everything += told
    groups["outside the cards, all, before or after (should be 1)"] = everything
    return {name: proportion(values) for name, values in groups.items() if values}
