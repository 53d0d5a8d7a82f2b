"""Our configuration in the words of the trainer. Knows TRL's and Unsloth's names of arguments, and imports neither."""

from pathlib import Path
from typing import Any

import torch

from finetune.config import PROJECT, TrainConfig
from finetune.training import checkpoints

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
# Keys of our configuration that the trainer knows by the same name and means the same by.
SAME = {"num_train_epochs", "max_steps", "learning_rate", "lr_scheduler_type", "warmup_steps", "weight_decay", "max_length"}
SAME |= {"logging_steps", "seed", "report_to"}
ALWAYS = {
    "per_device_eval_batch_size": 8,
    "remove_unused_columns": False,
    "logging_first_step": True,
    "logging_nan_inf_filter": False,  # our trainer looks at every loss itself
    "save_total_limit": 2,
    "prediction_loss_only": True,
    "project": PROJECT,
    "trackio_static_space_id": False,  # else a push to the Hub would make a public page of the metrics
    "disable_tqdm": True,
}


def training_arguments(config: TrainConfig, dtype: torch.dtype, validating: bool) -> dict[str, Any]:
    """The arguments of `unsloth.UnslothTrainingArguments`, which is TRL's SFTConfig with two extra fields.

    Args:
        config: The resolved configuration.
        dtype: Of the open base; what "auto" precision means.
        validating: Validation rows are there.
    """
    on_gpu = torch.cuda.is_available()
    share = checkpoints.per_process(config, checkpoints.processes())
    half = str(dtype if config.precision == "auto" else DTYPES[config.precision]).removeprefix("torch.")
    steps = config.save_steps if config.save_steps < 1 else int(config.save_steps)
    return {
        **ALWAYS,
        **config.model_dump(include=SAME),
        "output_dir": str(checkpoints.folder(Path(config.output))),
        "run_name": Path(config.output).name,
        "per_device_train_batch_size": share.per_device_train_batch_size,
        "gradient_accumulation_steps": share.gradient_accumulation_steps,
        "optim": config.optim if on_gpu or not config.optim.endswith(("8bit", "fused")) else "adamw_torch",
        "gradient_checkpointing": config.gradient_checkpointing and on_gpu,  # TRL's own default is on
        "bf16": half == "bfloat16",
        "fp16": half == "float16" and on_gpu,
        "padding_free": config.padding_free if on_gpu else False,
        "packing": config.packing and on_gpu,
        # On a GPU Unsloth joins rows only where it may check their lengths; on a CPU there is nothing to prepare.
        "dataset_kwargs": None if on_gpu else {"skip_prepare_dataset": True},
        "train_sampling_strategy": "group_by_length" if config.group_by_length else "random",
        "save_steps": steps,
        "eval_strategy": "steps" if validating else "no",
        "eval_steps": steps if validating else None,
        "metric_for_best_model": "eval_loss" if validating else None,
        "greater_is_better": False if validating else None,
        "load_best_model_at_end": validating,
        "ddp_find_unused_parameters": False if checkpoints.processes() > 1 else None,
    }


def as_run(config: TrainConfig, dtype: torch.dtype, in_4bit: bool) -> dict[str, Any]:
    """What a run really used of the settings that mean something else on this device, by the names of our configuration.

    Args:
        config: The resolved configuration.
        dtype: Of the open base.
        in_4bit: The base was opened in 4 bits.
    """
    used = training_arguments(config, dtype, validating=False)
    half = dtype if config.precision == "auto" else DTYPES[config.precision]
    precision = next((name for name, kind in DTYPES.items() if kind == half), config.precision)
    names = ("optim", "gradient_checkpointing", "padding_free", "packing")
    return {name: used[name] for name in names} | {"load_in_4bit": in_4bit, "precision": precision}
