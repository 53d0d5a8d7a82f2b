"""The prompt contract alone: what it pins, and what it refuses to write, read and accept."""

import copy
import hashlib
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import PreTrainedTokenizerBase

from app.adapter import contract as contracts
from app.adapter.behaviour import Probe, golden_nll, verify_behaviour
from app.engine.model import LoadedModel
from app.errors import ContractViolation
from tests.adapter.test_templates import with_template
from tests.conftest import assert_is_for_people

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


def test_the_contract_holds_what_was_measured_and_the_files_digests(loaded: LoadedModel, tmp_path: Path) -> None:
    written = write(tmp_path, loaded, loaded.tokenizer)
    for name, digest in (("chat_template.jinja", written.template_sha256), ("tokenizer.json", written.tokenizer_sha256)):
        assert hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() == digest
    assert written == loaded.contract.model_copy(update={"template_sha256": written.template_sha256})
    text = (tmp_path / "prompt_contract.json").read_text(encoding="utf-8")
    assert json.loads(text)["golden_answer"].startswith("Common symptoms of diabetes") and text.startswith('{\n "version": 1,\n')
    assert text.endswith("}\n") and "\u03b2-blocker" in text


@pytest.mark.parametrize("name", ["chat_template.jinja", "tokenizer.json"])
def test_files_other_than_the_trained_ones_are_refused_by_name_and_digest(loaded: LoadedModel, tmp_path: Path, name: str) -> None:
    written = write(tmp_path, loaded, loaded.tokenizer)
    trained = hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes() + b" ")
    here = hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()
    for digest in (f"sha256 {here[:12]}", "sha256 no file"):
        with pytest.raises(ContractViolation) as refused:
            contracts.verify_files(written, tmp_path, loaded.tokenizer)
        assert str(refused.value) == (
            f"{name} differs from training: {digest} here, {trained[:12]} in the contract. "
            "Restore the file that was trained with, or train anew."
        )
        (tmp_path / name).unlink(missing_ok=True)


def test_a_golden_prompt_of_other_tokens_is_refused_by_its_number(loaded: LoadedModel, tmp_path: Path) -> None:
    written = write(tmp_path, loaded, loaded.tokenizer)
    second = written.golden[1].model_copy(update={"prompt_ids": [*written.golden[1].prompt_ids, 7]})
    changed = written.model_copy(update={"golden": [written.golden[0], second, written.golden[2]]})
    with pytest.raises(ContractViolation) as refused:
        contracts.verify_files(changed, tmp_path, loaded.tokenizer)
    length = len(written.golden[1].prompt_ids)
    assert str(refused.value) == (
        f"Golden prompt 2 becomes other tokens here ({length}) than in training ({length + 1}). "
        "Restore tokenizer and template, and install the versions of constraints.txt."
    )


def test_a_contract_whose_ends_lack_the_trained_one_is_neither_written_nor_accepted(loaded: LoadedModel, tmp_path: Path) -> None:
    written = write(tmp_path, loaded, loaded.tokenizer)
    without = written.model_copy(update={"eos_token_ids": [999]})
    for refuse in (
        lambda: contracts.verify_files(without, tmp_path, loaded.tokenizer),
        lambda: write(tmp_path, replace(loaded, contract=without), loaded.tokenizer),
    ):
        with pytest.raises(ContractViolation) as refused:
            refuse()
        assert str(refused.value) == (
            "Answers were trained to end with <|eot_id|>, and the tokens that end an answer are [999]: no answer would ever end. "
            "Train anew with a template that ends answers with a special token."
        )


def test_a_template_that_ends_answers_with_nothing_is_refused(loaded: LoadedModel, tmp_path: Path) -> None:
    tokenizer = copy.copy(loaded.tokenizer)
    tokenizer.chat_template = tokenizer.chat_template.replace("~ eos_token", "")
    with pytest.raises(ContractViolation, match="Answers were trained to end with nothing, and the tokens that end an answer are"):
        write(tmp_path, loaded, tokenizer)


LETS_THROUGH = {
    # An answer's text, which comes back as the history of a chat.
    "answers": (
        "{% for m in messages %}{{ m.content | replace('<', '') if m.role == 'user' else m.content }}{% endfor %}",
        "lets <|begin_of_text|>, <|end_header_id|>, <|end_of_text|>, <|eot_id|>,",
    ),
    # The last of two alike, which the template itself writes too.
    "as many as there are": (
        "{% for m in messages %}{{ m.content | replace('<|s', '') | replace('<|b', '') | replace('<|end', '') | replace('<|p', '') "
        "| replace('<|f', '') | replace('<|r', '') }}<|eot_id|>{% endfor %}",
        "lets special tokens through when a person types them.",
    ),
}


@pytest.mark.parametrize("case", LETS_THROUGH)
def test_special_tokens_are_refused_wherever_a_template_lets_them_through(loaded: LoadedModel, tmp_path: Path, case: str) -> None:
    tokenizer = copy.copy(loaded.tokenizer)
    tokenizer.chat_template, complaint = LETS_THROUGH[case]
    with pytest.raises(ContractViolation) as refused:
        write(tmp_path, loaded, tokenizer)
    assert complaint in str(refused.value)
    assert str(refused.value).endswith(" through when a person types them. Neutralise them in the template's plain macro.")
    assert_is_for_people(refused.value)


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
    with pytest.raises(ContractViolation) as refused:
        contracts.read(tmp_path)
    assert str(refused.value) == (
        f"{tmp_path.name} has no prompt_contract.json, so nothing says how its prompts were built. "
        "Train it with `python -m finetune train`, which writes one."
    )


def test_a_damaged_contract_is_named_with_what_is_wrong_in_it(tmp_path: Path) -> None:
    (tmp_path / "prompt_contract.json").write_text('{"version": 1}')
    with pytest.raises(ContractViolation) as refused:
        contracts.read(tmp_path)
    cure = "Fetch the adapter again or train it anew."
    assert str(refused.value) == f"prompt_contract.json in {tmp_path.name} is damaged (Field required). {cure}"


def test_another_architecture_is_refused_by_name(loaded: LoadedModel) -> None:
    trained = loaded.contract.base.architecture
    contracts.verify_base(loaded.contract, SimpleNamespace(**trained))
    config = SimpleNamespace(**trained | {"num_hidden_layers": 99})
    del config.vocab_size
    with pytest.raises(ContractViolation) as refused:
        contracts.verify_base(loaded.contract, config)
    assert str(refused.value) == (
        f"The base model differs from the trained one: num_hidden_layers 99 instead of {trained['num_hidden_layers']}; "
        f"vocab_size None instead of {trained['vocab_size']}. Open the base that the contract names: {loaded.contract.base.id}."
    )
    assert set(trained) == set(contracts.ARCHITECTURE_KEYS)


def test_a_bases_quantisation_is_what_decides_the_values_of_four_bit_weights() -> None:
    four = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True, "bnb_4bit_compute_dtype": "bfloat16"}
    kept = {
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": True,
        "bnb_4bit_quant_storage": None,
        "llm_int8_skip_modules": None,
    }
    for found in (four, SimpleNamespace(to_dict=lambda: four)):
        assert contracts.quantisation(SimpleNamespace(quantization_config=found)) == kept
    for config in (
        SimpleNamespace(),
        SimpleNamespace(quantization_config=None),
        SimpleNamespace(quantization_config={"load_in_8bit": True}),
        SimpleNamespace(quantization_config=SimpleNamespace(to_dict=lambda: {"load_in_4bit": False})),
    ):
        assert contracts.quantisation(config) is None


def test_the_probe_tells_an_active_adapter_from_noise(loaded: LoadedModel) -> None:
    probe = verify_behaviour(loaded.contract, loaded.model, loaded.tokenizer, loaded.dtype)
    assert probe.logit_change > 10 * probe.threshold
    assert abs(probe.nll - probe.trained_nll) <= probe.tolerance
    with loaded.model.disable_adapter(), pytest.raises(ContractViolation, match="does not change the model"):
        verify_behaviour(loaded.contract, loaded.model, loaded.tokenizer, loaded.dtype)


def test_the_probe_measures_how_far_the_adapter_moves_the_last_logits(loaded: LoadedModel) -> None:
    ids = torch.tensor([loaded.contract.golden[0].prompt_ids])
    with torch.inference_mode():
        on = loaded.model(input_ids=ids).logits[0, -1]
        with loaded.model.disable_adapter():
            off = loaded.model(input_ids=ids).logits[0, -1]
    probe = verify_behaviour(loaded.contract, loaded.model, loaded.tokenizer, loaded.dtype)
    assert probe.logit_change == pytest.approx(math.dist(on.tolist(), off.tolist()) / math.hypot(*off.tolist()), rel=1e-3)
    assert probe.threshold == {"float32": 1e-5, "float16": 4e-3, "bfloat16": 2e-2}[loaded.dtype]
    assert (probe.nll, probe.trained_nll) == (probe.nll, loaded.contract.golden_nll)


def test_the_golden_answers_nll_is_the_mean_over_its_tokens_and_its_end(loaded: LoadedModel) -> None:
    prompt = contracts.GOLDEN_CONVERSATIONS[0]
    start = len(contracts.prompt_ids(loaded.tokenizer, prompt))
    whole = loaded.tokenizer.apply_chat_template([*prompt, {"role": "assistant", "content": contracts.GOLDEN_ANSWER}], return_dict=True)[
        "input_ids"
    ]
    with torch.inference_mode():
        chances = loaded.model(input_ids=torch.tensor([whole])).logits[0].float().log_softmax(-1)
    losses = [-float(chances[place - 1, whole[place]]) for place in range(start, len(whole))]
    assert whole[-1] in loaded.contract.eos_token_ids
    expected = sum(losses) / len(losses)
    assert golden_nll(loaded.model, loaded.tokenizer) == pytest.approx(expected, rel=1e-2)
    probe = verify_behaviour(loaded.contract, loaded.model, loaded.tokenizer, loaded.dtype)
    assert probe.nll == golden_nll(loaded.model, loaded.tokenizer)
    other = loaded.contract.model_copy(update={"golden_answer": "Gout hurts."})
    with pytest.raises(ContractViolation, match="does not behave as in training"):
        verify_behaviour(other, loaded.model, loaded.tokenizer, loaded.dtype)


class Paper(torch.nn.Module):
    """Stands for a model whose logits and loss are known: (3, 4) with the adapter off, and `on` with it."""

    def __init__(self, on: tuple[float, float], loss: float, dtype: torch.dtype) -> None:
        super().__init__()
        self.on, self.loss, self.active = on, loss, True
        self.dtype = dtype
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, input_ids: torch.Tensor, labels: torch.Tensor | None = None, use_cache: bool = True) -> SimpleNamespace:
        assert input_ids.shape[0] == 1 and use_cache is False
        last = torch.tensor(self.on if self.active else (3.0, 4.0))
        logits = torch.cat([torch.full((1, input_ids.shape[1] - 1, 2), 9.0), last.view(1, 1, 2)], dim=1)
        return SimpleNamespace(logits=logits, loss=torch.tensor(self.loss))

    @contextmanager
    def disable_adapter(self) -> Iterator[None]:
        self.active = False
        yield
        self.active = True


@pytest.mark.parametrize(
    ("dtype", "threshold"), [(torch.float32, 1e-5), (torch.float16, 4e-3), (torch.bfloat16, 2e-2), (torch.float64, 2e-2)]
)
def test_an_adapter_must_move_the_logits_by_more_than_its_dtypes_noise(loaded: LoadedModel, dtype: torch.dtype, threshold: float) -> None:
    contract = loaded.contract.model_copy(update={"golden_nll": 2.0, "trained_dtype": "float32"})

    def change(by: float) -> Probe:
        return verify_behaviour(contract, Paper((3.0, 4.0 + 5 * by), 2.0, dtype), loaded.tokenizer, "float32")

    found = change(1.05 * threshold)
    assert (found.logit_change, found.threshold) == (pytest.approx(1.05 * threshold, rel=1e-2), threshold)
    assert (found.nll, found.trained_nll, found.tolerance) == (2.0, 2.0, 0.02)
    for by in (0.95 * threshold, 0.0, math.nan):
        with pytest.raises(ContractViolation) as refused:
            change(by)
        assert str(refused.value).startswith("The adapter does not change the model: the golden prompt's logits move by ")
        assert str(refused.value).endswith(
            f", noise is up to {threshold:.0e}. Its weights are empty or do not belong to this base; train it again or choose another."
        )


@pytest.mark.parametrize(
    ("trained", "served", "allowed"), [("float32", "float32", 0.02), ("float16", "float32", 0.05), ("strange", "float32", 0.1),
                                       ("float32", "strange", 0.1), ("float32", "4bit", 0.3)]
)  # fmt: skip
def test_the_golden_answer_must_be_as_likely_as_in_training_up_to_the_tolerance(
    loaded: LoadedModel, trained: str, served: str, allowed: float
) -> None:
    contract = loaded.contract.model_copy(update={"golden_nll": 2.0, "trained_dtype": trained})

    def behave(nll: float) -> Probe:
        return verify_behaviour(contract, Paper((1.0, 1.0), nll, torch.float32), loaded.tokenizer, served)

    for sign in (1, -1):
        assert behave(2 + sign * allowed * 0.99).tolerance == allowed
        with pytest.raises(ContractViolation) as refused:
            behave(2 + sign * allowed * 1.02)
        assert str(refused.value) == (
            f"The model does not behave as in training: the golden answer's mean NLL is {2 + sign * allowed * 1.02:.3f} here and 2.000 in "
            f"the contract (allowed difference {allowed}). The base or the adapter weights differ; fetch both again."
        )
    with pytest.raises(ContractViolation, match="mean NLL is nan here"):
        behave(math.nan)


def test_four_bits_opened_in_sixteen_are_held_to_what_training_measured_for_that(
    loaded: LoadedModel, caplog: pytest.LogCaptureFixture
) -> None:
    measured = {"golden_nll": 2.0, "trained_dtype": "4bit", "unquantised_nll": 1.8}
    contract = loaded.contract.model_copy(update=measured)

    def behave(nll: float, served: str, of: contracts.Contract = contract) -> Probe:
        return verify_behaviour(of, Paper((1.0, 1.0), nll, torch.float32), loaded.tokenizer, served)

    for served, allowed in (("bfloat16", 0.1), ("float32", 0.1), ("float16", 0.1), ("strange", 0.1)):
        caplog.clear()
        found = behave(1.8 + 0.99 * allowed, served)
        assert (found.trained_nll, found.expected_nll, found.tolerance) == (2.0, 1.8, allowed)
        (said,) = caplog.messages
        assert said == (
            "The adapter was trained on its base in 4 bits and is opened on 16-bit weights: the golden answer's mean NLL is "
            f"{1.8 + 0.99 * allowed:.3f} here and was 2.000 in training. A GPU opens it as it was trained."
        )
        with pytest.raises(ContractViolation) as refused:
            behave(1.8 + 1.05 * allowed, served)
        assert str(refused.value) == (
            f"The model does not behave as in training: the golden answer's mean NLL is {1.8 + 1.05 * allowed:.3f} here and 1.800 in the "
            f"contract (allowed difference {allowed}). The base or the adapter weights differ; fetch both again."
        )
    caplog.clear()
    assert (behave(2.29, "4bit").expected_nll, behave(2.29, "4bit").tolerance) == (2.0, 0.3)
    assert caplog.messages == []
    older = contract.model_copy(update={"unquantised_nll": None})
    assert behave(2.29, "bfloat16", older).expected_nll == 2.0
    for served, told in (
        ("bfloat16", "Open it on a GPU, as it was trained, or train it with load_in_4bit=false."),
        ("4bit", "fetch both again."),
    ):
        with pytest.raises(ContractViolation) as refused:
            behave(2.4, served, older)
        assert str(refused.value).endswith(told) and "2.400" in str(refused.value) and "(allowed difference 0.3)" in str(refused.value)
    with pytest.raises(
        ContractViolation, match=r"^The adapter was trained on its base in 4 bits, and on the 16-bit weights .* 2\.400 instead of 2\.000"
    ):
        behave(2.4, "float32", older)


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
