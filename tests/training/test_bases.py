"""Bases of other families than Llama 3: trained with each format and opened by the app, or refused before training, as serving would.

The trainings run in tests/training/base_scenarios.py, in a process of their own; this one opens what they wrote, without Unsloth.
"""

import json
import os
import shutil
import subprocess
import sys
from argparse import Namespace
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from app.adapter import contract as contracts
from app.adapter.base import weights_hash
from app.adapter.behaviour import golden_nll
from app.engine.answer import GenerationRequest
from app.engine.generation import LocalGenerator
from app.engine.model import load
from app.errors import ConfigError, StorageError, UserError
from app.settings import ROOT
from finetune.config import TrainConfig, load_config
from finetune.data.templates import end_ids, read_facts
from finetune.data.tokens import open_fitted
from finetune.evaluation.scoring import log_likelihoods, text_completion
from finetune.training import preflight
from finetune.training.adapter import save_tokenizer
from finetune.training.commands import _overrides
from tests.bases import FAMILIES, mistral
from tests.conftest import assert_is_for_people

pytestmark = pytest.mark.timeout(600)

TRAINED = [f"{name}-{template}" for name in FAMILIES for template in ("medical", "native")]


@pytest.fixture(scope="session")
def scenarios(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What happened in tests/training/base_scenarios.py."""
    folder = tmp_path_factory.mktemp("bases")
    command = [sys.executable, "-m", "tests.training.base_scenarios", str(folder)]
    one_thread = os.environ | {"OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, cwd=ROOT, env=one_thread, capture_output=True, text=True, timeout=500, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    return json.loads((folder / "report.json").read_text()) | {"folder": folder}


@pytest.mark.parametrize("case", TRAINED)
def test_an_adapter_of_any_family_opens_answers_and_can_be_measured(scenarios: dict[str, Any], case: str) -> None:
    assert scenarios[case]["error"] == "", scenarios[case]["message"]
    loaded = load(str(scenarios["folder"] / case), "cpu")
    assert loaded.probe.logit_change > loaded.probe.threshold
    assert loaded.probe.nll == pytest.approx(loaded.probe.trained_nll, abs=0.1)
    assert not loaded.built_with_llama, "TinyLlama is none of Meta's"
    scores = log_likelihoods(loaded, [text_completion(loaded, text) for text in ("A text of some words.", "x")])
    assert scores[0] < 0 and all(score <= 0 for score in scores)
    generator = LocalGenerator(lambda name: loaded, case)
    try:
        generator.wait_until_ready(60)
        answer = generator.submit(GenerationRequest([{"role": "user", "content": "What is gout?"}], max_new_tokens=4))
        list(answer)
        assert answer.finish_reason in ("stop", "length")
    finally:
        generator.close()


@pytest.mark.parametrize("case", TRAINED)
def test_the_end_of_each_answer_carries_loss_though_the_base_pads_with_it(scenarios: dict[str, Any], case: str) -> None:
    contract = contracts.read(scenarios["folder"] / case)
    rows = 0
    for batch in scenarios[case]["batches"]:
        for ids, labels, seen in zip(batch["input_ids"], batch["labels"], batch["attention_mask"], strict=True):
            assert all(label in (-100, token) for token, label in zip(ids, labels, strict=True))
            assert all(label == -100 for label, real in zip(labels, seen, strict=True) if not real), "no loss on padding"
            last = max(place for place, label in enumerate(labels) if label != -100)
            assert labels[last] == contract.eos_token_ids[0]
            ends = sum(label == contract.eos_token_ids[0] for label in labels)
            assert ends in (1, 2), "one for each answer, and none that a text holds"
            rows += 1
    assert rows >= 8


@pytest.mark.parametrize("name", FAMILIES)
def test_what_does_not_go_together_is_refused_within_seconds(scenarios: dict[str, Any], name: str) -> None:
    refused = scenarios[f"{name}-llama3"]
    assert refused["error"] == "ConfigError" and "no such tokens" in refused["message"]
    assert refused["seconds"] < 30
    assert_is_for_people(refused["message"])


def test_all_linear_takes_every_linear_layer(scenarios: dict[str, Any]) -> None:
    assert scenarios["all_linear"]["error"] == ""
    config = json.loads((scenarios["folder"] / "all_linear" / "adapter_config.json").read_text())
    assert {"q_proj", "down_proj", "o_proj"} <= {name.rpartition(".")[2] for name in config["target_modules"]}


@pytest.mark.parametrize(
    ("scenario", "text"),
    [
        ("another_alpha", "lora_alpha = 8 (here 128)"),
        ("within_the_base", "lies in the folder of the base model"),
        ("over_the_base", "lies in the folder of the base model"),
        ("resumed_edited", "The data is not what the run"),
        ("resumed_other_base", "The base is not what the run"),
    ],
)
def test_what_would_ruin_a_run_is_refused_in_words(scenarios: dict[str, Any], scenario: str, text: str) -> None:
    assert scenarios[scenario]["error"] == "ConfigError" and text in scenarios[scenario]["message"]
    assert_is_for_people(scenarios[scenario]["message"].replace(str(scenarios["folder"]), "outputs"))


def test_the_same_content_from_another_place_goes_on(scenarios: dict[str, Any]) -> None:
    assert scenarios["interrupted"]["error"] == "KeyboardInterrupt"
    assert (scenarios["resumed_moved"]["error"], scenarios["same_alpha"]["error"]) == ("", "")


def test_the_provenance_says_what_ran(scenarios: dict[str, Any]) -> None:
    config = json.loads((scenarios["folder"] / "mistral-medical" / "run.json").read_text())["config"]
    asked = load_config("seed")
    assert (asked.load_in_4bit, asked.optim, asked.gradient_checkpointing) == (True, "adamw_8bit", True)
    ran = {key: config[key] for key in ("load_in_4bit", "optim", "gradient_checkpointing", "packing", "precision")}
    device = {"load_in_4bit": False, "optim": "adamw_torch", "gradient_checkpointing": False, "packing": False, "precision": "fp32"}
    if not torch.cuda.is_available():
        assert ran == device


# What can be wrong with a base: the app refuses an adapter of each, and so training has to before it starts.
Damage = Callable[[Path], object]


def edit(name: str, **changes: Any) -> Damage:
    """Sets keys of a JSON file."""
    return lambda base: (base / name).write_text(json.dumps(json.loads((base / name).read_text()) | changes))


def to_pickle(base: Path) -> None:
    """Weights as older repositories hold them."""
    from safetensors.torch import load_file

    torch.save(load_file(base / "model.safetensors"), base / "pytorch_model.bin")
    (base / "model.safetensors").unlink()


def cut(name: str) -> Damage:
    """Takes the second half of a file away."""
    return lambda base: (base / name).write_bytes((base / name).read_bytes()[: (base / name).stat().st_size // 2])


DAMAGES: dict[str, Damage] = {
    "nothing": lambda base: None,
    "pickled weights": to_pickle,
    "no weights": lambda base: (base / "model.safetensors").unlink(),
    "weights cut off": cut("model.safetensors"),
    "configuration cut off": cut("config.json"),
    "a kind that nobody knows": edit("config.json", model_type="martian"),
    "code of its own": edit("config.json", model_type="mine", auto_map={"AutoConfig": "c.C", "AutoModelForCausalLM": "m.M"}),
    "a model that writes nothing": edit("config.json", model_type="vit", architectures=["ViTModel"]),
    "tokenizer cut off": cut("tokenizer.json"),
    "an index that names what is not there": lambda base: (
        (base / "model.safetensors").rename(base / "model-1.safetensors"),
        (base / "model.safetensors.index.json").write_text('{"weight_map": {"lm_head.weight": "model-2.safetensors"}}'),
    ),
    "no end of sequence": lambda base: (
        edit("tokenizer_config.json", eos_token=None)(base),
        edit("config.json", eos_token_id=None)(base),
        (base / "generation_config.json").unlink(),
    ),
    "an embedding that is too small": edit("config.json", vocab_size=64),
}


def make_adapter(base: Path, folder: Path) -> Path:
    """An adapter of a whole base, as training writes one, with random weights."""
    tokenizer, _ = open_fitted(base, "base", "medical")
    torch.manual_seed(1)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(r=4, target_modules=["q_proj", "down_proj"])).eval()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    save_tokenizer(tokenizer, folder)
    edit("adapter_config.json", base_model_name_or_path="../base")(folder)
    contracts.write(
        folder,
        tokenizer,
        contracts.BaseIdentity(id="../base", revision=weights_hash(base), architecture=contracts.architecture(model.config)),
        golden_nll=golden_nll(model, tokenizer),
        trained_dtype="float32",
        eos_token_ids=end_ids(tokenizer, read_facts(base)),
        context_length=512,
    )
    return folder


def settings(base: Path, **overrides: Any) -> TrainConfig:
    return load_config("seed", {"base": str(base), "output": str(base.parent / "out"), "lora_rank": 4} | overrides)


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_the_app_would_refuse_training_refuses_before_it_starts(damage: str, tmp_path: Path) -> None:
    base = tmp_path / "base"
    mistral(base)
    adapter = make_adapter(base, tmp_path / "adapter")
    DAMAGES[damage](base)
    # Not refused for its hash: as if the adapter had been trained on the base as it is now.
    with suppress(UserError):
        values = json.loads((adapter / contracts.FILE_NAME).read_text())
        values["base"]["revision"] = weights_hash(base)
        (adapter / contracts.FILE_NAME).write_text(json.dumps(values))

    def refusal(action: Callable[[], object]) -> str:
        try:
            action()
        except UserError as error:
            assert_is_for_people(str(error).replace(str(tmp_path), "outputs"))
            return str(error)
        return ""

    by_app, by_training = refusal(lambda: load(str(adapter), "cpu")), refusal(lambda: preflight.check_base(settings(base)))
    assert by_training or not by_app, by_app
    assert bool(by_training) == (damage != "nothing")


def test_a_run_that_its_disk_cannot_hold_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mistral(tmp_path / "base")
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=100_000))
    with pytest.raises(StorageError, match=r"take up to .* GiB.*Free some space") as caught:
        preflight.check_base(settings(tmp_path / "base"))
    assert_is_for_people(str(caught.value).replace(str(tmp_path), "outputs"))


@pytest.mark.parametrize("modules", [["q_proj", "query_key_value"], ["lm"]])
def test_a_layer_that_the_base_does_not_have_is_refused(tmp_path: Path, modules: list[str]) -> None:
    mistral(tmp_path / "base")
    with pytest.raises(ConfigError, match=r"no such linear layer. It has down_proj.*all-linear"):
        preflight.check_base(settings(tmp_path / "base", target_modules=modules))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"use_rslora": True}, "use_rslora = False (here True)"),
        ({"lora_rank": 8}, "lora_rank = 4 (here 8)"),
        ({"lora_alpha": 9}, "--set lora_alpha=8"),
    ],
)
def test_weights_are_not_taken_over_at_another_scale(tmp_path: Path, changes: dict[str, Any], text: str) -> None:
    mistral(tmp_path / "base")
    adapter = make_adapter(tmp_path / "base", tmp_path / "adapter")
    same = {"init_adapter": str(adapter), "lora_rank": 4, "lora_alpha": 8, "use_rslora": False}
    preflight.check_base(settings(tmp_path / "base", **same))
    with pytest.raises(ConfigError) as caught:
        preflight.check_base(settings(tmp_path / "base", **same | changes))
    assert text in str(caught.value)


FLAGS = dict.fromkeys(["base", "base_id", "data", "output", "columns", "encoding", "max_dropped"]) | {"ship_cards": False}


@pytest.mark.parametrize("key", ["base", "data", "output"])
def test_set_is_honoured_and_may_not_contradict_a_flag(key: str) -> None:
    flags = FLAGS | {"set": [f"{key}=outputs/a"]}
    assert _overrides(Namespace(**flags))[key] == "outputs/a"
    assert _overrides(Namespace(**flags | {key: "outputs/a"}))[key] == "outputs/a"
    with pytest.raises(ConfigError, match=f"--{key} outputs/b and --set {key}=outputs/a contradict") as caught:
        _overrides(Namespace(**flags | {key: "outputs/b"}))
    assert_is_for_people(caught.value)


def test_a_switch_that_contradicts_a_setting_is_refused() -> None:
    flags = FLAGS | {"ship_cards": True, "set": ["ship_cards=false"]}
    with pytest.raises(ConfigError, match="--ship-cards"):
        _overrides(Namespace(**flags))
