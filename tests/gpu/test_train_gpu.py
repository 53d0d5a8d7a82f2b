"""Training on a CUDA card: the same path as on a CPU, with packing off and on. `make test-gpu`; a card of 4 GB is enough."""

from pathlib import Path

import pytest

pytestmark = pytest.mark.gpu

torch = pytest.importorskip("torch")
if not torch.cuda.is_available():
    pytest.skip("no CUDA card here", allow_module_level=True)


@pytest.fixture(scope="module")
def train_module():
    from finetune import train  # imports unsloth, which needs the card to be there

    return train


@pytest.mark.parametrize("packing", [False, True])
def test_the_loss_falls_on_answers_and_their_end_alone(train_module, tmp_path: Path, packing: bool) -> None:
    """The labels that reach the model are looked at, after Unsloth's own preparation and collation."""
    from finetune.config import load_config

    overrides = {
        "train_size": 24,
        "max_steps": 1,
        "output": str(tmp_path / "adapter"),
        "packing": packing,
        "copies": 1,
        "precision": "auto",
    }
    config = load_config("demo", overrides)
    examples = train_module.select(train_module.load_source(config.data).examples, 24, config.seed)
    model, tokenizer, _, _ = train_module.open_base(config)
    rows, _ = train_module.build_rows(examples, tokenizer, config)
    model = train_module.unsloth.FastLanguageModel.get_peft_model(model, r=8, lora_alpha=8, target_modules=["q_proj"])
    trainer = train_module.build_trainer(model, tokenizer, rows, config, [])
    seen = [batch for batch in trainer.get_train_dataloader()]
    answers = {tuple(label for label in row["labels"] if label != -100) for row in rows}
    ends = tokenizer.convert_tokens_to_ids("<|eot_id|>")
    found: list[int] = []
    for batch in seen:
        for labels in batch["labels"].tolist():
            found += [label for label in labels if label != -100]
    assert sorted(found) == sorted(label for answer in (row["labels"] for row in rows) for label in answer if label != -100)
    assert found.count(ends) == sum(answer.count(ends) for answer in (row["labels"] for row in rows))
    assert all(answer[-1] == ends for answer in answers)


def test_an_adapter_trained_on_the_card_opens_there_and_on_the_cpu(train_module, tmp_path: Path) -> None:
    from app.model import load
    from finetune.config import load_config

    config = load_config(
        "demo", {"train_size": 200, "max_steps": 20, "output": str(tmp_path / "adapter"), "copies": 1, "precision": "auto"}
    )
    output = train_module.train(config)
    for device in ("cuda", "cpu"):
        loaded = load(str(output), device=device)
        assert loaded.probe.logit_change > loaded.probe.threshold
