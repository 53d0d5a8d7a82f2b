"""Chooses conversations and turns them into rows of token ids with labels. Knows tokenizers, but no model and no trainer."""

import hashlib
import json
import random
from typing import Any

from transformers import PreTrainedTokenizerBase

from app.errors import DataError
from finetune.config import TrainConfig
from finetune.data.noise import join_examples, noisy
from finetune.data.sources import Example, Source
from finetune.data.tokens import Row, tokenize_answers


def count_of(size: float, total: int) -> int:
    """How many of `total` a size means: a share up to 1, a number above."""
    return round(total * size) if size <= 1 else int(size)


def select(examples: list[Example], train_size: float, seed: int) -> list[Example]:
    """Draws a share (up to 1) or a number (above 1) of the examples by seed."""
    count = count_of(train_size, len(examples))
    if not 1 <= count <= len(examples):
        raise DataError(
            f"train_size = {train_size:g} asks for {count} of {len(examples)} conversations. Give a share up to 1, or a number up to that."
        )
    return random.Random(seed).sample(examples, count)


def split(source: Source, config: TrainConfig) -> tuple[list[Example], list[Example]]:
    """Chooses the conversations to train on and to validate with.

    A validation split that the data brings is taken, up to `validation_size` of it where that is a number. Otherwise whole rows (all
    wordings of a card) are held back; rows that are near-duplicates of one another may then straddle the two, which
    `python -m finetune data prepare` prevents.

    Returns:
        Training and validation conversations.

    Raises:
        DataError: The sizes ask for more than there is.
    """
    if source.validation or not config.validation_size:
        limit = int(config.validation_size) if config.validation_size > 1 else len(source.validation)
        validation = random.Random(config.seed).sample(source.validation, min(limit, len(source.validation)))
        return select(source.examples, config.train_size, config.seed), validation
    wanted = count_of(config.validation_size, len(source.examples))
    rows = sorted({str(example.row) for example in source.examples})
    random.Random(config.seed).shuffle(rows)
    sizes: dict[str, int] = {}
    for example in source.examples:
        sizes[str(example.row)] = sizes.get(str(example.row), 0) + 1
    held_out: set[str] = set()
    held = 0
    for row in rows:
        if held >= wanted:
            break
        held_out.add(row)
        held += sizes[row]
    validation = [example for example in source.examples if str(example.row) in held_out]
    rest = [example for example in source.examples if str(example.row) not in held_out]
    if not rest:
        raise DataError(
            f"validation_size = {config.validation_size:g} leaves none of {len(source.examples)} conversations to train on. Lower it."
        )
    return select(rest, config.train_size, config.seed), validation


def trained_cards(source: Source, examples: list[Example]) -> list[dict[str, Any]]:
    """The cards of a source that are among the conversations trained on: one that was held back must not be looked up later."""
    trained = {name for example in examples for name in (str(example.row), f"{example.source}/{example.row}")}
    return [card for card in source.cards if card["id"] in trained]


def build_rows(examples: list[Example], tokenizer: PreTrainedTokenizerBase, config: TrainConfig) -> tuple[list[Row], int]:
    """Tokenises the examples, `config.copies` times each.

    Returns:
        The rows, and how many of them were too long for `config.max_length`.

    Raises:
        DataError: More than a tenth of the rows are too long, or carry no loss.
    """
    rng = random.Random(config.seed)
    rows, too_long, without_loss, seen = [], 0, 0, 0
    for _ in range(config.copies):
        for example in join_examples(examples, config.joined_share, rng):
            share = config.question_noise * 2 * rng.random()
            for row in tokenize_answers(tokenizer, (noisy(example, share, rng) if share else example).messages):
                seen += 1
                if len(row["input_ids"]) > config.max_length:
                    too_long += 1
                elif all(label == -100 for label in row["labels"]):
                    without_loss += 1
                else:
                    rows.append(row)
    lost = too_long + without_loss
    if lost > 0.1 * seen:
        raise DataError(
            f"{lost} of {seen} rows cannot be trained on: {too_long} are longer than max_length = {config.max_length} "
            f"tokens, {without_loss} carry no answer. Raise max_length or clean the data."
        )
    return rows, too_long


def digest(rows: list[Row]) -> str:
    """SHA-256 over the token ids of rows, in their order."""
    found = hashlib.sha256()
    for row in rows:
        found.update(json.dumps(row["input_ids"]).encode())
    return found.hexdigest()


def validation_rows(examples: list[Example], tokenizer: PreTrainedTokenizerBase, config: TrainConfig) -> list[Row]:
    """Tokenises validation conversations once each, as they are; those that are too long or carry no loss are left out."""
    rows = [row for example in examples for row in tokenize_answers(tokenizer, example.messages)]
    return [row for row in rows if len(row["input_ids"]) <= config.max_length and any(label != -100 for label in row["labels"])]
