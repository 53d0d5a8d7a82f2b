"""Trains a LoRA adapter with Unsloth, on CPU or GPU through one code path, and writes an adapter directory.

    python -m finetune train --config seed
    torchrun --nproc-per-node 2 -m finetune train --config fast

The only module that imports unsloth, which patches transformers at import and therefore comes first. The adapter is opened
again by `app.engine.model`, in another process and without Unsloth, before anybody is told that training worked.
"""

import os

os.environ.setdefault("UNSLOTH_DISABLE_STATISTICS", "1")
import unsloth  # isort: skip

import gc
import importlib.util
import json
import logging
import resource
import signal
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import torch
from peft import get_peft_model_state_dict, set_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import DataCollatorForSeq2Seq, EarlyStoppingCallback, PreTrainedTokenizerBase, TrainerState
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from app.adapter.contract import BaseIdentity
from app.adapter.directory import WEIGHTS_FILE
from app.adapter.hub import resolve_base
from app.adapter.prompts import prompt_ids, stop_token
from app.errors import ConfigError, TrainingFailed, UserError
from app.settings import ROOT
from finetune.config import TrainConfig
from finetune.data.sources import Example, Source, check_may_travel, load_source
from finetune.data.tokens import find_base_files, open_tokenizer
from finetune.training import adapter, checkpoints, preflight
from finetune.training.arguments import DTYPES, as_run, training_arguments
from finetune.training.compiling import CompileLayers
from finetune.training.encode import Row, build_rows, digest, split, trained_cards, validation_rows
from finetune.training.progress import Progress, Stopwatch, loss_history, validation_history
from finetune.training.unquantised import measure_beside

log = logging.getLogger(__name__)

BAD_BATCH_FILE = "bad_batch.json"


class Trainer(unsloth.UnslothTrainer):
    """Unsloth's trainer that counts real tokens, logs speed and memory, and stops at a loss that is no number."""

    watch: Stopwatch
    output: Path

    def training_step(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        """One forward and backward pass; raises TrainingFailed, with the batch saved, when its loss is infinite or NaN."""
        loss: torch.Tensor = super().training_step(model, inputs, *args, **kwargs)
        if not bool(torch.isfinite(loss)):
            self._stop_on(inputs, float(loss))
        mask = inputs.get("attention_mask")
        tokens = int(inputs["input_ids"].numel() if mask is None else mask.sum()) * self.args.world_size
        self.watch.tokens += tokens
        self.state.num_input_tokens_seen += tokens
        return loss

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Adds tokens per second of training alone and the peak of memory in GiB, for history and trackers alike."""
        if "loss" in logs:
            logs |= {"tokens_per_second": round(self.watch.read(), 1), "memory_gib": round(peak_memory() / 2**30, 3)}
        super().log(logs, *args, **kwargs)

    def _stop_on(self, inputs: dict[str, Any], loss: float) -> None:
        path = checkpoints.folder(self.output) / BAD_BATCH_FILE
        batch = {key: value.tolist() for key, value in inputs.items() if isinstance(value, torch.Tensor)}
        with checkpoints.writing(self.output):
            path.write_text(json.dumps({"step": self.state.global_step + 1, "loss": str(loss)} | batch), encoding="utf-8")
        raise TrainingFailed(
            f"The loss of step {self.state.global_step + 1} is {loss}, so training stopped before it ruined the weights. "
            f"The batch is in {path}. Lower learning_rate, or use precision=bf16 or fp32; the checkpoints before it are kept."
        )


def peak_memory() -> int:
    """Most memory that this process held so far, in bytes: the card's, or the computer's where there is no card."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def device_name() -> str:
    """What trains, for people."""
    if torch.cuda.is_available():
        card = torch.cuda.get_device_properties(0)
        return f"{checkpoints.processes()} x {card.name} with {card.total_memory / 2**30:.0f} GiB"
    return f"the CPU, {torch.get_num_threads()} threads; a GPU is many times as fast"


def open_base(config: TrainConfig) -> tuple[Any, PreTrainedTokenizerBase, BaseIdentity, Path]:
    """Opens the base through Unsloth, and its tokenizer with our prompt format.

    Returns:
        Model, tokenizer, what the adapter will say of the base, and the base's folder.

    Raises:
        UserError: The base cannot be opened.
    """
    folder = find_base_files(config.base, config.base_revision)
    local = resolve_base(config.base, Path.cwd()) is not None
    tokenizer = open_tokenizer(config.base, config.base_revision, config.template)
    on_gpu = torch.cuda.is_available()
    try:
        with tempfile.TemporaryDirectory() as fitted:  # of the base's own tokenizer Unsloth would mend what it takes for faults
            with checkpoints.writing(Path(config.output)):
                adapter.save_tokenizer(tokenizer, Path(fitted))
            model, _ = unsloth.FastLanguageModel.from_pretrained(
                model_name=str(folder) if local else config.base,
                tokenizer_name=fitted,
                max_seq_length=config.max_length,
                dtype=DTYPES.get(config.precision, None if on_gpu else torch.float32),
                load_in_4bit=config.load_in_4bit and on_gpu,
                revision=None if local else config.base_revision,
                use_exact_model_name=config.load_in_4bit and on_gpu,  # else another repository is opened than the one that is recorded
            )
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"The base model {config.base} could not be opened ({reason}). Restore its files, or give another with --base."
        ) from error
    model.generation_config.max_length = None  # Unsloth puts the context's length there; ours is said with each answer
    if not on_gpu:
        model.set_attn_implementation("eager")  # its backward is faster than SDPA's on a CPU, for rows of a few hundred tokens
    return model, tokenizer, adapter.identify(config, folder, None if local else folder.name, model.config), folder


def add_lora(model: Any, config: TrainConfig) -> Any:
    """Puts fresh LoRA matrices on a base that Unsloth opened."""
    return unsloth.FastLanguageModel.get_peft_model(
        model,
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules=config.target_modules,
        bias="none",
        use_rslora=config.use_rslora,
        use_gradient_checkpointing="unsloth" if config.gradient_checkpointing and torch.cuda.is_available() else False,
        random_state=config.seed,
    )


def build_trainer(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    rows: list[Row],
    config: TrainConfig,
    progress: Progress | None = None,
    validation: list[Row] | None = None,
) -> Trainer:
    """The trainer over rows that are tokenised and carry their labels, with our progress bar in place of the usual two."""
    # On a GPU Unsloth chooses the collator, which can join rows instead of padding them; on a CPU that saves nothing.
    on_gpu = torch.cuda.is_available()
    progress = progress or Progress()
    callbacks = [progress, *([] if on_gpu else [CompileLayers()])]  # on a GPU Unsloth compiles what pays
    if config.early_stopping and validation:
        callbacks.append(EarlyStoppingCallback(config.early_stopping))
    trainer = Trainer(
        model=model,
        processing_class=tokenizer,
        train_dataset=datasets.Dataset.from_list(rows),
        eval_dataset=datasets.Dataset.from_list(validation) if validation else None,
        args=unsloth.UnslothTrainingArguments(**training_arguments(config, model.dtype, bool(validation))),
        data_collator=None if on_gpu else DataCollatorForSeq2Seq(tokenizer, pad_to_multiple_of=8),
        callbacks=callbacks,
    )
    trainer.watch, trainer.output = progress.watch, Path(config.output)
    for callback in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(callback)
    return trainer


def reply(model: Any, tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, str]], max_new_tokens: int = 48) -> str:
    """The greedy beginning of an answer from a model in training, which is in training again afterwards."""
    unsloth.FastLanguageModel.for_inference(model)
    try:
        prompt = torch.tensor([prompt_ids(tokenizer, messages)], device=model.device)
        ends = {"eos_token_id": stop_token(tokenizer), "pad_token_id": tokenizer.pad_token_id}
        with torch.inference_mode():
            ids = model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=max_new_tokens, do_sample=False, **ends)
        return str(tokenizer.decode(ids[0, prompt.shape[1] :], skip_special_tokens=True)).strip()
    finally:
        unsloth.FastLanguageModel.for_training(model)


def _run(trainer: Trainer, checkpoint: Path | None, progress: Progress) -> None:
    """Trains to the end; a checkpoint that is already at the end is only opened, since the trainer would add a step."""
    previous = signal.signal(signal.SIGINT, progress.interrupt)
    output = trainer.output
    try:
        with checkpoints.writing(output):
            if checkpoint and checkpoints.is_finished(checkpoint):
                trainer.state = TrainerState.load_from_json(str(checkpoint / checkpoints.STATE_FILE))
                best = checkpoints.best_checkpoint(output, trainer.state.best_model_checkpoint) or checkpoint
                set_peft_model_state_dict(trainer.model, load_file(best / WEIGHTS_FILE))
            else:
                trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    finally:
        signal.signal(signal.SIGINT, previous)


def fit(
    model: Any, tokenizer: PreTrainedTokenizerBase, rows: list[Row], config: TrainConfig, checkpoint: Path | None, **held_out: Any
) -> Any:
    """Trains, with a smaller micro-batch after each time that memory ran out.

    Args:
        model: Base with fresh LoRA matrices; trained in place.
        tokenizer: Its tokenizer.
        rows: Training rows.
        config: The configuration.
        checkpoint: Where to go on from.
        held_out: `validation` (rows) and `questions` (conversations) of the validation set.

    Returns:
        The trainer at the end of training.

    Raises:
        TrainingFailed: The loss was no number, or memory does not hold one row.
        KeyboardInterrupt: Training was interrupted; a checkpoint was written.
    """
    fresh = {name: tensor.detach().cpu().clone() for name, tensor in get_peft_model_state_dict(model).items()}
    questions: list[Example] = held_out.get("questions") or []
    while True:
        progress = Progress(Stopwatch(), questions, lambda messages: reply(model, tokenizer, messages), config.seed)
        trainer = build_trainer(model, tokenizer, rows, config, progress, held_out.get("validation"))
        try:
            _run(trainer, checkpoint, progress)
            if progress.interrupted:
                raise KeyboardInterrupt
            return trainer
        except torch.OutOfMemoryError:
            if checkpoints.processes() > 1:  # the others wait for this one in the middle of a step
                raise TrainingFailed(
                    "A card ran out of memory. Halve per_device_train_batch_size, double gradient_accumulation_steps, "
                    "and go on with --resume."
                ) from None
        config = checkpoints.smaller_micro_batch(config)
        trainer.accelerator.free_memory()
        del trainer  # the optimizer's memory goes with it
        model.zero_grad(set_to_none=True)
        set_peft_model_state_dict(model, fresh)
        gc.collect()
        torch.cuda.empty_cache()
        checkpoint = checkpoints.last_checkpoint(Path(config.output))


def _course(trainer: Trainer, started: float) -> dict[str, Any]:
    """What happened, for `run.json`; `started` is the reading of `time.perf_counter` before training."""
    state = trainer.state
    best = checkpoints.best_checkpoint(trainer.output, state.best_model_checkpoint)
    return {
        "seconds": round(time.perf_counter() - started, 1),
        "tokens_seen": int(state.num_input_tokens_seen or 0),
        "processes": checkpoints.processes(),
        "micro_batch": trainer.args.per_device_train_batch_size,
        "best_step": int(best.name.rpartition("-")[2]) if best else None,
        "loss_history": loss_history(state.log_history),
        "validation_history": validation_history(state.log_history),
    }


def _check_tracker(name: str) -> None:
    os.environ.setdefault("TRACKIO_DIR", str(ROOT / "outputs" / "trackio"))
    if name != "none" and importlib.util.find_spec(name) is None:
        raise ConfigError(f"report_to = {name} needs a package that is not installed: pip install {name}, or none.")


def _tokenise(examples: list[Example], held_out: list[Example], source: Source, config: TrainConfig) -> tuple[list[Row], list[Row]]:
    """Looks at the base and makes rows for training and validation with its tokenizer, before its weights are opened."""
    tokenizer = preflight.check_base(config)
    rows, too_long = build_rows(examples, tokenizer, config)
    validation = validation_rows(held_out, tokenizer, config)
    content = {"data": digest([*rows, *validation]), "init_adapter": adapter.weights_digest(config.init_adapter)}
    checkpoints.check_content(Path(config.output), **content)
    counts = (len(examples), len(rows), too_long, len(source.dropped), len(validation))
    log.info("%d conversations, %d rows (%d too long, %d rows of the source unusable), %d for validation", *counts)
    source.log_losses()
    return rows, validation


def train(config: TrainConfig, resume: bool = False) -> Path:
    """Runs a training and writes the adapter directory `config.output`.

    Args:
        config: The resolved configuration.
        resume: Go on from the last checkpoint in `config.output`.

    Returns:
        The adapter directory; it also exists, with a checkpoint, when training was interrupted.

    Raises:
        UserError: Data, base or output cannot be used, or training cannot go on; the message names the cure.
        KeyboardInterrupt: Training was interrupted; a checkpoint was written.
    """
    output = Path(config.output)
    checkpoints.per_process(config, checkpoints.processes())
    _check_tracker(config.report_to)
    preflight.check_places(config)
    checkpoint = checkpoints.begin(config, resume)
    source = load_source(config.data, config.data_revision, config.columns, config.encoding, config.max_dropped)
    if config.ship_cards:
        check_may_travel(source)
    examples, held_out = split(source, config)
    source = replace(source, cards=trained_cards(source, examples))
    rows, validation = _tokenise(examples, held_out, source, config)
    log.info("Training on %s.", device_name())
    model, tokenizer, base, folder = open_base(config)
    checkpoints.check_content(output, base=base.weights or base.commit)
    model = add_lora(model, config)
    if config.init_adapter:
        adapter.load_weights(model, Path(config.init_adapter))
    started = time.perf_counter()
    trainer = fit(model, tokenizer, rows, config, checkpoint, validation=validation, questions=held_out)
    run = adapter.provenance(config, source, examples, rows, base) | _course(trainer, started) | {"validation_rows": len(validation)}
    run["config"] |= as_run(config, model.dtype, bool(getattr(model, "is_loaded_in_4bit", False)))
    if checkpoints.is_first_process():
        unsloth.FastLanguageModel.for_inference(trainer.model)
        adapter.save(output, trainer.model, tokenizer, config, run, source)
        measure_beside(output, folder)
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
    return output
