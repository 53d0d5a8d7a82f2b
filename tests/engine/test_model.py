"""Opening an adapter: what is opened is what was trained, and anything else is refused with one sentence and the cure."""

import gzip
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from app.adapter import contract as contracts
from app.adapter.base import weights_hash
from app.adapter.directory import find_adapters
from app.adapter.hub import resolve_base
from app.engine.model import LoadedModel, load
from app.errors import AdapterError, AdapterNotFound, ContractViolation, HubUnavailable, UnsafeAdapter, UserError
from app.settings import ROOT
from tests.conftest import assert_is_for_people

Tamper = Callable[[Path], object]


def edit_json(name: str, **changes: Any) -> Tamper:
    def tamper(folder: Path) -> None:
        values = json.loads((folder / name).read_text())
        for key, value in changes.items():
            *parents, last = key.split("__")
            target = values
            for parent in parents:
                target = target[parent]
            target[last] = value
        (folder / name).write_text(json.dumps(values))

    return tamper


def edit_weights(change: Callable[[torch.Tensor], torch.Tensor], kind: str = "lora_B") -> Tamper:
    def tamper(folder: Path) -> None:
        path = folder / "adapter_model.safetensors"
        tensors = load_file(path)
        save_file({name: change(tensor) if kind in name else tensor for name, tensor in tensors.items()}, path, metadata={"format": "pt"})

    return tamper


def cut(name: str) -> Tamper:
    """Keeps the first half of a file, as a broken download does."""

    def tamper(folder: Path) -> None:
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: len(data) // 2])

    return tamper


def remove(name: str) -> Tamper:
    return lambda folder: (folder / name).unlink()


def name_base(identifier: str) -> Tamper:
    def tamper(folder: Path) -> None:
        edit_json("adapter_config.json", base_model_name_or_path=identifier)(folder)
        edit_json("prompt_contract.json", base__id=identifier)(folder)

    return tamper


def random_like(tensor: torch.Tensor) -> torch.Tensor:
    return torch.randn(tensor.shape, generator=torch.Generator().manual_seed(1)).to(tensor.dtype)


REFUSED: dict[str, tuple[Tamper, type[UserError], str]] = {
    "weights zeroed": (edit_weights(torch.zeros_like), ContractViolation, "does not change the model"),
    "weights of another training": (edit_weights(random_like), ContractViolation, "does not behave as in training"),
    "weights not a number": (edit_weights(lambda t: t * float("nan")), ContractViolation, "does not change the model"),
    "weights of another shape": (edit_weights(lambda t: t[:, :8].contiguous()), AdapterError, "do not fit their base"),
    "weights cut off": (cut("adapter_model.safetensors"), AdapterError, "damaged"),
    "weights missing": (remove("adapter_model.safetensors"), AdapterError, "weights are missing"),
    "template changed": (
        lambda folder: (folder / "chat_template.jinja").write_text((folder / "chat_template.jinja").read_text() + "{{- ' ' -}}"),
        ContractViolation,
        "chat_template.jinja differs from training",
    ),
    "template missing": (remove("chat_template.jinja"), ContractViolation, "chat_template.jinja differs from training"),
    "tokenizer changed": (edit_json("tokenizer.json", added_tokens=[]), UserError, "tokenizer"),
    "tokenizer cut off": (cut("tokenizer.json"), AdapterError, "tokenizer"),
    "tokenizer missing": (remove("tokenizer.json"), AdapterError, "tokenizer"),
    "tokenizer configuration changed": (
        edit_json("tokenizer_config.json", bos_token="<|end_of_text|>"),
        ContractViolation,
        "Golden prompt 1 becomes other tokens",
    ),
    "tokenizer configuration damaged": (cut("tokenizer_config.json"), AdapterError, "damaged"),
    "another base in one file": (
        edit_json("adapter_config.json", base_model_name_or_path="somebody/other-base"),
        ContractViolation,
        "adapter_config.json names the base somebody/other-base",
    ),
    "a base that is not there": (name_base("assets/demo/nowhere"), ContractViolation, "assets/demo/nowhere is not there"),
    "a base with an absolute path": (name_base("/srv/models/base"), ContractViolation, "is not there"),
    "a base on a hub that does not answer": (name_base("somebody/base"), HubUnavailable, "did not answer when asked for somebody/base"),
    "a changed base": (
        edit_json("prompt_contract.json", base__revision="sha256:0123456789abcdef"),
        ContractViolation,
        "was changed since training",
    ),
    "another architecture": (
        edit_json("prompt_contract.json", base__architecture__num_hidden_layers=99),
        ContractViolation,
        "instead of 99",
    ),
    "contract damaged": (cut("prompt_contract.json"), ContractViolation, "is damaged"),
    "contract missing": (remove("prompt_contract.json"), ContractViolation, "has no prompt_contract.json"),
    "adapter configuration damaged": (cut("adapter_config.json"), AdapterError, "damaged"),
    "adapter configuration missing": (remove("adapter_config.json"), AdapterError, "is no adapter"),
    "another kind of adapter": (edit_json("adapter_config.json", peft_type="PREFIX_TUNING"), AdapterError, "opens LoRA adapters|damaged"),
    "an unknown kind of adapter": (edit_json("adapter_config.json", peft_type="SURPRISE"), AdapterError, "damaged"),
    "provenance damaged": (cut("run.json"), AdapterError, "run.json is damaged"),
    "cards damaged": (cut("training_cards.jsonl.gz"), AdapterError, "training_cards.jsonl.gz is damaged"),
    "cards of the wrong form": (
        lambda folder: (folder / "training_cards.jsonl.gz").write_bytes(gzip.compress(b'{"id": 1}\n')),
        AdapterError,
        "training_cards.jsonl.gz is damaged",
    ),
    "a pickle beside the weights": (
        lambda folder: (folder / "adapter_model.bin").write_bytes(b"\x80\x04."),
        UnsafeAdapter,
        "adapter_model.bin",
    ),
    "a checkpoint in pickle form": (
        lambda folder: (folder / "training_args.pt").write_bytes(b"\x80\x04."),
        UnsafeAdapter,
        "training_args.pt",
    ),
}


@pytest.mark.filterwarnings("ignore:Unexpected keyword arguments:UserWarning")  # PEFT, to whom LoRA's words are strange in another kind
@pytest.mark.parametrize("tampering", REFUSED)
def test_an_adapter_that_is_not_what_was_trained_is_refused(adapter_copy: Path, tampering: str) -> None:
    tamper, kind, text = REFUSED[tampering]
    tamper(adapter_copy)
    with pytest.raises(kind, match=text) as caught:
        load(str(adapter_copy), "cpu")
    assert_is_for_people(caught.value)


@pytest.mark.parametrize(
    ("name", "kind", "text"),
    [
        ("outputs/nowhere", AdapterNotFound, "no adapter folder outputs/nowhere"),
        ("nowhere", AdapterNotFound, "no adapter folder"),
        ("/nowhere/at/all", AdapterNotFound, "no adapter folder"),
        ("two words/and more", AdapterNotFound, "Check the spelling"),
        ("somebody/an-adapter", HubUnavailable, "did not answer"),
        ("somebody/an-adapter@v1", HubUnavailable, "did not answer"),
        ("assets", AdapterError, "is no adapter"),
        ("", AdapterError, "no adapter"),
        ("x" * 5000, AdapterNotFound, "no adapter folder"),
        ("a\x00b", AdapterNotFound, "no adapter folder"),
    ],
)
def test_a_name_that_leads_to_no_adapter_is_refused(name: str, kind: type[UserError], text: str) -> None:
    with pytest.raises(kind, match=text) as caught:
        load(name, "cpu")
    assert_is_for_people(caught.value)


def test_the_untouched_copy_opens(adapter_copy: Path, loaded: LoadedModel) -> None:
    again = load(str(adapter_copy), "cpu")
    assert again.adapter_revision == loaded.adapter_revision
    assert again.base_revision == loaded.base_revision
    assert again.probe.logit_change == pytest.approx(loaded.probe.logit_change, rel=1e-3)


def test_switched_off_the_adapter_leaves_exactly_the_base(loaded: LoadedModel, adapter_copy: Path) -> None:
    folder = resolve_base(loaded.base, adapter_copy)
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids = torch.tensor([loaded.contract.golden[0].prompt_ids])
    with torch.inference_mode():
        expected = base(input_ids=ids).logits
        tuned = loaded.model(input_ids=ids).logits
        with loaded.model.disable_adapter():
            off = loaded.model(input_ids=ids).logits
    torch.testing.assert_close(off, expected)
    assert not torch.allclose(tuned, expected, atol=1e-2)


def test_base_and_adapter_compute_in_one_dtype_without_dropout(loaded: LoadedModel) -> None:
    assert {parameter.dtype for parameter in loaded.model.parameters()} == {torch.float32}
    assert not loaded.model.training


@pytest.fixture
def with_own_base(adapter_copy: Path) -> Path:
    """An adapter copy that carries its base, at the place below the adapter directory that the contract names."""
    identifier = contracts.read(adapter_copy).base.id
    if not (adapter_copy / identifier).is_dir():
        shutil.copytree(ROOT / identifier, adapter_copy / identifier)
    return adapter_copy / identifier


def test_the_base_beside_the_adapter_comes_first(with_own_base: Path, adapter_copy: Path) -> None:
    path = with_own_base / "model.safetensors"
    save_file({name: -tensor for name, tensor in load_file(path).items()}, path, metadata={"format": "pt"})
    with pytest.raises(ContractViolation, match="was changed since training"):
        load(str(adapter_copy), "cpu")


def test_the_current_folder_never_decides_which_base_is_opened(
    loaded: LoadedModel, with_own_base: Path, adapter_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoy = tmp_path / "elsewhere" / loaded.base
    shutil.copytree(with_own_base, decoy)
    (decoy / "model.safetensors").write_bytes(b"")
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert load(str(adapter_copy), "cpu").base_revision == loaded.base_revision


@pytest.mark.parametrize("damage", ["cut off", "missing", "only a pickle", "configuration damaged"])
def test_a_damaged_base_is_refused(with_own_base: Path, adapter_copy: Path, damage: str) -> None:
    weights = with_own_base / "model.safetensors"
    if damage == "cut off":
        cut("model.safetensors")(with_own_base)
    elif damage == "configuration damaged":
        cut("config.json")(with_own_base)
    else:
        weights.unlink()
    if damage == "only a pickle":
        torch.save({}, with_own_base / "pytorch_model.bin")
    edit_json("prompt_contract.json", base__revision=None)(adapter_copy)
    with pytest.raises(AdapterError, match="damaged or incomplete") as caught:
        load(str(adapter_copy), "cpu")
    assert_is_for_people(caught.value)


def test_any_changed_byte_changes_a_folders_revision(with_own_base: Path) -> None:
    before = weights_hash(with_own_base)
    edit_json("config.json", rms_norm_eps=1e-5)(with_own_base)
    assert weights_hash(with_own_base) != before


def test_an_adapter_without_cards_or_provenance_opens(adapter_copy: Path) -> None:
    for name in ("training_cards.jsonl.gz", "run.json"):
        (adapter_copy / name).unlink(missing_ok=True)
    opened = load(str(adapter_copy), "cpu")
    assert opened.cards == [] and opened.run == {}


def test_adapters_in_a_folder_are_found_newest_first(tmp_path: Path) -> None:
    assert find_adapters(tmp_path / "nowhere") == []
    for age, name in enumerate(("new", "old")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "adapter_config.json").write_text("{}")
        os.utime(tmp_path / name, (1e9 - age, 1e9 - age))
    (tmp_path / "half").mkdir()
    assert [Path(name).name for name in find_adapters(tmp_path)] == ["new", "old"]


@pytest.mark.parametrize(
    ("base", "demo", "llama"),
    [
        ("assets/demo/base", True, False),
        ("unsloth/Llama-3.2-3B-Instruct-bnb-4bit", False, True),
        ("meta-llama/Llama-3.2-3B-Instruct", False, True),
        ("Qwen/Qwen3-4B", False, False),
        ("TinyLlama/TinyLlama-1.1B-Chat-v1.0", False, False),
    ],
)
def test_the_page_can_say_what_kind_of_base_it_is(loaded: LoadedModel, base: str, demo: bool, llama: bool) -> None:
    model = replace(loaded, base=base)
    assert (model.is_demo, model.built_with_llama) == (demo, llama)
    assert replace(model, run={"built_with_llama": not llama}).built_with_llama is not llama, "what training found counts"


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"), RuntimeError("CUDA error: out of memory")]
)
def test_a_base_that_finds_no_memory_is_one_sentence(adapter: str, monkeypatch: pytest.MonkeyPatch, error: RuntimeError) -> None:
    monkeypatch.setattr("app.engine.model.open_base", mock.Mock(side_effect=error))
    with pytest.raises(AdapterError) as raised:
        load(adapter)
    assert_is_for_people(raised.value)
    assert "does not fit" in str(raised.value)
