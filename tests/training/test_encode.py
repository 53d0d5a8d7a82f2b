"""Which conversations are trained on and which are held back."""

from dataclasses import replace

import pytest

from app.errors import DataError
from finetune.config import TrainConfig
from finetune.data.sources import Example, Source
from finetune.training.encode import split, trained_cards


def source(cards: int, wordings: int = 3, **fields: object) -> Source:
    examples = [
        Example([{"role": "user", "content": f"{card} {wording}"}, {"role": "assistant", "content": "a"}], card)
        for card in range(cards)
        for wording in range(wordings)
    ]
    return Source(examples, "cards", None, None, cards, **fields)


def test_all_wordings_of_a_card_are_on_one_side() -> None:
    training, validation = split(source(20), TrainConfig(validation_size=0.2))
    assert len(training) + len(validation) == 60 and 12 <= len(validation) <= 14
    assert not {example.row for example in training} & {example.row for example in validation}


def test_a_validation_split_of_the_data_is_taken_as_it_is() -> None:
    mine = [Example([{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}], "v")]
    training, validation = split(source(5, validation=mine), TrainConfig(validation_size=0.5))
    assert len(training) == 15 and validation == mine


def test_a_number_limits_a_validation_split_of_the_data() -> None:
    mine = [Example([{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}], number) for number in range(10)]
    assert len(split(source(5, validation=mine), TrainConfig(validation_size=4))[1]) == 4
    assert len(split(source(5, validation=mine), TrainConfig(validation_size=0))[1]) == 10


def test_the_same_seed_holds_back_the_same_cards_whatever_is_trained_on() -> None:
    held = [{e.row for e in split(source(30), TrainConfig(validation_size=9, train_size=size))[1]} for size in (1.0, 0.5)]
    assert held[0] == held[1] and len(held[0]) == 3


def test_a_card_that_is_held_back_is_not_among_the_cards_that_travel() -> None:
    cards = [{"id": str(number), "question": "q", "answer": "a"} for number in range(5)]
    training, validation = split(replace(source(5), cards=cards), TrainConfig(validation_size=3))
    travelling = {card["id"] for card in trained_cards(replace(source(5), cards=cards), training)}
    assert travelling == {str(example.row) for example in training}
    assert not travelling & {str(example.row) for example in validation}


def test_holding_everything_back_is_refused() -> None:
    with pytest.raises(DataError, match="leaves none of 15"):
        split(source(5), TrainConfig(validation_size=1.0))
