"""Few-step trainings of a real pretrained model, one with each prompt format, in one process: unsloth takes long to import.

Run: `python -m tests.training.smollm2_scenarios BASE FOLDER`. The tests that read what it writes are in tests/test_smollm2.py.
"""

import json
import sys
from pathlib import Path
from typing import get_args

from finetune.config import TrainConfig, load_config
from finetune.training import train as training
from tests.smollm2 import CARDS
from tests.training.train_scenarios import attempt

SETTINGS = {
    "train_size": 4,
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 1,
    "max_steps": 4,
    "save_steps": 100,
    "learning_rate": 4e-3,
    "warmup_steps": 0,
    "lora_rank": 8,
    "lora_alpha": 16,
    "max_length": 128,
}


def main(base: Path, folder: Path) -> None:
    """Trains, and writes how each training ended to FOLDER/report.json."""
    data = folder / "cards.jsonl"
    data.write_text("".join(json.dumps({"question": question, "answer": answer}) + "\n" for question, answer in CARDS), encoding="utf-8")
    report = {}
    for template in get_args(TrainConfig.model_fields["template"].annotation):
        settings = {"base": str(base), "data": str(data), "template": template, "output": str(folder / template)}
        report[template] = attempt(lambda settings=settings: training.train(load_config("seed", SETTINGS | settings)))
    (folder / "report.json").write_text(json.dumps(report), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
