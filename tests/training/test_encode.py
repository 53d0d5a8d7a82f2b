"""Which conversations are trained on and which are held back."""

import hashlib
import random
from dataclasses import replace

import pytest
from transformers import PreTrainedTokenizerBase

from app.errors import DataError
from finetune.config import TrainConfig
from finetune.data.sources import Example, Source
from finetune.data.tokens import Row, measure, open_tokenizer, tokenize, tokenize_answers
from finetune.training.encode import build_rows, count_of, digest, select, split, trained_cards, validation_rows


def source(cards: int, wordings: int = 3, **fields: object) -> Source:
    examples = [
        Example([{"role": "user", "content": f"{card} {wording}"}, {"role": "assistant", "content": "a"}], card)
        for card in range(cards)
        for wording in range(wordings)
    ]
    return Source(examples, "cards", None, None, cards, **fields)


def test_all_wordings_of_a_card_are_on_one_side() -> None:
    training, validation = split(source(20), TrainConfig(validation_size=0.2))
    assert (len(training), len(validation)) == (48, 12)
    assert not {example.row for example in training} & {example.row for example in validation}


def test_a_validation_split_of_the_data_is_taken_as_it_is() -> None:
    mine = [Example([{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}], "v")]
    training, validation = split(source(5, validation=mine), TrainConfig(validation_size=0.5))
    assert len(training) == 15 and validation == mine


def test_a_number_limits_a_validation_split_of_the_data() -> None:
    mine = [Example([{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}], number) for number in range(10)]
    assert len(split(source(5, validation=mine), TrainConfig(validation_size=4))[1]) == 4
    assert len(split(source(5, validation=mine), TrainConfig(validation_size=0))[1]) == 10
    assert len(split(source(5, validation=mine), TrainConfig(validation_size=1))[1]) == 10, "up to 1 it is a share"
    assert len(split(source(5, validation=mine), TrainConfig(validation_size=1.5))[1]) == 1
    assert len(split(source(5, validation=mine), TrainConfig(validation_size=50))[1]) == 10
    drawn = [split(source(5, validation=mine), TrainConfig(validation_size=6, seed=seed))[1] for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] == random.Random(1).sample(mine, 6) != drawn[2]


def test_a_seed_decides_what_is_trained_on_too() -> None:
    for given in (source(20), source(20, validation=source(2).examples)):
        drawn = [split(given, TrainConfig(validation_size=6, train_size=0.5, seed=seed))[0] for seed in (1, 1, 2)]
        assert drawn[0] == drawn[1] != drawn[2]


def test_as_many_are_held_back_as_are_asked_for() -> None:
    for size in (1, 4, 9):
        assert len(split(source(10, wordings=1), TrainConfig(validation_size=size / 10))[1]) == size
    assert len(split(source(10, wordings=1), TrainConfig(validation_size=4))[1]) == 4


def test_the_digest_of_rows_follows_from_their_tokens_in_their_order() -> None:
    rows = [{"input_ids": [1, 2], "labels": [-100, 2]}, {"input_ids": [3], "labels": [3]}]
    assert digest(rows) == hashlib.sha256(b"[1, 2][3]").hexdigest()
    assert digest(rows[::-1]) != digest(rows) != digest(rows[:1])
    assert digest([]) == hashlib.sha256().hexdigest()


def test_without_a_validation_size_nothing_is_held_back() -> None:
    training, validation = split(source(4), TrainConfig(validation_size=0, train_size=0.5))
    assert (len(training), validation) == (6, [])


def test_the_same_seed_holds_back_the_same_cards_whatever_is_trained_on() -> None:
    held = [{e.row for e in split(source(30), TrainConfig(validation_size=9, train_size=size))[1]} for size in (1.0, 0.5)]
    assert held[0] == held[1] and len(held[0]) == 3


def test_a_card_that_is_held_back_is_not_among_the_cards_that_travel() -> None:
    cards = [{"id": str(number), "question": "q", "answer": "a"} for number in range(5)]
    training, validation = split(replace(source(5), cards=cards), TrainConfig(validation_size=3))
    travelling = {card["id"] for card in trained_cards(replace(source(5), cards=cards), training)}
    assert travelling == {str(example.row) for example in training}
    assert not travelling & {str(example.row) for example in validation}


def test_cards_of_a_prepared_folder_travel_by_source_and_row() -> None:
    cards = [{"id": name, "question": "q", "answer": "a"} for name in ("mine/1", "mine/2", "yours/1", "1", "3")]
    given = replace(source(5), cards=cards)
    asked = [replace(given.examples[3], source="mine", row=1), replace(given.examples[0], source="yours", row=2)]
    assert [card["id"] for card in trained_cards(given, asked)] == ["mine/1", "1"]


def test_holding_everything_back_is_refused() -> None:
    with pytest.raises(DataError) as refused:
        split(source(5), TrainConfig(validation_size=1.0))
    assert str(refused.value) == "validation_size = 1 leaves none of 15 conversations to train on. Lower it."


def test_rows_are_held_back_in_an_order_that_the_seed_gives_until_there_are_enough_conversations() -> None:
    uneven = source(8, wordings=4)
    uneven = replace(uneven, examples=[e for e in uneven.examples if int(e.row) % 2 or e.question.endswith(" 0")])
    rows = [str(row) for row in range(8)]
    random.Random(5).shuffle(rows)
    held: list[str] = []
    while sum(4 if int(row) % 2 else 1 for row in held) < 7:
        held.append(rows[len(held)])
    training, validation = split(uneven, TrainConfig(validation_size=7, seed=5))
    assert {str(example.row) for example in validation} == set(held)
    assert sorted(example.question for example in [*training, *validation]) == sorted(example.question for example in uneven.examples)
    assert [example.question for example in validation] == sorted(example.question for example in validation), "in the order of the data"


@pytest.mark.parametrize(
    ("size", "total", "count"), [(1.0, 30, 30), (1, 7, 7), (0.5, 30, 15), (0.33, 10, 3), (0.0, 9, 0), (2, 30, 2), (2.9, 30, 2)]
)
def test_a_size_is_a_share_up_to_one_and_a_number_above(size: float, total: int, count: int) -> None:
    assert count_of(size, total) == count


def test_what_is_trained_on_is_drawn_by_seed_and_never_more_than_there_is() -> None:
    examples = source(10, wordings=1).examples
    assert select(examples, 4, 3) == random.Random(3).sample(examples, 4)
    assert len(select(examples, 0.1, 3)) == 1
    assert sorted(select(examples, 10, 3), key=lambda example: example.row) == examples
    for size, asked in ((11, "11 asks for 11"), (0.04, "0.04 asks for 0")):
        with pytest.raises(DataError) as refused:
            select(examples, size, 3)
        assert str(refused.value) == f"train_size = {asked} of 10 conversations. Give a share up to 1, or a number up to that."


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return open_tokenizer("assets/demo/base", None, "medical")


def talk(question: str, answer: str = "An answer.", row: int = 0) -> Example:
    return Example([{"role": "user", "content": question}, {"role": "assistant", "content": answer}], row)


def asked_and_answered(tokenizer: PreTrainedTokenizerBase, row: Row) -> tuple[str, str]:
    """What a row asks, and what of it carries loss."""
    text = tokenizer.decode(row["input_ids"])
    return text.split("### Question:\n")[1].split("\n\n### Medical")[0], learned(tokenizer, row)


def learned(tokenizer: PreTrainedTokenizerBase, row: Row) -> str:
    return tokenizer.decode([label for label in row["labels"] if label != -100])


def test_each_copy_of_each_conversation_is_a_row_as_it_was_written(tokenizer: PreTrainedTokenizerBase) -> None:
    examples = [talk(f"What  is\n{name}?", f"{name} is an illness.", row) for row, name in enumerate(("gout", "asthma", "sepsis"))]
    rows, too_long = build_rows(examples, tokenizer, TrainConfig(copies=2))
    assert too_long == 0
    wanted = [(example.question, example.answer + tokenizer.eos_token) for example in examples]
    assert sorted(asked_and_answered(tokenizer, row) for row in rows) == sorted(wanted * 2)
    assert sorted(row["input_ids"] for row in rows[:3]) == sorted(row["input_ids"] for row in rows[3:]), "one copy after the other"
    assert all(row["attention_mask"] == [1] * len(row["input_ids"]) for row in rows)
    again = [build_rows(examples * 4, tokenizer, TrainConfig(copies=2, seed=seed))[0] for seed in (1, 1, 2)]
    assert again[0] == again[1] != again[2]


def test_noise_takes_its_mean_share_of_the_words_of_questions_alone(tokenizer: PreTrainedTokenizerBase) -> None:
    words = 100
    examples = [talk(" ".join(["pain"] * words), "An answer of five words.", row) for row in range(60)]
    rows, _ = build_rows(examples, tokenizer, TrainConfig(copies=4, question_noise=0.2))
    found = [asked_and_answered(tokenizer, row) for row in rows]
    left = [len(question.split()) / words for question, _ in found]
    assert {answer for _, answer in found} == {"An answer of five words." + tokenizer.eos_token}
    assert 1 - sum(left) / len(left) == pytest.approx(0.2, abs=0.03)
    assert min(left) < 0.7 and max(left) > 0.97, "up to twice the mean, and down to nothing"


def test_conversations_are_joined_two_by_two_into_one_row(tokenizer: PreTrainedTokenizerBase) -> None:
    examples = [talk(f"Question {row}?", f"Answer {row}.", row) for row in range(6)]
    rows, _ = build_rows(examples, tokenizer, TrainConfig(joined_share=0.5))
    joined = [row for row in rows if learned(tokenizer, row).count("Answer") == 2]
    assert (len(rows), len(joined)) == (4, 2)  # of six conversations two pairs: half of six, in whole pairs


def mixed(tokenizer: PreTrainedTokenizerBase, short: int, long: int, silent: int) -> tuple[list[Example], int]:
    """Conversations of the greatest length allowed, some of a token or more above it, and some without an answer; and that length."""
    fitting, longer = talk("What is gout, then, in one word?"), talk("What is gout, then, in one word or in two?")
    limit = len(tokenize(tokenizer, fitting.messages)["input_ids"])
    assert limit < len(tokenize(tokenizer, longer.messages)["input_ids"])
    return [fitting] * short + [longer] * long + [Example([{"role": "user", "content": "What is gout?"}], 0)] * silent, limit


def test_a_tenth_of_the_rows_may_be_too_long_or_without_an_answer(tokenizer: PreTrainedTokenizerBase) -> None:
    examples, limit = mixed(tokenizer, 27, 2, 1)
    rows, too_long = build_rows(examples, tokenizer, TrainConfig(max_length=limit))
    assert (len(rows), too_long) == (27, 2)
    assert {len(row["input_ids"]) for row in rows} == {limit}
    rows, too_long = build_rows(examples, tokenizer, TrainConfig(max_length=limit, copies=3))
    assert (len(rows), too_long) == (81, 6)
    kept = validation_rows(examples, tokenizer, TrainConfig(max_length=limit, question_noise=0.9, copies=3))
    assert kept == [tokenize(tokenizer, examples[0].messages)] * 27, "validation is read once, as it was written"


def test_more_than_a_tenth_is_refused_with_what_was_wrong(tokenizer: PreTrainedTokenizerBase) -> None:
    examples, limit = mixed(tokenizer, 26, 2, 1)
    with pytest.raises(DataError) as refused:
        build_rows(examples, tokenizer, TrainConfig(max_length=limit, copies=2))
    assert str(refused.value) == (
        f"6 of 58 rows cannot be trained on: 4 are longer than max_length = {limit} tokens, 2 carry no answer. "
        "Raise max_length or clean the data."
    )


def test_an_answer_without_weight_is_read_and_not_learned() -> None:
    tokenizer = open_tokenizer("assets/demo/base", None, "medical")
    answers = ["First draft.", "Second one.", "Third and last."]
    messages = [
        m for n, text in enumerate(answers) for m in ({"role": "user", "content": f"Q{n}?"}, {"role": "assistant", "content": text})
    ]
    whole = tokenize(tokenizer, messages)
    messages[1]["weight"] = messages[3]["weight"] = 0
    row = tokenize(tokenizer, messages)
    assert row["input_ids"] == whole["input_ids"]
    learned = [token for token in row["labels"] if token != -100]
    assert tokenizer.decode(learned).startswith("Third and last.") and learned == whole["labels"][-len(learned) :]
    assert tokenize_answers(tokenizer, messages) == [row]
    assert measure(tokenizer, [Example(messages, 0)]) == [(len(row["labels"]), len(learned))]
    assert (Example(messages, 0).question, Example(messages, 0).answer) == ("Q2?", "Third and last.")
