"""Trainings on small bases of other families, in a process of their own, because unsloth patches every library that it finds.

Run: `python -m tests.training.base_scenarios FOLDER`.

Writes what happened to FOLDER/report.json; the tests that read it are in test_bases.py.
"""

import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from finetune.config import TrainConfig, load_config
from finetune.training import train as training
from tests.bases import FAMILIES
from tests.training.train_scenarios import attempt, ctrl_c_at, watched_batches

TEMPLATES = ("medical", "native", "llama3")
SMALL = {"max_length": 512, "max_steps": 2, "save_steps": 1, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 1}
SMALL |= {"train_size": 1.0, "lora_rank": 4, "lora_alpha": 8, "learning_rate": 0.01}
ROWS = [
    {"question": f"What is condition {number}?", "answer": f"# Condition {number}\n\nIt has p<0.05 and <|im_end|></s> {'x ' * number}"}
    for number in range(9)
]
TURNS = [("user", "What is gout?"), ("assistant", "A disease of joints."), ("user", "Is it treated?"), ("assistant", "Yes, with rest.")]


def config(base: Path, output: Path, data: Path, **overrides: Any) -> TrainConfig:
    """Two small steps on a base beside the adapter."""
    return load_config("seed", {**SMALL, "base": str(base), "output": str(output), "data": str(data), **overrides})


def timed(base: Path, output: Path, data: Path, **overrides: Any) -> dict[str, Any]:
    """Trains, and tells how it ended and after how many seconds."""
    started = time.perf_counter()
    outcome = attempt(lambda: training.train(config(base, output, data, **overrides)))
    return outcome | {"seconds": round(time.perf_counter() - started, 1)}


def resumed(base: Path, folder: Path, data: Path, report: dict[str, Any]) -> None:
    """An interrupted run that goes on with other data, another base, and with its own from other places."""
    output = folder / "interrupted"
    with ctrl_c_at(2):
        report["interrupted"] = attempt(lambda: training.train(config(base, output, data)))
    edited = folder / "edited.jsonl"
    edited.write_text(data.read_text().replace("gout", "lupus"))
    other = Path(shutil.copytree(base, folder / "other"))
    weights = (other / "model.safetensors").read_bytes()
    (other / "model.safetensors").write_bytes(weights[:-2] + bytes([weights[-2] ^ 1, weights[-1]]))
    moved = Path(shutil.copy(data, folder / "moved.jsonl"))
    for name, there in (("edited", (base, edited)), ("other_base", (other, data)), ("moved", (base, moved))):
        report[f"resumed_{name}"] = attempt(lambda there=there: training.train(config(there[0], output, there[1]), resume=True))


def main(folder: Path) -> None:
    """Runs all scenarios."""
    data = folder / "cards.jsonl"
    cards = [[("user", row["question"]), ("assistant", row["answer"])] for row in ROWS]
    conversations = [[{"role": role, "content": text} for role, text in turns] for turns in [TURNS, *cards]]
    data.write_text("".join(json.dumps({"messages": messages}) + "\n" for messages in conversations))
    report: dict[str, Any] = {}
    for name, write in FAMILIES.items():
        write(folder / name)
        for template in TEMPLATES:
            batches: list[dict[str, Any]] = []
            with watched_batches(batches):
                report[f"{name}-{template}"] = timed(folder / name, folder / f"{name}-{template}", data, template=template)
            report[f"{name}-{template}"]["batches"] = batches
    base = folder / "mistral"
    report["all_linear"] = timed(base, folder / "all_linear", data, target_modules="all-linear")
    start = str(folder / "mistral-medical")
    report["another_alpha"] = timed(base, folder / "hot", data, init_adapter=start, lora_alpha=128)
    report["same_alpha"] = timed(base, folder / "same", data, init_adapter=start)
    report["within_the_base"] = timed(base, base / "adapter", data)
    report["over_the_base"] = timed(base, base, data)
    resumed(base, folder, data, report)
    (folder / "report.json").write_text(json.dumps(report))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
