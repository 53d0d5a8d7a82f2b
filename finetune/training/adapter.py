"""Writes the adapter directory of a trained model: weights, tokenizer, prompt contract, provenance, a plot of the run.

Knows PEFT models and tokenizers, but not how they were trained; whoever calls it has switched the model to inference.
"""

import errno
import gzip
import json
import logging
import os
import platform
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from peft import set_peft_model_state_dict
from safetensors.torch import load_file, save_file
from transformers import PreTrainedTokenizerBase

from app.adapter import base as bases
from app.adapter import contract as contracts
from app.adapter.behaviour import golden_nll
from app.adapter.cards import CARDS_FILE
from app.adapter.directory import RUN_FILE, WEIGHTS_FILE, is_adapter_directory
from app.adapter.hub import resolve_base
from app.adapter.lineage import is_llama
from app.engine.model import dtype_name
from app.errors import ConfigError
from app.settings import ROOT
from finetune import environment
from finetune.config import TrainConfig
from finetune.data.sources import Example, Source
from finetune.data.templates import end_ids, read_facts
from finetune.data.tokens import find_base_files
from finetune.training import plot
from finetune.training.checkpoints import writing
from finetune.training.encode import Row, digest

log = logging.getLogger(__name__)

LIBRARIES = ("torch", "transformers", "trl", "peft", "unsloth", "unsloth_zoo", "accelerate", "bitsandbytes", "datasets")


def identify(config: TrainConfig, folder: Path, commit: str | None, model_config: Any) -> contracts.BaseIdentity:
    """The base as an adapter in `config.output` names it: never by a path of this machine, so that it holds on others, too.

    Args:
        config: With `base`, and `base_id` where the owner states the hub id of a folder.
        folder: Where its files lie.
        commit: Of a base from the Hub; None for a folder.
        model_config: Of the opened model.
    """
    files = bases.weight_files(folder)
    weights = bases.weights_hash(folder) if files and all(path.is_file() for path in files) else None
    name = config.base if commit else config.base_id or _place(config, folder)
    if name is None:
        name = bases.hub_name(folder) or folder.name
        log.info("The adapter names its base %s, and no path of this machine; --base-id OWNER/NAME states another name.", name)
    return contracts.BaseIdentity(
        id=name,
        revision=commit or weights,
        architecture=contracts.architecture(model_config),
        equivalents=equivalents(name),
        weights_sha256=weights if commit else None,  # else the revision is that hash
        quantisation=None if bases.is_quantised(folder) else contracts.quantisation(model_config),
    )


def _place(config: TrainConfig, folder: Path) -> str | None:
    """The path by which an adapter finds a base in the repository or beside itself again; None for one that lies elsewhere."""
    output = Path(config.output).resolve()
    if folder.is_relative_to(ROOT):
        return folder.relative_to(ROOT).as_posix()
    if not Path(config.base).is_absolute() and (ROOT / config.base / "config.json").is_file():  # a link in the repository
        return config.base
    return Path(os.path.relpath(folder, output)).as_posix() if folder.is_relative_to(output.parent) else None


def must_be_named(output: Path, base: str) -> bool:
    """Whether an adapter does not find its base by itself: a folder that lies neither in the repository nor beside it."""
    return Path(base).is_dir() and resolve_base(contracts.read(output).base.id, output) is None


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
    _round_to_bf16(model)
    model.save_pretrained(partial)
    save_tokenizer(tokenizer, partial)
    (partial / "README.md").unlink(missing_ok=True)  # Unsloth's card states a licence that is not ours to give
    _to_bf16(partial / WEIGHTS_FILE)
    base = contracts.BaseIdentity.model_validate(run["base"] | {"architecture": contracts.architecture(model.config)})
    _set_base(partial / "adapter_config.json", base.id, base.commit)
    contracts.write(
        partial,
        tokenizer,
        base,
        golden_nll=golden_nll(model, tokenizer),
        trained_dtype=dtype_name(model),
        eos_token_ids=end_ids(tokenizer, read_facts(find_base_files(config.base, config.base_revision))),
        context_length=min(config.max_length, _positions(model.config) or config.max_length),
    )
    (partial / RUN_FILE).write_text(json.dumps(run, indent=1) + "\n", encoding="utf-8")
    plot.plot_run(run, partial / plot.NAME)
    if config.ship_cards:
        with gzip.GzipFile(partial / CARDS_FILE, "wb", mtime=0) as file:
            file.writelines(json.dumps(card).encode() + b"\n" for card in source.cards)


def _positions(config: Any) -> int | None:
    """How many tokens a model was made for, where its configuration says."""
    return getattr(config.get_text_config(), "max_position_embeddings", None)


def save_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Writes tokenizer and chat template so that transformers 4 and 5 alike read them as they are.

    Version 4 knows neither the class that version 5 names nor its list of extra tokens; and by the class of one model's tokenizer
    either version would put its own rules in the place of those in tokenizer.json.

    Raises:
        OSError: The disk is full.
    """
    try:
        tokenizer.save_pretrained(folder)
    except Exception as error:  # of a file that could not be written the library tells by `Exception` itself
        raise error if isinstance(error, OSError) else OSError(errno.ENOSPC, "the tokenizer could not be written") from error
    path = folder / "tokenizer_config.json"
    values = json.loads(path.read_text(encoding="utf-8"))
    values["tokenizer_class"] = "PreTrainedTokenizerFast"
    values["clean_up_tokenization_spaces"] = False  # version 4 would take spaces out of answers, version 5 does not
    if isinstance(extra := values.pop("extra_special_tokens", None), dict):
        values["extra_special_tokens"] = extra
    elif extra:
        values["additional_special_tokens"] = extra
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def equivalents(base: str) -> list[str]:
    """Hub ids that hold the same weights as a known base; Unsloth publishes each model in 4 and in 16 bits."""
    owner, _, name = base.partition("/")
    if owner != "unsloth":
        return []
    for suffix in ("-unsloth-bnb-4bit", "-bnb-4bit"):
        name = name.removesuffix(suffix)
    others = [f"unsloth/{name}", f"unsloth/{name}-bnb-4bit", *([f"meta-llama/{name}"] if name.startswith("Llama-") else [])]
    return [other for other in others if other != base]


@torch.no_grad()
def _round_to_bf16(model: Any) -> None:
    """Makes the model in memory the one that goes to disk, so that what the contract measures on it holds for the files."""
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.copy_(parameter.to(torch.bfloat16))


def _to_bf16(path: Path) -> None:
    save_file({name: tensor.to(torch.bfloat16) for name, tensor in load_file(path).items()}, path, metadata={"format": "pt"})


def _set_base(path: Path, base: str, commit: str | None) -> None:
    values = json.loads(path.read_text(encoding="utf-8"))
    values |= {"base_model_name_or_path": base, "revision": commit}
    path.write_text(json.dumps(values, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def weights_digest(folder: str | None) -> str | None:
    """A short digest of an adapter's weights; None where there is no adapter."""
    return "sha256:" + contracts.sha256(Path(folder) / WEIGHTS_FILE)[:16] if folder else None


def provenance(
    config: TrainConfig, source: Source, examples: list[Example], rows: list[Row], base: contracts.BaseIdentity
) -> dict[str, Any]:
    """What `run.json` says of where an adapter comes from; no absolute path and no name of a person or machine."""
    resolved = config.model_dump() | {"base": base.id, "data": source.id, "output": Path(config.output).name}
    if config.init_adapter:
        resolved["init_adapter"] = Path(config.init_adapter).name
    return {
        "base": base.model_dump(exclude={"architecture"}, exclude_defaults=True),
        "built_with_llama": any(is_llama(name, find_base_files(config.base, config.base_revision)) for name in (base.id, config.base)),
        "init_adapter": weights_digest(config.init_adapter),
        "data": {
            "id": source.id,
            "revision": source.revision,
            "licence": source.licence,
            "rows_read": source.rows_read,
            "rows_dropped": len(source.dropped),
            "dropped": dict(Counter(reason for _, reason in source.dropped)),
            "conversations": len(examples),
            "training_rows": len(rows),
            "training_rows_sha256": digest(rows),
            "rows": sorted({str(example.row) for example in examples}),
            "origins": source.rows_by_origin(examples),
        },
        "config": resolved,
        **environment.code(),
        "versions": environment.versions(LIBRARIES),
        "python": platform.python_version(),
        "hardware": torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads",
        "seed": config.seed,
    }


def load_weights(model: Any, folder: Path) -> None:
    """Puts the weights of an adapter directory in the place of the new ones.

    Raises:
        ConfigError: There is no adapter, or it has other layers or another rank.
    """
    if not is_adapter_directory(folder):
        raise ConfigError(f"There is no adapter in {folder} to go on from. Give a folder that training wrote as init_adapter.")
    try:
        result = set_peft_model_state_dict(model, load_file(folder / WEIGHTS_FILE))
    except RuntimeError as error:
        raise ConfigError(f"The adapter in {folder} has another rank than lora_rank asks for. Set lora_rank to its own.") from error
    if result.unexpected_keys or any("lora_" in key for key in result.missing_keys):
        raise ConfigError(f"The adapter in {folder} has other layers than target_modules asks for. Set target_modules to its own.")
