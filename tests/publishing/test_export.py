"""Merged models and what other programs need to run them: they behave as base plus adapter, and ask with our prompts."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from app.adapter.contract import Contract
from app.engine.model import LoadedModel
from app.errors import ConfigError, ContractViolation, StorageError
from finetune.data.templates import Facts, fit
from finetune.publishing import convert
from tests.conftest import assert_is_for_people
from tests.engine.test_model import edit_json, edit_weights

CONVERSATION = ["What is asthma?", "A chronic disease of the airways.", "How is it treated?", "With inhalers.", "And in {{children}}?"]


@pytest.fixture(scope="module")
def merged(adapter: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo adapter, merged as the command does it."""
    output = tmp_path_factory.mktemp("export") / "merged"
    lines = list(convert.export(adapter, "merged", output))
    assert "logits differ by" in lines[0] and "ollama create" in lines[1]
    return output


def logits(model: torch.nn.Module, contract: Contract) -> torch.Tensor:
    return torch.cat([piece.flatten() for piece in convert.golden_logits(model, contract)])


def distance(new: torch.Tensor, old: torch.Tensor) -> float:
    return float((new - old).norm() / old.norm())


def test_merged_logits_agree_with_base_plus_adapter_and_not_with_the_base(merged: Path, loaded: LoadedModel) -> None:
    model = AutoModelForCausalLM.from_pretrained(merged, dtype=torch.float32).eval()
    together = logits(loaded.model, loaded.contract)
    with loaded.model.disable_adapter():
        alone = logits(loaded.model, loaded.contract)
    assert distance(logits(model, loaded.contract), together) < 0.02
    assert distance(alone, together) > 0.2


def test_the_merged_folder_is_sixteen_bit_safetensors_that_answer_as_the_adapter_does(merged: Path, loaded: LoadedModel) -> None:
    with safe_open(merged / "model.safetensors", "pt") as file:
        assert {file.get_tensor(name).dtype for name in file.keys()} == {torch.bfloat16}  # noqa: SIM118 - no mapping
        assert not [name for name in file.keys() if "lora" in name]  # noqa: SIM118
    assert not list(merged.glob("*.bin")) and not (merged / "adapter_config.json").exists()
    tokenizer = AutoTokenizer.from_pretrained(merged)
    messages = [{"role": "user", "content": "What are the common symptoms of diabetes?"}]
    inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True, return_tensors="pt")
    assert inputs["input_ids"][0].tolist() == loaded.contract.golden[0].prompt_ids
    model = AutoModelForCausalLM.from_pretrained(merged, dtype=torch.float32)
    ours, theirs = (m.generate(**inputs, max_new_tokens=120, do_sample=False) for m in (model, loaded.model))
    ends = set(loaded.contract.eos_token_ids)
    assert ends & set(ours[0].tolist()), "the saved generation settings know how an answer ends"
    assert ours[0, :80].tolist() == theirs[0, : ours.shape[1]][:80].tolist()


def test_rslora_scale_survives_merging(adapter_copy: Path, tmp_path: Path, loaded: LoadedModel) -> None:
    edit_json("adapter_config.json", use_rslora=True, lora_alpha=8)(adapter_copy)  # alpha / sqrt(64) is 1, as alpha 64 / 64 was
    assert convert.merge(adapter_copy, tmp_path / "merged") < convert.TOLERANCE
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32).eval()
    assert distance(logits(model, loaded.contract), logits(loaded.model, loaded.contract)) < 0.02


def test_a_merge_that_changes_the_model_is_refused_and_leaves_nothing(
    adapter_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PeftModel, "merge_and_unload", lambda model: model.unload(), raising=False)
    with pytest.raises(ContractViolation, match="logits differ") as caught:
        list(convert.export(str(adapter_copy), "merged", tmp_path / "merged"))
    assert_is_for_people(caught.value)
    assert not [path.name for path in tmp_path.iterdir() if "merged" in path.name]


def test_weights_that_are_no_numbers_are_not_exported(adapter_copy: Path, tmp_path: Path) -> None:
    edit_weights(lambda tensor: tensor * float("nan"))(adapter_copy)
    with pytest.raises(ContractViolation):
        convert.merge(adapter_copy, tmp_path / "merged")


def test_an_existing_folder_is_not_overwritten(adapter: str, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="exists already") as caught:
        list(convert.export(adapter, "merged", tmp_path))
    assert_is_for_people(caught.value)


def test_without_llama_cpp_one_sentence_says_how_to_get_it(adapter: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LLAMA_CPP_DIR", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    for folder in (None, tmp_path):
        with pytest.raises(ConfigError, match="git clone") as caught:
            list(convert.export(adapter, "gguf", tmp_path / "merged", folder))
        assert_is_for_people(caught.value)
    assert not (tmp_path / "merged").exists(), "nothing is merged before the converter is found"


@pytest.mark.skipif(not os.environ.get("LLAMA_CPP_DIR"), reason="LLAMA_CPP_DIR names no llama.cpp")
def test_llama_cpp_converts_the_merged_model(adapter: str, tmp_path: Path) -> None:
    list(convert.export(adapter, "gguf", tmp_path / "merged"))
    assert (tmp_path / "merged" / convert.GGUF_FILE).read_bytes()[:4] == b"GGUF"


def converter(folder: Path, body: str) -> Path:
    """A program in the place of llama.cpp's, to see how it is called and what its failures become."""
    folder.mkdir()
    (folder / convert.CONVERTER).write_text(body)
    return folder


def test_the_converter_gets_the_merged_folder_and_its_failure_becomes_a_sentence(adapter: str, tmp_path: Path) -> None:
    good = converter(
        tmp_path / "good",
        "import sys, pathlib\n"
        "model, outfile, outtype = sys.argv[1], sys.argv[sys.argv.index('--outfile') + 1], sys.argv[sys.argv.index('--outtype') + 1]\n"
        "assert pathlib.Path(model, 'model.safetensors').is_file() and outtype == 'bf16'\n"
        "pathlib.Path(outfile).write_bytes(b'GGUF')\n",
    )
    lines = list(convert.export(adapter, "gguf", tmp_path / "merged", good))
    assert convert.GGUF_FILE in lines[1]
    assert f"FROM ./{convert.GGUF_FILE}\n" in (tmp_path / "merged" / convert.MODELFILE).read_text()
    bad = converter(tmp_path / "bad", "raise NotImplementedError('BPE pre-tokenizer was not recognized')\n")
    with pytest.raises(ConfigError, match="pre-tokenizer was not recognized") as caught:
        list(convert.export(adapter, "gguf", tmp_path / "again", bad))
    assert_is_for_people(caught.value)
    assert not (tmp_path / "again").exists()


def messages(*contents: str) -> list[dict[str, str]]:
    return [{"role": "user" if index % 2 == 0 else "assistant", "content": content} for index, content in enumerate(contents)]


def rendered(tokenizer: PreTrainedTokenizerBase, *contents: str) -> str:
    """What the Jinja template makes of a conversation, without BOS, which Ollama's runner adds."""
    text = str(tokenizer.apply_chat_template(messages(*contents), add_generation_prompt=True, tokenize=False))
    return text.removeprefix(tokenizer.bos_token)


@pytest.mark.parametrize("template", ["medical", "llama3"])
@pytest.mark.skipif(not shutil.which("go"), reason="no Go here to render Go templates")
def test_ollamas_template_writes_our_prompts(demo_tokenizer: PreTrainedTokenizerBase, template: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(demo_tokenizer.name_or_path)
    fit(tokenizer, template, Facts())
    go = convert.go_template(tokenizer)
    for turns in (1, 3, 5):
        conversation = messages(*CONVERSATION[:turns])
        asked = json.dumps({"template": go, "messages": conversation})
        environment = os.environ | {"GO111MODULE": "off", "CGO_ENABLED": "0"}
        program = Path(__file__).with_name("render_go.go")
        result = subprocess.run(["go", "run", program], input=asked, capture_output=True, text=True, check=True, env=environment)
        assert result.stdout == rendered(tokenizer, *CONVERSATION[:turns])


@pytest.mark.parametrize("template", ["medical", "llama3"])
def test_the_parts_of_ollamas_template_make_up_our_prompts(demo_tokenizer: PreTrainedTokenizerBase, template: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(demo_tokenizer.name_or_path)
    fit(tokenizer, template, Facts())
    go = convert.go_template(tokenizer)
    first, later, after = (json.loads(text) for text in re.findall(r'\{\{ ("(?:[^"\\]|\\.)*") \}\}', go))
    question, reply, *_ = CONVERSATION
    assert first + question + after == rendered(tokenizer, question)
    assert first + question + after + reply + later + question + after == rendered(tokenizer, question, reply, question)
    assert tokenizer.bos_token not in go


def test_a_template_that_treats_the_second_question_differently_is_refused(demo_tokenizer: PreTrainedTokenizerBase) -> None:
    tokenizer = AutoTokenizer.from_pretrained(demo_tokenizer.name_or_path)
    tokenizer.chat_template = "{% for m in messages %}{{ loop.index }}: {{ m.content }}\n{% endfor %}>"
    with pytest.raises(ConfigError, match="later turns") as caught:
        convert.go_template(tokenizer)
    assert_is_for_people(caught.value)


def test_the_modelfile_ends_answers_where_training_did(merged: Path, loaded: LoadedModel) -> None:
    lines = (merged / convert.MODELFILE).read_text().splitlines()
    assert "FROM ." in lines
    for token in loaded.contract.eos_token_ids:
        assert f'PARAMETER stop "{loaded.tokenizer.convert_ids_to_tokens(token)}"' in lines
    assert f"PARAMETER num_ctx {loaded.contract.context_length}" in lines
