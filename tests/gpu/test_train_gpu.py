"""Training on a CUDA card: the same path as on a CPU, padded, joined and packed. `make test-gpu`; a card of 4 GB is enough."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.gpu

torch = pytest.importorskip("torch")
if not torch.cuda.is_available():
    pytest.skip("no CUDA card here", allow_module_level=True)

SMALL = {"copies": 1, "precision": "auto", "validation_size": 0, "report_to": "none"}


@pytest.fixture(scope="module")
def train_module() -> Any:
    os.environ["UNSLOTH_BLOCK_COMPILE"] = "0"  # half a minute for a few padded steps
    from finetune.training import train  # imports unsloth, which needs the card to be there

    return train


@pytest.mark.parametrize("way", [{"padding_free": False}, {"padding_free": True}, {"packing": True}], ids=str)
def test_the_loss_falls_on_answers_and_their_end_alone(train_module: Any, tmp_path: Path, way: dict[str, bool]) -> None:
    """The labels that reach the model are looked at, after Unsloth's own preparation and collation."""
    from finetune.config import load_config
    from finetune.data.sources import load_source
    from finetune.training.encode import build_rows, select

    config = load_config("demo", SMALL | {"train_size": 24, "max_steps": 1, "output": str(tmp_path / "adapter"), **way})
    examples = select(load_source(config.data).examples, 24, config.seed)
    model, tokenizer, _, _ = train_module.open_base(config)
    rows, _ = build_rows(examples, tokenizer, config)
    model = train_module.add_lora(model, config)
    trainer = train_module.build_trainer(model, tokenizer, rows, config)
    found: list[int] = []
    for batch in trainer.get_train_dataloader():
        for labels in batch["labels"].tolist():
            found += [label for label in labels if label != -100]
        if way.get("padding_free"):
            assert batch["input_ids"].shape[0] == 1, "one row, no padding"
    assert sorted(found) == sorted(label for row in rows for label in row["labels"] if label != -100)
    assert found.count(tokenizer.convert_tokens_to_ids("<|eot_id|>")) >= len(rows)


def test_joining_rows_gives_the_loss_of_padding_them(train_module: Any, tmp_path: Path) -> None:
    """No conversation of a joined row sees another: the same batch has the same loss either way."""
    from finetune.config import load_config
    from finetune.data.sources import load_source
    from finetune.training.encode import build_rows, select

    losses = []
    for padding_free in (False, True):
        config = load_config("demo", SMALL | {"train_size": 8, "output": str(tmp_path / "a"), "padding_free": padding_free, "max_steps": 1})
        model, tokenizer, _, _ = train_module.open_base(config)
        model = train_module.add_lora(model, config)
        rows, _ = build_rows(select(load_source(config.data).examples, 8, config.seed), tokenizer, config)
        trainer = train_module.build_trainer(model, tokenizer, rows, config)
        trainer.args.save_strategy = "no"
        trainer.train()
        losses.append(trainer.state.log_history[0]["loss"])
    assert losses[0] == pytest.approx(losses[1], rel=5e-3)


def test_an_adapter_trained_on_the_card_opens_there_and_on_the_cpu(train_module: Any, tmp_path: Path) -> None:
    from finetune.config import load_config

    config = load_config("demo", SMALL | {"train_size": 200, "max_steps": 20, "output": str(tmp_path / "adapter"), "validation_size": 20})
    output = train_module.train(config)
    record = json.loads((output / "run.json").read_text())
    assert record["validation_history"] and record["loss_history"][-1]["memory_gib"] > 0
    for device in ("cuda", "cpu"):  # in processes of their own: Unsloth has patched the models of this one for its card
        opening = f"probe = load({str(output)!r}, {device!r}).probe"
        code = f"from app.engine.model import load; {opening}; assert probe.logit_change > probe.threshold"
        subprocess.run([sys.executable, "-c", code], check=True)


def test_a_base_that_training_quantised_is_served_as_it_was_trained(train_module: Any, tmp_path: Path) -> None:
    """In 4 bits on the card, with the golden answer's NLL of training; on a CPU with the figure that training measured for 16 bits."""
    from app.adapter.contract import read
    from finetune.config import load_config

    overrides = {"train_size": 200, "max_steps": 20, "output": str(tmp_path / "adapter"), "load_in_4bit": True}
    output = train_module.train(load_config("demo", SMALL | overrides))
    contract = read(output)
    assert contract.trained_dtype == "4bit" and contract.base.quantisation["bnb_4bit_quant_type"] == "nf4"
    assert contract.unquantised_nll is not None
    for device, dtype in (("cuda", "4bit"), ("cpu", "float32")):
        code = f"from app.engine.model import load; m = load({str(output)!r}, {device!r}); assert m.dtype == {dtype!r}, m.dtype; "
        code += "assert abs(m.probe.nll - m.probe.expected_nll) < 0.1, m.probe; m.warm_up(); assert m.decoder is not None"
        subprocess.run([sys.executable, "-c", code], check=True)


def test_out_of_memory_halves_the_micro_batch_and_keeps_the_cards_of_a_step(train_module: Any, tmp_path: Path) -> None:
    from finetune.config import load_config

    overrides = {"train_size": 600, "max_steps": 2, "per_device_train_batch_size": 512, "output": str(tmp_path / "adapter")}
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 700 * 2**20) / total)
    try:
        output = train_module.train(load_config("demo", SMALL | overrides))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    record = json.loads((output / "run.json").read_text())
    assert record["micro_batch"] < 512 and 512 % record["micro_batch"] == 0
    assert record["config"]["per_device_train_batch_size"] == 512
