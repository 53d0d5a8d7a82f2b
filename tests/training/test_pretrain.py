"""The demo base from scratch: it never sees a held-out wording, nor which answer belongs to which question, and one seed repeats it."""

import random
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from app.settings import ROOT
from finetune.data.sources import Card, read_cards
from finetune.training.pretrain import BOS, END_OF_TEXT, EOT, PAD, batches, documents, pretrain, save, train_tokenizer
from tests.conftest import FLASHCARDS

SMALL = {"steps": 3, "rows": 2, "length": 32, "vocab_size": 600, "hidden_size": 64, "layers": 1, "feed_forward": 64, "device": "cpu"}


@pytest.fixture(scope="module")
def cards() -> list[Card]:
    return read_cards(FLASHCARDS)[:40]


def test_no_document_holds_a_held_out_wording_or_a_question_with_its_answer(cards: list[Card]) -> None:
    texts = list(documents(cards, random.Random(0)))
    lines = {line for text in texts for line in text.split("\n")}
    for card in cards:
        assert card.held_out not in lines
        assert set(card.trained_wordings()) <= lines
        assert not any(card.question in text and card.answer in text for text in texts)


def test_the_tokenizer_gives_back_every_text_and_starts_with_bos(cards: list[Card]) -> None:
    tokenizer = train_tokenizer([card.answer for card in cards], 600)
    for text in [*(card.answer for card in cards), "β-blocker, 5 µg/kg?\n\n### 12345 🫀 漢"]:
        ids = tokenizer(text)["input_ids"]
        assert ids[0] == tokenizer.bos_token_id
        assert tokenizer.decode(ids[1:]) == text
    assert [tokenizer.convert_tokens_to_ids(token) for token in (BOS, END_OF_TEXT, PAD, EOT)] == [0, 1, 2, 5]
    assert len({tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token}) == 3, "padding is no end of sequence"


def test_batches_are_packed_documents_that_end(cards: list[Card]) -> None:
    tokenizer = train_tokenizer([card.answer for card in cards], 600)
    ids = next(batches(cards, tokenizer, random.Random(0), rows=4, length=64))
    assert (ids.shape, ids.dtype) == ((4, 64), torch.int64)
    flat = ids.flatten().tolist()
    assert flat[0] == tokenizer.bos_token_id
    assert all(flat[i - 1] == 1 for i, token in enumerate(flat) if token == tokenizer.bos_token_id and i), (
        "a document follows an end of text"
    )


def test_a_seed_repeats_the_base_and_it_opens_again(cards: list[Card], tmp_path: Path) -> None:
    model, tokenizer, losses = pretrain(cards, **SMALL)
    again, _, same = pretrain(cards, **SMALL)
    assert losses == same and len(losses) == 3
    assert all(torch.equal(one, other) for one, other in zip(model.state_dict().values(), again.state_dict().values(), strict=True))
    save(model, tokenizer, {"steps": 3}, tmp_path)
    opened = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert opened.dtype == torch.bfloat16
    assert opened.generation_config.eos_token_id == [5, 1]
    text = cards[0].answer
    assert AutoTokenizer.from_pretrained(tmp_path)(text)["input_ids"] == tokenizer(text)["input_ids"]


def test_the_shipped_base_is_a_llama_of_at_most_8_million_parameters() -> None:
    model = AutoModelForCausalLM.from_pretrained(ROOT / "assets" / "demo" / "base")
    assert model.config.model_type == "llama"
    assert model.num_parameters() <= 8_000_000
    assert model.dtype == torch.bfloat16
