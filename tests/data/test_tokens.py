"""Conversations as tokens: how long they are, what carries loss, and which folders of a base can be read."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from transformers import PreTrainedTokenizerBase

from app.errors import ConfigError
from app.settings import ROOT
from finetune.data import tokens
from finetune.data.sources import Example
from finetune.data.tokens import find_base_files, measure, open_fitted, open_tokenizer, tokenize, tokenize_answers
from tests.adapter.test_templates import with_own, with_template
from tests.conftest import assert_is_for_people

BASE = ROOT / "assets" / "demo" / "base"
ONCE = [{"role": "user", "content": "What is gout?"}, {"role": "assistant", "content": "Crystals of urate in joints."}]
TWICE = [*ONCE, {"role": "user", "content": "And its cure?"}, {"role": "assistant", "content": "Rest."}]
# Writes an earlier answer in another way than the last one, so that no row can hold both as a chat would ask for them.
FORGETFUL = (
    "{% for m in messages %}{% if m.role == 'assistant' %}{{ m.content if loop.last else '...' }}<|eot_id|>"
    "{% else %}({{ m.role }}) {{ m.content }}{% endif %}{% endfor %}"
)


@pytest.fixture(scope="module")
def medical(demo_tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    return with_template(demo_tokenizer, "medical")


@pytest.fixture(scope="module")
def forgetful(demo_tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    return with_own(demo_tokenizer, FORGETFUL)


def test_labels_are_the_tokens_of_answers_and_elsewhere_minus_a_hundred(medical: PreTrainedTokenizerBase) -> None:
    row = tokenize(medical, TWICE)
    assert row.keys() == {"input_ids", "labels", "attention_mask"}
    assert row["attention_mask"] == [1] * len(row["input_ids"]) and len(row["labels"]) == len(row["input_ids"])
    assert all(label in (-100, token) for label, token in zip(row["labels"], row["input_ids"], strict=True))
    end = medical.eos_token
    assert medical.decode([label for label in row["labels"] if label != -100]) == f"Crystals of urate in joints.{end}Rest.{end}"
    assert tokenize_answers(medical, TWICE) == [row]


def test_where_a_template_cuts_earlier_answers_short_each_has_a_row_of_its_own(forgetful: PreTrainedTokenizerBase) -> None:
    rows = tokenize_answers(forgetful, TWICE)
    learned = [forgetful.decode([label for label in row["labels"] if label != -100]) for row in rows]
    assert learned == ["Crystals of urate in joints.<|eot_id|>", "Rest.<|eot_id|>"]
    assert measure(forgetful, [Example(TWICE, 0)]) == [
        (max(len(row["input_ids"]) for row in rows), sum(label != -100 for row in rows for label in row["labels"]))
    ]


@pytest.mark.parametrize("left_out", [0, 1])
def test_an_answer_of_no_weight_is_read_and_not_learned(
    medical: PreTrainedTokenizerBase, forgetful: PreTrainedTokenizerBase, left_out: int
) -> None:
    talk = [message | {"weight": 0} if place == 2 * left_out + 1 else message for place, message in enumerate(TWICE)]
    kept = ("Crystals of urate in joints.", "Rest.")[1 - left_out] + medical.eos_token
    row = tokenize(medical, talk)
    assert medical.decode([label for label in row["labels"] if label != -100]) == kept
    assert row["input_ids"] == tokenize(medical, TWICE)["input_ids"] and tokenize_answers(medical, talk) == [row]
    (alone,) = tokenize_answers(forgetful, talk)
    assert forgetful.decode([label for label in alone["labels"] if label != -100]) == kept
    for tokenizer, made in ((medical, row), (forgetful, alone)):
        assert measure(tokenizer, [Example(talk, 0)]) == [(len(made["input_ids"]), sum(label != -100 for label in made["labels"]))]


@pytest.mark.parametrize("chunk", [1, 2, 512])
def test_a_measure_is_the_length_and_how_much_of_it_carries_loss(
    monkeypatch: pytest.MonkeyPatch, medical: PreTrainedTokenizerBase, chunk: int
) -> None:
    monkeypatch.setattr(tokens, "CHUNK", chunk)
    loose = [{"role": "user", "content": "\ufeffWhat\r\nis it? "}, {"role": "assistant", "content": " Gout.\x00 "}]
    talks = [Example(messages, row) for row, messages in enumerate((TWICE, ONCE, loose, ONCE, TWICE))]
    rows = [tokenize(medical, talk.messages) for talk in talks]
    assert measure(medical, talks) == [(len(row["input_ids"]), sum(label != -100 for label in row["labels"])) for row in rows]
    assert measure(medical, []) == []


@pytest.mark.parametrize("base", ["./nowhere", "/nowhere", "~/nowhere", "a/b/c", "assets"])
def test_what_can_be_no_hub_id_is_a_folder_that_is_missing(monkeypatch: pytest.MonkeyPatch, base: str) -> None:
    monkeypatch.chdir(ROOT)
    with pytest.raises(ConfigError) as refused:
        open_tokenizer(base, None, "medical")
    assert str(refused.value) == (
        f"There is no base model in the folder {base}. Give a folder with a config.json, or a hub id, with --base."
    )


def test_a_hub_id_is_fetched_at_its_revision_for_its_small_files_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(tokens, "fetch", lambda *arguments: asked.append(arguments) or BASE)
    assert find_base_files("somebody/base", "abc") == BASE
    assert asked == [("somebody/base", "abc", tokens.SMALL_FILES)]
    assert find_base_files(str(BASE), None) == BASE and len(asked) == 1
    tokenizer = open_tokenizer("somebody/base", "abc", "medical")
    assert asked == [("somebody/base", "abc", tokens.SMALL_FILES)] * 2
    assert tokenizer.get_chat_template() == open_tokenizer(str(BASE), None, "medical").get_chat_template()


def test_a_base_without_a_tokenizer_that_can_be_opened_is_named(tmp_path: Path) -> None:
    shutil.copy(BASE / "config.json", tmp_path)
    with pytest.raises(ConfigError) as refused:
        open_fitted(tmp_path, "somebody/base", "medical")
    assert_is_for_people(refused.value)
    assert "The base model somebody/base has no tokenizer" in str(refused.value)
    shutil.copytree(BASE, tmp_path / "cut")
    (tmp_path / "cut" / "tokenizer.json").write_text(json.dumps({"version": "1.0"}))
    with pytest.raises(ConfigError) as refused:
        open_tokenizer(str(tmp_path / "cut"), None, "medical")
    assert str(refused.value) == f"The base model {tmp_path / 'cut'} has no tokenizer that can be opened. Restore its tokenizer.json."


def test_a_base_of_which_only_the_slow_tokenizer_opens_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens.AutoTokenizer, "from_pretrained", lambda *_, **__: SimpleNamespace(is_fast=False))
    with pytest.raises(ConfigError) as refused:
        open_fitted(BASE, "somebody/base", "medical")
    assert str(refused.value) == "The base model somebody/base has no tokenizer.json. Take a repository of it that has one."


def test_what_the_files_of_a_base_say_comes_with_its_tokenizer() -> None:
    tokenizer, facts = open_fitted(BASE, "demo", "medical")
    config = json.loads((BASE / "config.json").read_text())
    assert facts.rows == config["vocab_size"] and tokenizer.eos_token_id in facts.end_ids
    assert tokenizer.get_chat_template().count("### Medical Answer:") > 1
