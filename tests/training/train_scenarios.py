"""Trainings in a process of their own, because unsloth patches every library that it finds.

Run: `python -m tests.training.train_scenarios FOLDER`.

Trains for a few steps on the demo base, interrupts, kills, fills disk and memory, goes on, and writes what happened to FOLDER/report.json.
The tests that read the report are in test_train.py.
"""

import hashlib
import json
import os
import resource
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from finetune.config import TrainConfig, load_config
from finetune.training import train as training

TINY = {"train_size": 24, "per_device_train_batch_size": 4, "max_steps": 4, "save_steps": 2, "num_train_epochs": 1, "copies": 1}


def config(**overrides: Any) -> TrainConfig:
    """The demo's configuration, cut down to four small steps."""
    return load_config("demo", {**TINY, **overrides})


def attempt(action: Callable[[], object]) -> dict[str, str]:
    """Runs an action and tells how it ended."""
    try:
        action()
    except BaseException as error:  # KeyboardInterrupt is one of the outcomes
        return {"error": type(error).__name__, "message": str(error)}
    return {"error": "", "message": ""}


def snapshot(folder: Path) -> dict[str, str]:
    """Digest of every file below a folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.rglob("*")) if path.is_file()
    }


@contextmanager
def full_disk(limit: int) -> Iterator[None]:
    """No file may grow beyond `limit` bytes, which fails in the same places as a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextmanager
def watched_batches(batches: list[dict[str, list[list[int]]]]) -> Iterator[None]:
    """Notes what the trainer hands to the model."""
    original = training.unsloth.UnslothTrainer.training_step

    def training_step(self: Any, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        batches.append({key: inputs[key].tolist() for key in ("input_ids", "labels", "attention_mask")})
        return original(self, model, inputs, *args, **kwargs)

    training.unsloth.UnslothTrainer.training_step = training_step
    try:
        yield
    finally:
        training.unsloth.UnslothTrainer.training_step = original


@contextmanager
def ctrl_c_at(step: int) -> Iterator[None]:
    """Sends this process the signal of Ctrl-C during an optimizer step."""
    original = training.Progress.on_step_begin

    def on_step_begin(self: Any, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == step - 1:
            os.kill(os.getpid(), signal.SIGINT)

    training.Progress.on_step_begin = on_step_begin
    try:
        yield
    finally:
        training.Progress.on_step_begin = original


@contextmanager
def changed_step(change: Callable[[int, Any, torch.Tensor], torch.Tensor]) -> Iterator[None]:
    """Lets `change(pass number, inputs, loss)` decide what a forward and backward pass ends in."""
    original = training.unsloth.UnslothTrainer.training_step
    passes = 0

    def training_step(self: Any, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal passes
        passes += 1
        return change(passes, inputs, original(self, model, inputs, *args, **kwargs))

    training.unsloth.UnslothTrainer.training_step = training_step
    try:
        yield
    finally:
        training.unsloth.UnslothTrainer.training_step = original


def kill_9(number: int, inputs: Any, loss: torch.Tensor) -> torch.Tensor:
    """Ends the process in the third step, as a machine that is switched off does."""
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return loss


def out_of_memory(number: int, inputs: Any, loss: torch.Tensor) -> torch.Tensor:
    """A card that holds two rows at a time, and runs out of memory on its second step."""
    if number > 1 and len(inputs["input_ids"]) > 2:
        raise torch.OutOfMemoryError("CUDA out of memory.")
    return loss


def not_a_number(number: int, inputs: Any, loss: torch.Tensor) -> torch.Tensor:
    """A loss that overflows in the second step."""
    return loss * float("nan") if number == 2 else loss


@contextmanager
def kept_logits(path: Path) -> Iterator[None]:
    """Writes the golden prompt's logits of the model in memory when it has been exported."""
    original = training.adapter.save

    def save(output: Path, model: Any, tokenizer: Any, *args: Any) -> None:
        original(output, model, tokenizer, *args)
        ids = torch.tensor([training.adapter.contracts.prompt_ids(tokenizer, training.adapter.contracts.GOLDEN_CONVERSATIONS[0])])
        with torch.inference_mode():
            save_file({"logits": model(input_ids=ids, use_cache=False).logits.float().contiguous()}, path)

    training.adapter.save = save
    try:
        yield
    finally:
        training.adapter.save = original


def surviving(folder: Path, report: dict[str, Any]) -> None:
    """A kill, too little memory, a loss that is no number and a loss that only rises, each beside the run that nothing disturbed."""
    folder.mkdir()
    watched = {"validation_size": 8}
    killed = config(output=str(folder / "killed"), **watched)
    child = os.fork()  # before anything was trained in this process
    if child == 0:
        with changed_step(kill_9):
            training.train(killed)
        os._exit(0)
    report["killed"] = {"signal": os.WTERMSIG(os.waitpid(child, 0)[1]), "files": snapshot(folder / "killed")}
    report["revived"] = attempt(lambda: training.train(killed, resume=True))
    report["other_settings"] = attempt(lambda: training.train(killed.model_copy(update={"learning_rate": 1.0}), resume=True))

    with kept_logits(folder / "logits.safetensors"):
        report["whole"] = attempt(lambda: training.train(config(output=str(folder / "whole"), **watched)))
    with changed_step(out_of_memory):
        report["small_card"] = attempt(lambda: training.train(config(output=str(folder / "small"), **watched)))
    with changed_step(not_a_number):
        report["overflow"] = attempt(lambda: training.train(config(output=str(folder / "overflow"))))
    rising = {"learning_rate": 0.3, "warmup_steps": 0, "save_steps": 1, "early_stopping": 1, "max_steps": 6}
    report["rising"] = attempt(lambda: training.train(config(output=str(folder / "rising"), **watched, **rising)))
    for name in ("killed", "whole", "small", "overflow", "rising"):
        report.setdefault(name, {})["files"] = snapshot(folder / name)


def main(folder: Path) -> None:
    """Runs all scenarios; a later one goes on where an earlier one ended."""
    output = folder / "mine"
    mine = config(output=str(output))
    report: dict[str, Any] = {"batches": []}
    surviving(folder.with_name(folder.name + "-surviving"), report)

    with watched_batches(report["batches"]), ctrl_c_at(2):
        report["interrupted"] = attempt(lambda: training.train(mine))
    report["interrupted"]["files"] = snapshot(output)
    report["unfinished"] = attempt(lambda: training.train(mine))

    for name, limit in (("full_disk_weights", 100_000), ("full_disk_optimizer", 8_000_000)):
        with full_disk(limit):
            report[name] = attempt(lambda: training.train(mine, resume=True))
        report[name]["files"] = snapshot(output)

    report["resumed"] = attempt(lambda: training.train(mine, resume=True))
    report["resumed"]["files"] = snapshot(output)

    with full_disk(100_000):
        report["full_disk_adapter"] = attempt(lambda: training.train(mine, resume=True))
    report["full_disk_adapter"]["files"] = snapshot(output)
    report["full_disk_adapter"]["beside"] = sorted(path.name for path in folder.iterdir())

    report["saved_again"] = attempt(lambda: training.train(mine, resume=True))
    report["saved_again"]["files"] = snapshot(output)

    report["again"] = attempt(lambda: training.train(mine))
    report["nothing_to_resume"] = attempt(lambda: training.train(config(output=str(folder / "new")), resume=True))
    report["too_many"] = attempt(lambda: training.train(config(output=str(folder / "new"), train_size=10**6)))
    report["too_long"] = attempt(lambda: training.train(config(output=str(folder / "new"), max_length=64)))
    private = folder / "private.jsonl"
    private.write_text(json.dumps({"question": "What is it?", "answer": "It is ours."}) + "\n")
    report["no_licence"] = attempt(lambda: training.train(config(output=str(folder / "new"), data=str(private))))
    report["no_tracker"] = attempt(lambda: training.train(config(output=str(folder / "new"), report_to="wandb")))
    report["no_such_base"] = attempt(lambda: training.train(config(output=str(folder / "new"), base="somebody/base")))
    report["no_such_folder"] = attempt(lambda: training.train(config(output=str(folder / "new"), base=str(folder / "nowhere"))))

    far = shutil.copytree("assets/demo/base", folder / "elsewhere" / "Some-3B")
    for name, base_id in (("far", None), ("named", "somebody/Some-3B")):
        settings = {"base": str(far), "base_id": base_id, "max_steps": 1, "warmup_steps": 0, "output": str(folder / name / "adapter")}
        report[f"base_{name}"] = attempt(lambda settings=settings: training.train(config(**settings)))

    report["statistics"] = os.environ.get("UNSLOTH_DISABLE_STATISTICS")
    (folder / "report.json").write_text(json.dumps(report))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
