"""How often the notices about the training cards are right."""

from app.notices.evidence import Evidence
from finetune.evaluation.notices import notice_rates
from finetune.evaluation.scoring import Item, Prediction

CARDS = [
    {"id": "a", "question": "How is septic shock defined?", "answer": "Vasopressors are needed and lactate is above 2 mmol/L."},
    {"id": "b", "question": "What are the symptoms of diabetes?", "answer": "Thirst, polyuria, tiredness and weight loss."},
    {"id": "c", "question": "Which nerve causes wrist drop?", "answer": "The radial nerve, injured at the humeral shaft."},
]


def item(question: str, reference: str = "") -> Item:
    return Item([{"role": "user", "content": question}], reference)


def test_notices_are_counted_for_each_kind_and_for_right_and_wrong_answers_apart() -> None:
    shock, diabetes = CARDS[0]["answer"], CARDS[1]["answer"]
    known = [item("septic shock definition?", shock), item("symptoms of diabetes?", diabetes)]
    outside = {"cooking": [item("How do I bake sourdough bread?")], "medical": [item("Which nerve causes wrist drop in lead poisoning?")]}
    rates = notice_rates(
        Evidence(CARDS),
        known,
        [Prediction(shock, True), Prediction(shock, True)],
        outside,
        {"cooking": [Prediction("", False)], "medical": [Prediction(shock, True)]},
    )
    assert {name.split(" (")[0]: (rate.n, rate.value) for name, rate in rates.items()} == {
        "held-out wordings, before the answer": (2, 0),
        "held-out wordings answered right, before or after": (1, 0),
        "held-out wordings answered wrong, before or after": (1, 1),
        "outside the cards, cooking, before the answer": (1, 1),
        "outside the cards, cooking, before or after": (1, 1),
        "outside the cards, medical, before the answer": (1, 0),
        "outside the cards, medical, before or after": (1, 1),
        "outside the cards, all, before or after": (2, 1),
    }
