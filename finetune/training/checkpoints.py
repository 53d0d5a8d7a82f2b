"""A run's folder between start and end: its configuration, its checkpoints, and what kills, full disks and small cards leave of them.

Knows files and configurations, but no model and no trainer.
"""

import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml
from pydantic import ValidationError
from safetensors import SafetensorError

from app.adapter.directory import WEIGHTS_FILE, is_adapter_directory
from app.errors import ConfigError, StorageError, TrainingFailed
from finetune.config import TrainConfig

log = logging.getLogger(__name__)

STATE_FILE = "trainer_state.json"
CONFIG_FILE = "config.yaml"
IDENTITY_FILE = "identity.json"
# A resumed run may differ in these; everything else decides the weights that come out.
FREE_TO_CHANGE = {"output", "report_to", "logging_steps", "per_device_train_batch_size", "gradient_accumulation_steps"}
# Names of what is known again by its content, wherever it lies today.
BY_CONTENT = {"base", "base_id", "base_revision", "data", "data_revision", "columns", "encoding", "init_adapter"}


def folder(output: Path) -> Path:
    """Where the checkpoints of a run lie."""
    return output / "checkpoints"


def last_checkpoint(output: Path) -> Path | None:
    """The newest complete checkpoint of a run; one that a full disk, a kill or a second Ctrl-C cut off is passed over."""
    found = sorted(folder(output).glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]), reverse=True)
    for path in found:
        try:
            json.loads((path / STATE_FILE).read_bytes())  # the file that is written last
            return path
        except (OSError, ValueError):
            log.warning("%s is incomplete and is passed over.", path)
    return None


def is_finished(checkpoint: Path) -> bool:
    """Whether a checkpoint holds the last step of its run."""
    state = json.loads((checkpoint / STATE_FILE).read_bytes())
    return bool(state["global_step"] >= state["max_steps"])


def best_checkpoint(output: Path, recorded: str | None) -> Path | None:
    """The checkpoint of the lowest validation loss, by the path that the trainer recorded, wherever the folder lies today."""
    path = folder(output) / Path(recorded).name if recorded else None
    return path if path and (path / WEIGHTS_FILE).is_file() else None


def begin(config: TrainConfig, resume: bool) -> Path | None:
    """Claims the output folder for a run, or finds where to go on.

    Returns:
        The checkpoint to go on from; None to start from the first step.

    Raises:
        StorageError: The folder holds another run, or nothing to resume.
        ConfigError: The run in the folder was started with other settings.
    """
    output = Path(config.output)
    checkpoint = last_checkpoint(output)
    kept = folder(output) / CONFIG_FILE
    if not resume:
        if is_adapter_directory(output):
            raise StorageError(f"{output} already holds an adapter. Choose another folder with --output, or remove that one.")
        if checkpoint:
            raise StorageError(
                f"{output} holds an unfinished run ({checkpoint.name}). Go on with it by --resume, choose another folder with --output, "
                "or remove that one."
            )
    elif checkpoint is None and not kept.is_file():
        raise StorageError(f"{output} holds no checkpoint to go on from. Start anew with the same command without --resume.")
    else:
        _check_unchanged(config, kept)
        if checkpoint is None:
            log.info("%s was stopped before its first checkpoint: it starts again from the first step.", output)
    if not is_first_process():
        return checkpoint
    with writing(output):
        kept.parent.mkdir(parents=True, exist_ok=True)
        if not resume:
            kept.with_name(IDENTITY_FILE).unlink(missing_ok=True)
        partial = kept.with_suffix(".partial")
        partial.write_text(yaml.safe_dump(config.model_dump(), sort_keys=False), encoding="utf-8")
        partial.replace(kept)
    return checkpoint


def _check_unchanged(config: TrainConfig, kept: Path) -> None:
    try:
        before = TrainConfig(**yaml.safe_load(kept.read_text(encoding="utf-8"))).model_dump()
    except (OSError, yaml.YAMLError, TypeError, ValidationError):  # a folder of another version
        return
    now = config.model_dump()
    free = FREE_TO_CHANGE | (BY_CONTENT if kept.with_name(IDENTITY_FILE).is_file() else set())
    differs = [f"{key} = {value} (now {now.get(key)})" for key, value in before.items() if key not in free and now.get(key) != value]
    batches = before["per_device_train_batch_size"] * before["gradient_accumulation_steps"]
    if batches != config.per_device_train_batch_size * config.gradient_accumulation_steps:
        differs.append(f"{batches} conversations a step (now {config.per_device_train_batch_size * config.gradient_accumulation_steps})")
    if differs:
        raise ConfigError(
            f"The run in {kept.parent.parent} was started with {'; '.join(differs)[:250]}. "
            "Resume it with the settings that it was started with, or start another with --output."
        )


def check_content(output: Path, **content: str | None) -> None:
    """Notes digests of what a run is made from, or compares them with those that it began with.

    Args:
        output: The run's folder.
        content: Digests by the name of what they are of, for people; None where there is nothing of it.

    Raises:
        ConfigError: A run that goes on would go on with something else.
    """
    if not is_first_process():  # the others end with it
        return
    path = folder(output) / IDENTITY_FILE
    before = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    changed = [name for name, digest in content.items() if before.get(name, digest) != digest]
    if changed:
        raise ConfigError(
            f"The {changed[0]} is not what the run in {output} was started with: its content changed. "
            "Go on with the content that it was started with, or start another run with --output."
        )
    with writing(output):
        path.write_text(json.dumps(before | content, indent=1) + "\n", encoding="utf-8")


def smaller_micro_batch(config: TrainConfig) -> TrainConfig:
    """The same conversations a step in smaller forward passes: half of them at a time, or the next smaller part that divides them.

    Raises:
        TrainingFailed: They are already taken one by one.
    """
    batch = config.per_device_train_batch_size
    if batch == 1:
        raise TrainingFailed(
            f"The memory of the card does not hold one row of up to max_length = {config.max_length} tokens. Lower max_length, set "
            "gradient_checkpointing=true or load_in_4bit=true, or choose a smaller base; then go on with the same output and --resume."
        )
    smaller = next(size for size in range(batch // 2, 0, -1) if batch % size == 0)
    accumulation = config.gradient_accumulation_steps * (batch // smaller)
    log.warning(
        "Out of memory with %d conversations in one pass: going on with %d, and %d passes a step instead of %d. A step still sees %d.",
        batch,
        smaller,
        accumulation,
        config.gradient_accumulation_steps,
        smaller * accumulation,
    )
    return config.model_copy(update={"per_device_train_batch_size": smaller, "gradient_accumulation_steps": accumulation})


def per_process(config: TrainConfig, processes: int) -> TrainConfig:
    """One process's share of a step, so that all of them together see as many conversations as one alone would.

    Raises:
        ConfigError: The conversations of a step cannot be shared out evenly.
    """
    batch, accumulation = config.per_device_train_batch_size, config.gradient_accumulation_steps
    if accumulation % processes == 0:
        return config.model_copy(update={"gradient_accumulation_steps": accumulation // processes})
    if batch % processes == 0:
        return config.model_copy(update={"per_device_train_batch_size": batch // processes})
    raise ConfigError(
        f"{batch} x {accumulation} conversations a step cannot be shared out to {processes} processes. Make "
        "per_device_train_batch_size or gradient_accumulation_steps a multiple of their number."
    )


def processes() -> int:
    """How many processes train together; `torchrun` says so in the environment."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first_process() -> bool:
    """Whether this process is the one that writes and talks."""
    return int(os.environ.get("RANK", "0")) == 0


@contextmanager
def writing(output: Path) -> Iterator[None]:
    """Turns what happens on a full disk into a StorageError.

    Raises:
        StorageError: A file could not be written.
    """
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "inline_container" not in str(error):  # the archive writer behind torch.save
            raise
        reason = getattr(error, "strerror", None) or "the disk is full"
        raise StorageError(
            f"Writing to {output} failed ({reason}). "
            "Free some space and go on with the same command and --resume; what was complete is kept."
        ) from error
