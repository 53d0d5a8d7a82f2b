"""Trains a LoRA adapter with Unsloth, on CPU or GPU through one code path, and writes an adapter directory.

    python -m finetune train --config seed

The only module that imports unsloth, which patches transformers at import and therefore comes first. The adapter is opened
again by `app.model`, in another process and without Unsloth, before anybody is told that training worked.
"""

import os

os.environ.setdefault("UNSLOTH_DISABLE_STATISTICS", "1")
os.environ.setdefault("UNSLOTH_RETURN_LOGITS", "1")
import unsloth  # isort: skip

import gzip
import importlib.metadata
import json
import logging
import platform
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import datasets
import torch
from peft import set_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tqdm import tqdm
from transformers import DataCollatorForSeq2Seq, PreTrainedTokenizerBase, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from app import contract as contracts
from app.errors import ConfigError, DataError, StorageError, UserError
from app.model import CARDS_FILE, RUN_FILE, fetch, is_adapter_directory, resolve_base, weights_hash
from app.settings import ROOT
from finetune.config import TEMPLATES, TrainConfig
from finetune.sources import Example, Message, Source, join_examples, load_source, noisy

log = logging.getLogger(__name__)

STATE_FILE = "trainer_state.json"
PAD_TOKEN = "<|finetune_right_pad_id|>"
END_TOKENS = ("<|eot_id|>", "<|end_of_text|>", "<|eom_id|>")
LIBRARIES = ("torch", "transformers", "trl", "peft", "unsloth", "unsloth_zoo", "accelerate", "bitsandbytes", "datasets")
FREE_LICENCES = {"cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "mit", "apache-2.0"}


class Progress(TrainerCallback):
    """A progress bar with loss, tokens per second and time left, a loss history, and a stop that leaves a checkpoint."""

    def __init__(self) -> None:
        self.history: list[dict[str, float]] = []
        self.interrupted = False
        self._bar: tqdm | None = None
        self._started = 0.0
        self._tokens_before = 0

    def interrupt(self, *_: Any) -> None:
        """Handles Ctrl-C: finish this step, save, stop; a second Ctrl-C ends at once."""
        self.interrupted = True
        signal.signal(signal.SIGINT, signal.default_int_handler)
        log.info("Stopping after this step and saving a checkpoint; press Ctrl-C again to stop at once.")

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Opens the bar and the history at the step that a resumed run starts from."""
        self.history = [{"step": entry["step"], "loss": round(entry["loss"], 5)} for entry in state.log_history if "loss" in entry]
        self._bar = tqdm(total=state.max_steps, initial=state.global_step, desc="training", unit="step")
        self._started, self._tokens_before = time.perf_counter(), int(state.num_input_tokens_seen or 0)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Moves the bar; asks for a checkpoint and a stop when interrupted."""
        if self._bar is not None:
            self._bar.update(state.global_step - self._bar.n)
        if self.interrupted:
            control.should_save = control.should_training_stop = True

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: dict | None = None, **_: Any) -> None:
        """Writes loss and tokens per second beside the bar."""
        if self._bar is None or not logs or "loss" not in logs:
            return
        speed = (int(state.num_input_tokens_seen or 0) - self._tokens_before) / (time.perf_counter() - self._started)
        self.history.append({"step": state.global_step, "loss": round(float(logs["loss"]), 5), "tokens_per_second": round(speed, 1)})
        self._bar.set_postfix(loss=f"{float(logs['loss']):.3f}", tok_s=f"{speed:.0f}")

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Closes the bar."""
        if self._bar is not None:
            self._bar.close()


def select(examples: list[Example], train_size: float, seed: int) -> list[Example]:
    """Draws a share (up to 1) or a number (above 1) of the examples by seed."""
    count = round(len(examples) * train_size) if train_size <= 1 else int(train_size)
    if not 1 <= count <= len(examples):
        raise DataError(
            f"train_size = {train_size:g} asks for {count} of {len(examples)} conversations. Give a share up to 1, or a number up to that."
        )
    return random.Random(seed).sample(examples, count)


def tokenize(tokenizer: PreTrainedTokenizerBase, messages: list[Message]) -> dict[str, list[int]]:
    """Token ids of a whole conversation, and labels that are -100 everywhere but on answers and their end-of-sequence token.

    Returns:
        `input_ids`, `labels` and `attention_mask`, each a list of T ints.
    """
    encoded = tokenizer.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
    ids, mask = list(encoded["input_ids"]), encoded["assistant_masks"]
    labels = [token if marked else -100 for token, marked in zip(ids, mask, strict=True)]
    return {"input_ids": ids, "labels": labels, "attention_mask": [1] * len(ids)}


def build_rows(examples: list[Example], tokenizer: PreTrainedTokenizerBase, config: TrainConfig) -> tuple[list[dict[str, list[int]]], int]:
    """Tokenises the examples, `config.copies` times each.

    Returns:
        The rows, and how many conversations were too long for `config.max_length`.

    Raises:
        DataError: More than a tenth of the conversations are too long, or carry no loss.
    """
    rng = random.Random(config.seed)
    rows, too_long, without_loss = [], 0, 0
    for _ in range(config.copies):
        for example in join_examples(examples, config.joined_share, rng):
            share = config.question_noise * 2 * rng.random()
            row = tokenize(tokenizer, (noisy(example, share, rng) if share else example).messages)
            if len(row["input_ids"]) > config.max_length:
                too_long += 1
            elif all(label == -100 for label in row["labels"]):
                without_loss += 1
            else:
                rows.append(row)
    lost = too_long + without_loss
    if lost > 0.1 * len(examples) * config.copies:
        raise DataError(
            f"{lost} of {len(examples) * config.copies} conversations cannot be trained on: "
            f"{too_long} are longer than max_length = {config.max_length} "
            f"tokens, {without_loss} carry no answer. Raise max_length or clean the data."
        )
    return rows, too_long


def base_name(base: str, folder: Path, output: Path) -> str:
    """The path by which an adapter in `output` finds a local base again; never absolute, so that it holds on other machines, too.

    Raises:
        ConfigError: The base lies neither in the repository nor beside the adapter.
    """
    if folder.is_relative_to(ROOT):
        return folder.relative_to(ROOT).as_posix()
    if not Path(base).is_absolute() and (ROOT / base / "config.json").is_file():  # a link in the repository
        return base
    if folder.is_relative_to(output.resolve().parent):
        return Path(os.path.relpath(folder, output.resolve())).as_posix()
    raise ConfigError(
        f"The base model in {folder} lies outside the repository, and an adapter may not hold a path of one machine. "
        f"Link it into the repository (ln -s {folder} {folder.name}) and train with --base {folder.name}."
    )


def open_base(config: TrainConfig) -> tuple[Any, PreTrainedTokenizerBase, str, str | None]:
    """Opens the base through Unsloth and puts our chat template on its tokenizer.

    Returns:
        Model, tokenizer, the base's portable name, and its revision.

    Raises:
        UserError: The base cannot be opened.
    """
    folder = resolve_base(config.base, Path.cwd())
    if folder:
        name, revision = base_name(config.base, folder, Path(config.output)), weights_hash(folder)
    elif config.base.startswith((".", "/", "~")) or config.base.count("/") > 1:
        raise ConfigError(
            f"There is no base model in the folder {config.base}. Give a folder with a config.json, or a hub id, with --base."
        )
    else:  # Unsloth asks a silent Hub for minutes; one small file tells the same at once, and the commit
        name, revision = config.base, fetch(config.base, config.base_revision, ["config.json"]).name
    on_gpu = torch.cuda.is_available()
    dtype = {"auto": None if on_gpu else torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[
        config.precision
    ]
    try:
        model, tokenizer = unsloth.FastLanguageModel.from_pretrained(
            model_name=str(folder or config.base),
            max_seq_length=config.max_length,
            dtype=dtype,
            load_in_4bit=config.load_in_4bit and on_gpu,
            revision=None if folder else config.base_revision,
        )
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"The base model {config.base} could not be opened ({reason}). Restore its files, or give another with --base."
        ) from error
    if not on_gpu:
        model.set_attn_implementation("eager")  # twice as fast backward as SDPA's on a CPU, for rows of a few hundred tokens
    if tokenizer.pad_token is None or tokenizer.pad_token == tokenizer.eos_token:
        # Padding with the end-of-sequence token would mask it out of the loss, and the tuned model would never stop.
        tokenizer.pad_token = PAD_TOKEN
    tokenizer.chat_template = (TEMPLATES / f"{config.template}.jinja").read_text(encoding="utf-8")
    return model, tokenizer, name, revision


def training_arguments(config: TrainConfig, output: Path, model: Any) -> Any:
    """Maps our configuration to Unsloth's (TRL's SFTConfig with two extra fields)."""
    on_gpu = torch.cuda.is_available()
    half = (
        str(model.dtype).removeprefix("torch.")
        if config.precision == "auto"
        else {"bf16": "bfloat16", "fp16": "float16"}.get(config.precision)
    )
    return unsloth.UnslothTrainingArguments(
        output_dir=str(output / "checkpoints"),
        per_device_train_batch_size=config.per_device_train_batch_size,
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        num_train_epochs=config.num_train_epochs,
        max_steps=config.max_steps,
        learning_rate=config.learning_rate,
        lr_scheduler_type=config.lr_scheduler_type,
        warmup_steps=config.warmup_steps,
        weight_decay=config.weight_decay,
        optim=config.optim if on_gpu or "8bit" not in config.optim else "adamw_torch",
        bf16=half == "bfloat16",
        fp16=half == "float16" and on_gpu,
        max_length=config.max_length,
        packing=config.packing and on_gpu,
        dataset_kwargs={"skip_prepare_dataset": True} if not config.packing else None,
        remove_unused_columns=False,
        train_sampling_strategy="group_by_length" if config.group_by_length else "random",
        logging_steps=5,
        logging_first_step=True,
        save_steps=config.save_steps,
        save_total_limit=2,
        include_num_input_tokens_seen=True,
        seed=config.seed,
        report_to=config.report_to,
        disable_tqdm=True,
        gradient_checkpointing=config.gradient_checkpointing and on_gpu,  # TRL's own default is on, whatever the model was prepared for
    )


def last_checkpoint(output: Path) -> Path | None:
    """The newest complete checkpoint of a run; one that a full disk or a second Ctrl-C cut off is passed over."""
    found = sorted(output.glob("checkpoints/checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]), reverse=True)
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


def build_trainer(
    model: Any, tokenizer: PreTrainedTokenizerBase, rows: list[dict[str, list[int]]], config: TrainConfig, callbacks: list[TrainerCallback]
) -> Any:
    """Unsloth's trainer over rows that are tokenised and carry their labels, with our progress bar in place of the usual two."""
    trainer = unsloth.UnslothTrainer(
        model=model,
        processing_class=tokenizer,
        train_dataset=datasets.Dataset.from_list(rows),
        args=training_arguments(config, Path(config.output), model),
        data_collator=None if config.packing else DataCollatorForSeq2Seq(tokenizer, pad_to_multiple_of=8),
        callbacks=callbacks,
    )
    for callback in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(callback)
    return trainer


def load_weights(model: Any, adapter: Path) -> None:
    """Puts the weights of an adapter directory in the place of the new ones.

    Raises:
        ConfigError: There is no adapter, or it has other layers or another rank.
    """
    if not is_adapter_directory(adapter):
        raise ConfigError(f"There is no adapter in {adapter} to go on from. Give a folder that training wrote as init_adapter.")
    try:
        result = set_peft_model_state_dict(model, load_file(adapter / "adapter_model.safetensors"))
    except RuntimeError as error:
        raise ConfigError(f"The adapter in {adapter} has another rank than lora_rank asks for. Set lora_rank to its own.") from error
    if result.unexpected_keys or any("lora_" in key for key in result.missing_keys):
        raise ConfigError(f"The adapter in {adapter} has other layers than target_modules asks for. Set target_modules to its own.")


def train(config: TrainConfig, resume: bool = False) -> Path:
    """Runs a training and writes the adapter directory `config.output`.

    Args:
        config: The resolved configuration.
        resume: Go on from the last checkpoint in `config.output`.

    Returns:
        The adapter directory; it also exists, with a checkpoint, when training was interrupted.

    Raises:
        UserError: Data, base or output cannot be used; the message names the cure.
        KeyboardInterrupt: Training was interrupted; a checkpoint was written.
    """
    output = Path(config.output)
    if is_adapter_directory(output) and not resume:
        raise StorageError(f"{output} already holds an adapter. Choose another folder with --output, or remove that one.")
    checkpoint = last_checkpoint(output) if resume else None
    if resume and checkpoint is None:
        raise StorageError(f"{output} holds no checkpoint to go on from. Start anew with the same command without --resume.")
    source = load_source(config.data, config.data_revision)
    examples = select(source.examples, config.train_size, config.seed)
    model, tokenizer, base, base_revision = open_base(config)
    rows, too_long = build_rows(examples, tokenizer, config)
    log.info(
        "%d conversations, %d rows (%d too long, %d rows of the source unusable)", len(examples), len(rows), too_long, len(source.dropped)
    )
    model = unsloth.FastLanguageModel.get_peft_model(
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
    if config.init_adapter:
        load_weights(model, Path(config.init_adapter))
    progress = Progress()
    trainer = build_trainer(model, tokenizer, rows, config, [progress])
    started = time.perf_counter()
    previous = signal.signal(signal.SIGINT, progress.interrupt)
    try:
        with writing(output):
            if checkpoint and is_finished(checkpoint):  # the trainer would add a step
                set_peft_model_state_dict(model, load_file(checkpoint / "adapter_model.safetensors"))
                trainer.state = TrainerState.load_from_json(str(checkpoint / STATE_FILE))
                progress.on_train_begin(trainer.args, trainer.state, trainer.control)
            else:
                trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    finally:
        signal.signal(signal.SIGINT, previous)
    if progress.interrupted:
        raise KeyboardInterrupt
    run = provenance(config, source, examples, rows, base, base_revision) | {
        "seconds": round(time.perf_counter() - started, 1),
        "tokens_seen": int(trainer.state.num_input_tokens_seen or 0),
        "loss_history": progress.history,
    }
    save(output, model, tokenizer, config, run, source)
    return output


def save(output: Path, model: Any, tokenizer: PreTrainedTokenizerBase, config: TrainConfig, run: dict[str, Any], source: Source) -> None:
    """Writes the adapter directory into a folder beside `output` and moves it there when it is complete.

    Raises:
        StorageError: The disk is full or not writable; checkpoints stay where they are.
    """
    partial = output.with_name(output.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        with writing(output):
            _write(partial, model, tokenizer, config, run, source)
            output.mkdir(parents=True, exist_ok=True)
            for path in partial.iterdir():
                path.replace(output / path.name)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write(partial: Path, model: Any, tokenizer: PreTrainedTokenizerBase, config: TrainConfig, run: dict[str, Any], source: Source) -> None:
    model.save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    (partial / "README.md").unlink(missing_ok=True)  # Unsloth's card states a licence that is not ours to give
    _to_bf16(partial / "adapter_model.safetensors")
    _set_base(partial / "adapter_config.json", run["base"]["id"], run["base"]["revision"])
    unsloth.FastLanguageModel.for_inference(model)
    contracts.write(
        partial,
        tokenizer,
        contracts.BaseIdentity(
            id=run["base"]["id"],
            revision=run["base"]["revision"],
            architecture=contracts.architecture(model.config),
            equivalents=equivalents(run["base"]["id"]),
        ),
        golden_nll=contracts.golden_nll(model, tokenizer),
        trained_dtype="4bit" if getattr(model, "is_loaded_in_4bit", False) else str(model.dtype).removeprefix("torch."),
        eos_token_ids=[i for i in map(tokenizer.convert_tokens_to_ids, END_TOKENS) if i is not None and i != tokenizer.unk_token_id],
        context_length=min(config.max_length, model.config.max_position_embeddings),
    )
    (partial / RUN_FILE).write_text(json.dumps(run, indent=1) + "\n", encoding="utf-8")
    if (source.licence or "").lower() in FREE_LICENCES:
        with gzip.GzipFile(partial / CARDS_FILE, "wb", mtime=0) as file:
            file.writelines(json.dumps(card).encode() + b"\n" for card in source.cards)


def equivalents(base: str) -> list[str]:
    """Hub ids that hold the same weights as a known base; Unsloth publishes each model in 4 and in 16 bits."""
    name = base.split("/")[-1]
    for suffix in ("-unsloth-bnb-4bit", "-bnb-4bit"):
        name = name.removesuffix(suffix)
    return (
        [other for other in (f"unsloth/{name}", f"unsloth/{name}-bnb-4bit", f"meta-llama/{name}") if other != base]
        if base.startswith("unsloth/")
        else []
    )


def _to_bf16(path: Path) -> None:
    save_file({name: tensor.to(torch.bfloat16) for name, tensor in load_file(path).items()}, path, metadata={"format": "pt"})


def _set_base(path: Path, base: str, revision: str | None) -> None:
    values = json.loads(path.read_text(encoding="utf-8"))
    values["base_model_name_or_path"] = base
    values["revision"] = None if revision and revision.startswith("sha256:") else revision
    path.write_text(json.dumps(values, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def _git(*arguments: str) -> str:
    try:
        return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:  # no git here
        return ""


def provenance(
    config: TrainConfig, source: Source, examples: list[Example], rows: list[dict[str, list[int]]], base: str, base_revision: str | None
) -> dict[str, Any]:
    """What `run.json` says of where an adapter comes from; no absolute path and no name of a person or machine."""
    digest = contracts.hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(row["input_ids"]).encode())
    resolved = config.model_dump() | {"base": base, "data": source.id, "output": Path(config.output).name}
    if config.init_adapter:
        resolved["init_adapter"] = Path(config.init_adapter).name
    return {
        "base": {"id": base, "revision": base_revision},
        "init_adapter": "sha256:" + contracts.sha256(Path(config.init_adapter) / "adapter_model.safetensors")[:16]
        if config.init_adapter
        else None,
        "data": {
            "id": source.id,
            "revision": source.revision,
            "licence": source.licence,
            "rows_read": source.rows_read,
            "rows_dropped": len(source.dropped),
            "conversations": len(examples),
            "training_rows": len(rows),
            "training_rows_sha256": digest.hexdigest(),
            "rows": sorted({str(example.row) for example in examples}),
        },
        "config": resolved,
        "commit": _git("rev-parse", "HEAD") or None,
        "dirty": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "versions": {name: importlib.metadata.version(name) for name in LIBRARIES},
        "python": platform.python_version(),
        "hardware": torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads",
        "seed": config.seed,
    }
