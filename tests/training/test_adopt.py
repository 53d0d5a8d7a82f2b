"""Adapters that were not trained here: what PEFT saved becomes an adapter directory, or is refused with a sentence."""

import hashlib
import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from app.adapter import contract as contracts
from app.engine.model import load
from app.errors import UserError
from app.page.fragments import model_line
from app.settings import DEMO_ADAPTER, ROOT
from finetune.training.adopt import Options, adopt
from tests.conftest import assert_is_for_people
from tests.engine.test_model import edit_json

BASE = ROOT / "assets" / "demo" / "base"
MEDICAL = Options(template="medical", base=str(BASE))


def foreign(folder: Path, scale: float = 0.2, **settings: Any) -> Path:
    """What PEFT's save_pretrained leaves of a LoRA whose matrices are random, as a stranger's base path stands in it."""
    torch.manual_seed(0)
    options = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj", "down_proj"], "task_type": "CAUSAL_LM"} | settings
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32), LoraConfig(**options))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=scale)
    model.save_pretrained(folder)
    edit_json("adapter_config.json", base_model_name_or_path="/home/stranger/models/base")(folder)
    return folder


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "rsLoRA": {"use_rslora": True},
    "ranks by pattern": {"rank_pattern": {"layers.0.self_attn.q_proj": 2}, "alpha_pattern": {"down_proj": 3}},
    "all linear layers": {"target_modules": "all-linear"},
    "some layers": {"layers_to_transform": [1], "layers_pattern": "layers"},
    "DoRA": {"use_dora": True},
    "whole layers": {"modules_to_save": ["norm"]},
    "embedding": {"target_modules": ["embed_tokens", "q_proj"]},
    "single tokens": {"trainable_token_indices": [5, 6]},
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_peft_saved_becomes_an_adapter_that_the_app_opens(tmp_path: Path, kind: str) -> None:
    source = foreign(tmp_path / "theirs", **KINDS[kind])
    before = digests(source)
    output = adopt(str(source), Options("medical", str(BASE), output=tmp_path / "ours"))
    assert digests(source) == before and output == tmp_path / "ours"
    opened = load(str(output), "cpu")
    assert opened.probe.nll == pytest.approx(opened.contract.golden_nll, abs=1e-4) and opened.probe.logit_change > 1e-3
    opened.warm_up()  # compares the decoder with the model
    assert (opened.decoder is None) == (kind in ("DoRA", "whole layers", "embedding", "single tokens"))
    assert (opened.contract.origin, opened.base) == ("elsewhere", "assets/demo/base")
    assert "Trained elsewhere, prompt format stated by its owner" in model_line(opened)
    assert not [path.name for path in output.iterdir() if b"stranger" in path.read_bytes() or str(tmp_path).encode() in path.read_bytes()]


def test_into_its_own_folder_only_where_that_is_asked_for(tmp_path: Path) -> None:
    source = foreign(tmp_path / "theirs")
    weights = (source / "adapter_model.safetensors").read_bytes()
    adopt(str(source), Options("medical", str(BASE), output=source))
    assert (source / "adapter_model.safetensors").read_bytes() == weights
    assert load(str(source), "cpu").contract.origin == "elsewhere"


def test_a_checkpoint_of_ours_knows_its_format_and_base(tmp_path: Path) -> None:
    checkpoint = tmp_path / "mine" / "checkpoints" / "checkpoint-20"
    shutil.copytree(ROOT / DEMO_ADAPTER, checkpoint, ignore=shutil.ignore_patterns("prompt_contract.json", "run.json", "*.gz"))
    (checkpoint / "optimizer.pt").write_bytes(b"a pickle that stays where it is")
    (checkpoint.parent / "config.yaml").write_text(json.dumps({"base": "assets/demo/base", "template": "llama3", "max_length": 300}))
    opened = load(str(adopt(str(checkpoint), Options(output=tmp_path / "adopted"))), "cpu")
    assert (opened.contract.origin, opened.contract.context_length, opened.run["config"]["template"]) == ("checkpoint", 300, "llama3")
    assert "A checkpoint from the middle of a training" in model_line(opened)
    assert (checkpoint / "optimizer.pt").exists()


def weights(change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Callable[[Path], object]:
    def spoil(folder: Path) -> None:
        path = folder / "adapter_model.safetensors"
        save_file(change(load_file(path)), path, metadata={"format": "pt"})

    return spoil


def in_pickle_form(folder: Path) -> None:
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")


REFUSED: dict[str, tuple[Callable[[Path], object], Options, str]] = {
    "no template": (lambda folder: None, Options(base=str(BASE)), "State it with --template: native"),
    "an unknown template": (lambda folder: None, Options("alpaca", str(BASE)), "template = 'alpaca' is not allowed"),
    "a base of another machine": (lambda folder: None, Options("medical"), "no base model in the folder /home/stranger"),
    "no base": (edit_json("adapter_config.json", base_model_name_or_path=None), Options("medical"), "State it with --base"),
    "pickles": (in_pickle_form, MEDICAL, "Weights in pickle form"),
    "no configuration": (lambda folder: (folder / "adapter_config.json").unlink(), MEDICAL, "has no adapter_config.json"),
    "a damaged configuration": (lambda folder: (folder / "adapter_config.json").write_text("{"), MEDICAL, "is damaged"),
    "another method": (edit_json("adapter_config.json", peft_type="IA3"), MEDICAL, "IA3 adapter|is damaged"),
    "PiSSA": (edit_json("adapter_config.json", init_lora_weights="pissa"), MEDICAL, "changes its base.*pissa"),
    "trained biases": (edit_json("adapter_config.json", bias="all"), MEDICAL, "changes its base.*bias"),
    "repeated layers": (edit_json("adapter_config.json", layer_replication=[[0, 1], [0, 1]]), MEDICAL, "changes its base.*replication"),
    "weights of nothing": (weights(lambda found: {name: torch.zeros_like(t) for name, t in found.items()}), MEDICAL, "does not change"),
    "weights of another base": (weights(lambda found: {name: t[:, :-1].clone() for name, t in found.items()}), MEDICAL, "do not fit"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_adopted_is_refused_in_a_sentence_and_leaves_nothing(tmp_path: Path, case: str) -> None:
    spoil, options, text = REFUSED[case]
    source = foreign(tmp_path / "theirs")
    spoil(source)
    before = digests(source)
    with pytest.raises(UserError, match=text) as caught:
        adopt(str(source), Options(options.template, options.base, output=tmp_path / "ours"))
    assert_is_for_people(caught.value)
    assert digests(source) == before and sorted(path.name for path in tmp_path.iterdir()) == ["theirs"]


@pytest.mark.parametrize(("place", "text"), [("nowhere", "no folder"), ("in use", "in use"), ("theirs/inside", "inside of the adapter")])
def test_places_that_cannot_be_used_are_refused(tmp_path: Path, place: str, text: str) -> None:
    source = foreign(tmp_path / "theirs")
    (tmp_path / "in use").mkdir()
    (tmp_path / "in use" / "notes.txt").write_text("mine")
    name = str(tmp_path / place) if place == "nowhere" else str(source)
    with pytest.raises(UserError, match=text) as caught:
        adopt(name, Options("medical", str(BASE), output=tmp_path / place))
    assert_is_for_people(caught.value)


def test_a_tokenizer_that_knows_more_than_the_bases_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = foreign(tmp_path / "theirs")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(BASE / name, source / name)
    tokens = json.loads((source / "tokenizer.json").read_text())
    tokens["added_tokens"].append(tokens["added_tokens"][-1] | {"id": len(tokens["model"]["vocab"]) + 500, "content": "<|theirs|>"})
    (source / "tokenizer.json").write_text(json.dumps(tokens))
    with caplog.at_level(logging.WARNING):
        adopt(str(source), Options("medical", str(BASE), output=tmp_path / "ours"))
    assert "tokens that its base does not know, such as <|theirs|>" in caplog.text
    assert contracts.read(tmp_path / "ours").base.revision == contracts.read(ROOT / DEMO_ADAPTER).base.revision
