"""Makes an adapter directory of a LoRA that was trained elsewhere, or of a checkpoint of one of our own runs.

    python -m finetune adopt DIR [--template medical|llama3|native] [--base ...] [--output ...]

DIR is what PEFT, TRL, Unsloth or axolotl saved. Its contract is made now: which prompts it was trained with its owner states, and no file
of DIR proves it. DIR stays as it is. Opens models as the app does, never with Unsloth.
"""

import json
import logging
import platform
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerBase

from app.adapter import contract as contracts
from app.adapter.behaviour import golden_nll, verify_behaviour
from app.adapter.directory import CONFIG_FILE, RUN_FILE, WEIGHTS_FILE, find_folder, read_peft_config
from app.adapter.hub import fetch, resolve_base
from app.adapter.lineage import is_llama
from app.engine.model import default_device, dtype_name, open_base, put_adapter
from app.errors import AdapterError, AdapterNotFound, ConfigError, StorageError
from app.settings import ROOT
from finetune import environment
from finetune.config import TrainConfig
from finetune.data.templates import end_ids
from finetune.data.tokens import find_base_files, open_fitted
from finetune.training import adapter, checkpoints

log = logging.getLogger(__name__)

COPIED = ("LICENSE*", "LICENCE*", "NOTICE*", "USE_POLICY*")


@dataclass(frozen=True)
class Options:
    """What the owner of an adapter states.

    Attributes:
        template: The prompt format that it was trained with; None to take that of the run whose checkpoint it is.
        base: Its base, a hub id or a folder; None to take the one that it names.
        base_id: Hub id by which it names a base that is a folder.
        output: Folder to write into; None for one of its name in outputs/.
        max_length: Tokens that prompt and answer may have together; None for the run's, or the default of training.
    """

    template: str | None = None
    base: str | None = None
    base_id: str | None = None
    output: Path | None = None
    max_length: int | None = None


def adopt(name: str, options: Options) -> Path:
    """Writes an adapter directory; its contract is measured on this machine, with the base as the app opens it here.

    Returns:
        The directory.

    Raises:
        UserError: The adapter cannot be opened, does not change its base, or lacks what its owner must state.
    """
    source = find_folder(name)
    if source is None:
        raise AdapterNotFound(f"There is no folder {name[:200]}. Give one that holds {CONFIG_FILE} and {WEIGHTS_FILE}.")
    source = source.resolve()
    peft = _read(source)
    run = _own_run(source)
    output = (options.output or ROOT / "outputs" / (f"{run.output}-{source.name}" if run else source.name)).resolve()
    config = _configuration(source, peft, run, options, output)
    _check_place(source, output)
    folder = find_base_files(config.base, config.base_revision)
    tokenizer, facts = open_fitted(folder, config.base, config.template)
    _compare_tokenizer(source, tokenizer)
    commit = None if resolve_base(config.base, Path.cwd()) else fetch(config.base, config.base_revision).name
    base = adapter.identify(config, folder, commit, AutoConfig.from_pretrained(folder, trust_remote_code=False))
    partial = output.with_name(output.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        with checkpoints.writing(output):
            partial.mkdir(parents=True)
            _copy(source, partial, peft, base)
            adapter.save_tokenizer(tokenizer, partial)
            stated: dict[str, Any] = {"eos_token_ids": end_ids(tokenizer, facts), "origin": "checkpoint" if run else "elsewhere"}
            stated |= {"golden_nll": 0.0, "trained_dtype": "", "context_length": config.max_length}  # measured below
            contract = contracts.write(partial, tokenizer, base, **stated)
            _measure(partial, contract, tokenizer, folder)
            _write_record(partial, config, base, stated["origin"], folder)
            output.mkdir(parents=True, exist_ok=True)
            for path in partial.iterdir():
                path.replace(output / path.name)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return output


def _read(source: Path) -> dict[str, Any]:
    """The values of adapter_config.json of an adapter that the app can open."""
    if not (source / CONFIG_FILE).is_file():
        raise AdapterError(f"{source.name} is no adapter: it has no {CONFIG_FILE}. Give the folder that PEFT's save_pretrained wrote.")
    if not (source / WEIGHTS_FILE).is_file():
        raise AdapterError(
            f"{source.name} has no {WEIGHTS_FILE}. Weights in pickle form are never opened here: save them as safetensors with PEFT."
        )
    read_peft_config(source, source.name)
    return dict(json.loads((source / CONFIG_FILE).read_text(encoding="utf-8")))


def _own_run(source: Path) -> TrainConfig | None:
    """The configuration of our own run whose checkpoint a folder is; None for anything else."""
    kept = source.parent / checkpoints.CONFIG_FILE
    if not (source.name.startswith("checkpoint-") and kept.is_file()):
        return None
    try:
        config = TrainConfig.model_validate(yaml.safe_load(kept.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, yaml.YAMLError, ValidationError):  # somebody else's file
        return None
    return config.model_copy(update={"output": source.parent.parent.name})


def _configuration(source: Path, peft: dict[str, Any], run: TrainConfig | None, options: Options, output: Path) -> TrainConfig:
    """What is stated and what the files say, in the form of a training's configuration."""
    template = options.template or (run.template if run else None)
    if template is None:
        raise ConfigError(
            f"Nothing in {source.name} proves which prompts it was trained with. State it with --template: native for the base's own chat "
            "template, medical or llama3 for ours."
        )
    named = run.base if run else peft.get("base_model_name_or_path")
    base = options.base or named
    if not base:
        raise ConfigError(f"{CONFIG_FILE} of {source.name} names no base model. State it with --base, a hub id or a folder.")
    start = run or TrainConfig.model_validate({})
    values = {
        "base": base,
        "base_id": options.base_id or (start.base_id if run and base == named else None),
        "base_revision": (run.base_revision if run else peft.get("revision")) if base == named else None,
        "template": template,
        "output": str(output),
        "max_length": options.max_length or start.max_length,
        "lora_rank": peft.get("r"),
        "lora_alpha": peft.get("lora_alpha"),
        "lora_dropout": peft.get("lora_dropout", 0.0),
        "use_rslora": peft.get("use_rslora", False),
    }
    try:
        return TrainConfig.model_validate(start.model_dump() | values)
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(f"{'.'.join(map(str, first['loc']))} = {first.get('input')!r} is not allowed: {first['msg']}.") from error


def _check_place(source: Path, output: Path) -> None:
    if output == source:
        pickles = sorted(path.name for path in source.iterdir() if path.suffix in (".bin", ".pt", ".pth"))
        if pickles:
            raise StorageError(
                f"{source.name} holds {', '.join(pickles[:3])}, which the app opens no adapter beside. Choose another folder with --output."
            )
    elif output.is_relative_to(source) or (output.exists() and (not output.is_dir() or any(output.iterdir()))):
        raise StorageError(f"{output} is in use or lies inside of the adapter. Choose another folder with --output.")


def _compare_tokenizer(source: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """Says where the adapter brings tokens that its base does not know: prompts are made with the base's tokenizer."""
    if not (source / contracts.TOKENIZER_FILE).is_file():
        return
    try:
        theirs = AutoTokenizer.from_pretrained(source, trust_remote_code=False).get_vocab()
    except Exception as error:  # of a file that is cut off the library tells by `Exception` itself
        log.warning("The tokenizer in %s cannot be opened (%s); that of the base is taken.", source.name, type(error).__name__)
        return
    ours = tokenizer.get_vocab()
    other = sorted(token for token, number in theirs.items() if ours.get(token) != number)
    if other:
        log.warning("%s was trained with %d tokens that its base does not know, such as %s.", source.name, len(other), other[0])


def _copy(source: Path, partial: Path, peft: dict[str, Any], base: contracts.BaseIdentity) -> None:
    shutil.copy(source / WEIGHTS_FILE, partial / WEIGHTS_FILE)
    for pattern in COPIED:
        for path in filter(Path.is_file, source.glob(pattern)):
            shutil.copy(path, partial / path.name)
    # What a fresh adapter would begin with is of no use to one that has its weights, and some beginnings want data or change the base.
    values = peft | {"base_model_name_or_path": base.id, "revision": base.commit, "inference_mode": True, "init_lora_weights": True}
    (partial / CONFIG_FILE).write_text(json.dumps(values, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def _measure(partial: Path, contract: contracts.Contract, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Opens the adapter as the app does, and has its contract say how likely the golden answer is now."""
    model = put_adapter(partial.name, partial, "default", open_base(contract, folder, contract.base.id, default_device()))
    limit = int(getattr(model.config, "max_position_embeddings", contract.context_length))
    measured = contract.model_copy(
        update={
            "golden_nll": golden_nll(model, tokenizer),
            "trained_dtype": dtype_name(model.get_base_model()),
            "context_length": min(contract.context_length, limit),
        }
    )
    verify_behaviour(measured, model, tokenizer, measured.trained_dtype)
    contracts.save(measured, partial)


def _write_record(partial: Path, config: TrainConfig, base: contracts.BaseIdentity, origin: str, folder: Path) -> None:
    """`run.json`: what is known of a training that nobody saw."""
    known = ("template", "max_length", "lora_rank", "lora_alpha", "lora_dropout", "use_rslora")
    record = {
        "base": base.model_dump(exclude={"architecture"}, exclude_defaults=True),
        "built_with_llama": any(is_llama(name, folder) for name in (base.id, config.base)),
        "origin": origin,
        "config": {"base": base.id} | {key: getattr(config, key) for key in known},
        **environment.code(),
        "versions": environment.versions(adapter.LIBRARIES),
        "python": platform.python_version(),
    }
    (partial / RUN_FILE).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
