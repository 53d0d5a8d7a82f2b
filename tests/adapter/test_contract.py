"""The prompt contract alone: what it pins, and what it refuses to write, read and accept."""

import copy
import hashlib
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from transformers import PreTrainedTokenizerBase

from app.adapter import contract as contracts
from app.adapter.behaviour import verify_behaviour
from app.engine.model import LoadedModel
from app.errors import ContractViolation
from tests.adapter.test_templates import with_template

# sha256 of the golden conversations' token ids with the tokenizer of Llama-3.2-3B-Instruct, as first computed; they may never change.
GOLDEN_DIGESTS = {
    "medical": "472b9b3f3ebf1753bb6346f97acd34abb1369b4b6811377c26c246909b5da979",
    "llama3": "eb139d94f85466370db50b5d9274170e0d041233b78217d2317ed2f252b35081",
}


@pytest.mark.parametrize("template", GOLDEN_DIGESTS)
def test_golden_prompts_have_the_same_ids_as_ever_with_the_real_tokenizer(llama3_tokenizer: PreTrainedTokenizerBase, template: str) -> None:
    tokenizer = with_template(llama3_tokenizer, template)
    ids = [contracts.prompt_ids(tokenizer, messages) for messages in contracts.GOLDEN_CONVERSATIONS]
    assert hashlib.sha256(json.dumps(ids).encode()).hexdigest() == GOLDEN_DIGESTS[template]


def test_the_demos_golden_prompts_have_the_ids_that_were_trained(loaded: LoadedModel) -> None:
    assert [golden.messages for golden in loaded.contract.golden] == contracts.GOLDEN_CONVERSATIONS
    for golden in loaded.contract.golden:
        assert contracts.prompt_ids(loaded.tokenizer, golden.messages) == golden.prompt_ids
        assert golden.prompt_ids[0] == loaded.tokenizer.bos_token_id


def test_the_demos_template_writes_what_the_one_that_ships_writes(loaded: LoadedModel) -> None:
    shipped = with_template(loaded.tokenizer, "medical")
    answer = {"role": "assistant", "content": "It is 5 < 7.\n# A title"}
    for messages in [*contracts.GOLDEN_CONVERSATIONS, [*contracts.GOLDEN_CONVERSATIONS[0], answer]]:
        texts = [tokenizer.apply_chat_template(messages, tokenize=False) for tokenizer in (loaded.tokenizer, shipped)]
        assert texts[0] == texts[1]


def test_the_end_of_sequence_ids_are_the_tokenizers(loaded: LoadedModel) -> None:
    assert loaded.tokenizer.eos_token_id in loaded.contract.eos_token_ids
    assert loaded.tokenizer.pad_token_id not in loaded.contract.eos_token_ids


def write(folder: Path, loaded: LoadedModel, tokenizer: PreTrainedTokenizerBase) -> contracts.Contract:
    tokenizer.save_pretrained(folder)
    old = loaded.contract
    return contracts.write(
        folder,
        tokenizer,
        old.base,
        golden_nll=old.golden_nll,
        trained_dtype=old.trained_dtype,
        eos_token_ids=old.eos_token_ids,
        context_length=old.context_length,
    )


def test_what_is_written_is_read_back(loaded: LoadedModel, tmp_path: Path) -> None:
    written = write(tmp_path, loaded, loaded.tokenizer)
    assert contracts.read(tmp_path) == written
    contracts.verify_files(written, tmp_path, loaded.tokenizer)


def test_no_contract_is_written_for_a_template_that_lets_special_tokens_through(loaded: LoadedModel, tmp_path: Path) -> None:
    tokenizer = copy.copy(loaded.tokenizer)
    tokenizer.chat_template = "{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}"
    with pytest.raises(ContractViolation, match=r"eot_id.* through when a person types"):
        write(tmp_path, loaded, tokenizer)
    assert not (tmp_path / contracts.FILE_NAME).exists()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b'{"version": 1}', b"\xff\xfe{}", b'{"version": 1, "surprise": true}'])
def test_a_damaged_contract_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / contracts.FILE_NAME).write_bytes(content)
    with pytest.raises(ContractViolation, match="is damaged"):
        contracts.read(tmp_path)


def test_an_unknown_key_is_refused(adapter_copy: Path) -> None:
    path = adapter_copy / contracts.FILE_NAME
    path.write_text(json.dumps(json.loads(path.read_text()) | {"surprise": 1}))
    with pytest.raises(ContractViolation, match="is damaged"):
        contracts.read(adapter_copy)


def test_a_missing_contract_is_refused_with_the_cure(tmp_path: Path) -> None:
    with pytest.raises(ContractViolation, match="finetune train"):
        contracts.read(tmp_path)


def test_another_architecture_is_refused_by_name(loaded: LoadedModel) -> None:
    config = SimpleNamespace(**loaded.contract.base.architecture | {"num_hidden_layers": 99})
    with pytest.raises(ContractViolation, match="num_hidden_layers 99 instead of"):
        contracts.verify_base(loaded.contract, config)


def test_the_probe_tells_an_active_adapter_from_noise(loaded: LoadedModel) -> None:
    probe = verify_behaviour(loaded.contract, loaded.model, loaded.tokenizer, loaded.dtype)
    assert probe.logit_change > 10 * probe.threshold
    assert abs(probe.nll - probe.trained_nll) <= probe.tolerance
    with loaded.model.disable_adapter(), pytest.raises(ContractViolation, match="does not change the model"):
        verify_behaviour(loaded.contract, loaded.model, loaded.tokenizer, loaded.dtype)


def test_other_behaviour_than_in_training_is_refused(loaded: LoadedModel) -> None:
    contract = loaded.contract.model_copy(update={"golden_nll": loaded.contract.golden_nll + 1})
    with pytest.raises(ContractViolation, match="does not behave as in training"):
        verify_behaviour(contract, loaded.model, loaded.tokenizer, loaded.dtype)


@pytest.mark.parametrize(
    ("trained", "served", "allowed"), [("4bit", "bfloat16", 0.3), ("bfloat16", "float32", 0.1), ("float32", "float32", 0.02)]
)
def test_the_tolerance_is_the_wider_of_the_two_dtypes(loaded: LoadedModel, trained: str, served: str, allowed: float) -> None:
    contract = loaded.contract.model_copy(update={"trained_dtype": trained})
    assert verify_behaviour(contract, loaded.model, loaded.tokenizer, served).tolerance == allowed
