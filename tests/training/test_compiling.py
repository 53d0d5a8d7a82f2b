"""Compiling for a CPU: long runs alone, in place, and nothing any more once the usual shapes have been met."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, TrainerControl, TrainerState, TrainingArguments

from app.engine.model import load
from finetune.training.compiling import LAYERS_WORTH_COMPILING, SETTLED, CompileLayers
from tests.training.test_train import run

TRAIN = """
import sys
from app import prepare_environment
prepare_environment()
from finetune.training import train, compiling
from finetune.__main__ import main
from torch._dynamo.utils import counters
compiling.LAYERS_WORTH_COMPILING = int(sys.argv.pop(1))
main(sys.argv[1:])
print("graphs:", counters["stats"]["unique_graphs"])
"""


@pytest.fixture
def model() -> LlamaForCausalLM:
    return LlamaForCausalLM(
        LlamaConfig(vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=1, num_key_value_heads=1)
    )


@pytest.fixture
def arguments(tmp_path: Path) -> TrainingArguments:
    return TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none")


@pytest.fixture
def compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A file named like the compiler, which is looked for and never called here; the process's settings are put back."""
    (tmp_path / "g++").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    suppressed = torch._dynamo.config.suppress_errors
    yield
    torch._dynamo.config.suppress_errors = suppressed
    torch.compiler.set_stance("default")


def layers_compiled(model: LlamaForCausalLM) -> list[bool]:
    return [layer._compiled_call_impl is not None for layer in model.model.layers]


def start(model: LlamaForCausalLM, arguments: TrainingArguments, steps: int, done: int = 0) -> CompileLayers:
    callback = CompileLayers()
    callback.on_train_begin(arguments, TrainerState(max_steps=steps, global_step=done), TrainerControl(), model=model)
    return callback


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize(
    ("steps", "done", "expected"), [(LAYERS_WORTH_COMPILING, 0, True), (LAYERS_WORTH_COMPILING - 1, 0, False), (2000, 1500, False)]
)
def test_the_steps_that_are_left_decide(
    model: LlamaForCausalLM, arguments: TrainingArguments, steps: int, done: int, expected: bool
) -> None:
    names = list(model.state_dict())
    start(model, arguments, steps, done)
    assert layers_compiled(model) == [expected, expected]
    assert list(model.state_dict()) == names, "what is saved is named as before"


@pytest.mark.usefixtures("compiler")
def test_without_a_compiler_a_long_run_is_as_it_was(
    model: LlamaForCausalLM, arguments: TrainingArguments, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")  # no g++ either
    callback = start(model, arguments, 10_000)
    assert layers_compiled(model) == [False, False]
    callback.on_step_begin(arguments, TrainerState(global_step=SETTLED), TrainerControl())
    assert compilations([3, 4, 5]) == 2, "compiling for others goes on: for one length, then for any"


@pytest.mark.usefixtures("compiler")
def test_a_shape_that_comes_late_runs_as_it_is_until_training_has_ended(model: LlamaForCausalLM, arguments: TrainingArguments) -> None:
    callback = start(model, arguments, 10_000, done=7)
    callback.on_step_begin(arguments, TrainerState(global_step=7 + SETTLED - 1), TrainerControl())
    assert compilations([3]) == 1
    callback.on_step_begin(arguments, TrainerState(global_step=7 + SETTLED), TrainerControl())
    assert compilations([4]) == 0
    callback.on_train_end(arguments, TrainerState(global_step=10_000), TrainerControl())
    assert compilations([5]) == 1


def compilations(lengths: list[int]) -> int:
    """How often a new function is compiled that is called with vectors of these lengths; each call is checked."""
    torch.compiler.reset()
    graphs = []

    def backend(graph: torch.fx.GraphModule, _: object) -> object:
        graphs.append(graph)
        return graph.forward

    double = torch.compile(lambda x: x * 2 + 1, backend=backend)
    for length in lengths:
        assert double(torch.ones(length)).tolist() == [3.0] * length
    return len(graphs)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_compiled_training_has_the_losses_of_one_that_is_not(tmp_path: Path) -> None:
    settings = ["train_size=200", "copies=1", f"max_steps={SETTLED + 4}", "per_device_train_batch_size=4", "logging_steps=1"]
    options = [part for setting in settings for part in ("--set", setting)]
    losses = []
    for worth, graphs in ((1, True), (LAYERS_WORTH_COMPILING, False)):
        output = tmp_path / str(worth)
        result = run("-c", TRAIN, str(worth), "train", "--config", "demo", "--output", str(output), *options)
        assert result.returncode == 0, result.stderr[-3000:]
        assert (int(result.stdout.rpartition("graphs:")[2]) > 0) == graphs
        assert load(str(output), "cpu").probe.logit_change > 0
        losses.append([entry["loss"] for entry in json.loads((output / "run.json").read_text())["loss_history"]])
    assert len(losses[0]) == SETTLED + 4
    assert losses[0] == pytest.approx(losses[1], rel=0.02), "rounding of bf16"
