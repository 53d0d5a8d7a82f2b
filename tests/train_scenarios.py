"""Trainings in a process of their own, because unsloth patches every library that it finds: `python -m tests.train_scenarios FOLDER`.

Trains for a few steps on the demo base, interrupts, fills the disk and goes on, and writes what happened to FOLDER/report.json.
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

from finetune import train as training
from finetune.config import TrainConfig, load_config

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


def main(folder: Path) -> None:
    """Runs all scenarios; a later one goes on where an earlier one ended."""
    output = folder / "mine"
    mine = config(output=str(output))
    report: dict[str, Any] = {"batches": []}

    with watched_batches(report["batches"]), ctrl_c_at(2):
        report["interrupted"] = attempt(lambda: training.train(mine))
    report["interrupted"]["files"] = snapshot(output)

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
    report["no_such_base"] = attempt(lambda: training.train(config(output=str(folder / "new"), base="somebody/base")))
    report["no_such_folder"] = attempt(lambda: training.train(config(output=str(folder / "new"), base=str(folder / "nowhere"))))

    far = shutil.copytree("assets/demo/base", folder / "elsewhere" / "base")
    report["base_far_away"] = attempt(lambda: training.train(config(output=str(folder / "far" / "away"), base=str(far), max_steps=1)))

    report["statistics"] = os.environ.get("UNSLOTH_DISABLE_STATISTICS")
    (folder / "report.json").write_text(json.dumps(report))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
