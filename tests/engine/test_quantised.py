"""An adapter whose base training quantised while opening it: a card opens that base in the same way, a CPU on the weights of the files."""

import json
import logging
import os
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from bitsandbytes.nn import Linear4bit
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

from app.adapter import contract as contracts
from app.adapter.behaviour import golden_nll
from app.engine.model import _quantisation, dtype_name, load, put_adapter
from app.errors import ContractViolation
from app.page.fragments import model_facts
from app.settings import DEMO_ADAPTER, ROOT
from finetune.training.unquantised import measure, measure_beside
from tests.conftest import assert_is_for_people
from tests.engine.test_model import edit_json

BASE = ROOT / "assets" / "demo" / "base"
# As Unsloth opens a base in 16 bits with load_in_4bit; float16 is one of the things that a card may compute in.
SETTINGS = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True, "bnb_4bit_compute_dtype": "float16"}


def nll_of(directory: Path, base: Any) -> float:
    """The golden answer's NLL of an adapter on a base in 4 bits."""
    model = put_adapter("trained", directory, "default", base)
    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.train()  # else some CPUs take a kernel that wants sizes divisible by 64, and rounds
    return golden_nll(model, AutoTokenizer.from_pretrained(directory))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter as training in 4 bits leaves it: bitsandbytes quantises the demo base, and the contract is measured on that."""
    directory = Path(shutil.copytree(ROOT / DEMO_ADAPTER, tmp_path_factory.mktemp("quantised") / "adapter"))
    contract = contracts.read(directory)
    dtype = torch.float32
    base = AutoModelForCausalLM.from_pretrained(
        BASE, dtype=dtype, quantization_config=BitsAndBytesConfig(**SETTINGS | {"bnb_4bit_compute_dtype": dtype}), device_map={"": "cpu"}
    )
    assert dtype_name(base) == "4bit"
    nll = nll_of(directory, base)
    assert abs(nll - contract.golden_nll) > 1e-4, "4 bits are not 16"
    of_base = contract.base.model_copy(update={"quantisation": contracts.quantisation(base.config)})
    contracts.save(contract.model_copy(update={"base": of_base, "golden_nll": nll, "trained_dtype": "4bit"}), directory)
    return directory


@pytest.fixture
def copy(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "copy"))


def test_a_card_quantises_the_base_as_training_did(trained: Path) -> None:
    """What would be handed to transformers on a card is handed to it here, where bitsandbytes is slower and says the same."""
    contract = contracts.read(trained)
    found = _quantisation(contract, AutoConfig.from_pretrained(BASE), torch.float32, "cuda")
    assert found is not None and found.bnb_4bit_compute_dtype == torch.float32
    assert contracts.quantisation(SimpleNamespace(quantization_config=found)) == contract.base.quantisation
    base = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32, quantization_config=found, device_map={"": "cpu"})
    assert nll_of(trained, base) == pytest.approx(contract.golden_nll, abs=1e-4)


def test_files_that_are_quantised_are_opened_as_they_are(trained: Path) -> None:
    config = AutoConfig.from_pretrained(BASE)
    config.quantization_config = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    assert _quantisation(contracts.read(trained), config, torch.bfloat16, "cuda") is None
    assert _quantisation(contracts.read(ROOT / DEMO_ADAPTER), AutoConfig.from_pretrained(BASE), torch.bfloat16, "cuda") is None


def test_a_cpu_opens_the_weights_of_the_files_with_what_training_measured_for_them(copy: Path, caplog: pytest.LogCaptureFixture) -> None:
    before = contracts.read(copy)
    nll = measure(copy, BASE)
    after = contracts.read(copy)
    assert after == before.model_copy(update={"unquantised_nll": nll})
    edit_json("prompt_contract.json", golden_nll=nll - 0.347)(copy)  # as far as SmolLM2's lay apart
    with caplog.at_level(logging.WARNING, logger="app"):
        opened = load(str(copy), "cpu")
    assert (opened.dtype, opened.probe.expected_nll) == ("float32", nll)
    assert opened.probe.nll == pytest.approx(nll, abs=1e-3)
    assert "in 4 bits and is opened on 16-bit weights" in caplog.text
    assert "the base in 4 bits; here its 16-bit weights" in model_facts(opened)
    edit_json("prompt_contract.json", unquantised_nll=nll + 0.2)(copy)
    with pytest.raises(ContractViolation, match="does not behave as in training"):
        load(str(copy), "cpu")


def test_without_a_measurement_a_cpu_opens_what_lies_near_and_refuses_the_rest_in_a_sentence(copy: Path) -> None:
    assert load(str(copy), "cpu").probe.tolerance == 0.3
    edit_json("prompt_contract.json", golden_nll=contracts.read(copy).golden_nll + 0.5)(copy)
    with pytest.raises(ContractViolation, match="trained on its base in 4 bits.*on a GPU.*load_in_4bit=false") as caught:
        load(str(copy), "cpu")
    assert_is_for_people(caught.value)


def test_a_measurement_beside_training_that_fails_leaves_the_contract_as_it_was(
    copy: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = (copy / contracts.FILE_NAME).read_bytes()
    with caplog.at_level(logging.INFO):
        measure_beside(copy, tmp_path / "nowhere")
    assert "That failed (status 1)" in caplog.text
    assert (copy / contracts.FILE_NAME).read_bytes() == before
    assert not [name for name in os.listdir(copy) if name.endswith(".partial")]


def test_an_adapter_trained_on_the_weights_of_the_files_says_nothing_of_it(loaded) -> None:
    assert "4 bits" not in model_facts(loaded)
    assert "trained on" not in model_facts(replace(loaded, dtype="bfloat16"))
    assert json.loads((ROOT / DEMO_ADAPTER / contracts.FILE_NAME).read_text())["trained_dtype"] != "4bit"
