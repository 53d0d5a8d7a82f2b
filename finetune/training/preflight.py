"""What would stop a run, or the app from opening what it writes: said before the weights are loaded.

Reads names, small files, the heads of weight files, and a model without weights; opens no weights and imports no trainer.
"""

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase
from transformers import __version__ as transformers_version

from app.adapter import base as bases
from app.adapter import contract as contracts
from app.adapter import prompts
from app.adapter.directory import is_adapter_directory
from app.adapter.hub import asking, resolve_base
from app.errors import ConfigError, ContractViolation, HubUnavailable, StorageError
from finetune.config import TrainConfig
from finetune.data.templates import end_ids
from finetune.data.tokens import find_base_files, open_fitted
from finetune.training.adapter import save_tokenizer
from finetune.training.checkpoints import writing

CHECKPOINTS = 3  # two are kept while a third is written
# Bytes that a trained parameter takes in a checkpoint (in 32 bits, with AdamW's two moments), and in the adapter.
CHECKPOINT_BYTES, ADAPTER_BYTES = 12, 2
# Of adapters to go on from: what this project trains none with.
UNKNOWN_KINDS = ("rank_pattern", "alpha_pattern", "modules_to_save", "use_dora", "layers_to_transform", "trainable_token_indices")


def check_places(config: TrainConfig) -> None:
    """A run may not write into its base or over something else than a folder.

    Raises:
        ConfigError: The message names both.
    """
    output, folder = Path(config.output).resolve(), resolve_base(config.base, Path.cwd())
    if folder and output.is_relative_to(folder):
        raise ConfigError(f"--output {config.output} lies in the folder of the base model, {config.base}. Choose another folder for it.")
    blocking = next((path for path in (output, *output.parents) if path.exists()), output)
    if not blocking.is_dir():
        raise ConfigError(f"--output {config.output} cannot be a folder: {blocking.name} is a file. Choose another name.")


def check_base(config: TrainConfig) -> PreTrainedTokenizerBase:
    """Looks at everything of a base that training and serving will need.

    Returns:
        Its tokenizer with the prompt format of the configuration.

    Raises:
        ConfigError: The base, its tokenizer or a setting cannot be used; the message says what to do.
        ContractViolation: With this tokenizer the prompt format would not hold.
        StorageError: The disk has no room for checkpoints and adapter.
    """
    folder = find_base_files(config.base, config.base_revision)
    _check_weights(config, folder)
    model_config = _read_config(config, folder)
    tokenizer, facts = open_fitted(folder, config.base, config.template)
    ends = end_ids(tokenizer, facts)
    _check_prompts(tokenizer, ends, model_config)
    if config.init_adapter:
        _check_init_adapter(config, model_config)
    parameters = _count_parameters(config, model_config)
    with tempfile.TemporaryDirectory() as name, writing(Path(config.output)):
        _check_written(tokenizer, Path(name))
        _check_room(Path(config.output), parameters, sum(path.stat().st_size for path in Path(name).iterdir()))
    return tokenizer


def _check_weights(config: TrainConfig, folder: Path) -> None:
    local = resolve_base(config.base, Path.cwd())
    names = [path.name for path in folder.iterdir()] if local else _on_the_hub(config, folder)
    if not any(name.endswith(".safetensors") for name in names):
        pickles = sorted(name for name in names if name.endswith((".bin", ".pt", ".pth")))
        if pickles:
            raise ConfigError(
                f"The base model {config.base} holds its weights as {pickles[0]}, a pickle format that can run code when opened, and the "
                "app opens no such file. Take one with model.safetensors, or save it anew with transformers' save_pretrained."
            )
        raise ConfigError(f"The base model {config.base} holds no weights (model.safetensors). Restore them, or give another with --base.")
    if local and not any((local / name).is_file() for name in (bases.SINGLE_FILE, bases.INDEX_FILE)):
        raise ConfigError(
            f"The base model {config.base} has neither {bases.SINGLE_FILE} nor {bases.INDEX_FILE}, so nothing says which of its files hold "
            "its weights. Restore the base's files."
        )
    if local:
        for path in bases.weight_files(local):
            try:
                with safe_open(path, "pt"):
                    pass
            except (OSError, SafetensorError) as error:
                raise ConfigError(
                    f"{path.name} of the base model {config.base} is missing or damaged ({type(error).__name__}). Restore the base's files."
                ) from error


def _on_the_hub(config: TrainConfig, folder: Path) -> list[str]:
    try:
        with asking(config.base) as api:
            return [file.rfilename for file in api.model_info(config.base, revision=config.base_revision).siblings or []]
    except HubUnavailable:  # what was fetched before is all there is
        return [path.name for path in folder.iterdir()]


def _read_config(config: TrainConfig, folder: Path) -> Any:
    try:
        found = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        known = type(found) in MODEL_FOR_CAUSAL_LM_MAPPING
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:  # a kind that is not known, or one with code of its own
        raise ConfigError(
            f"The base model {config.base} cannot be opened: transformers {transformers_version} does not know its kind, its config.json "
            "is damaged, or it needs code of its own, which is never run. Give another with --base."
        ) from error
    if not known:
        raise ConfigError(f"The base model {config.base} is a {found.model_type}, which writes no text. Give a language model with --base.")
    method = (getattr(found, "quantization_config", None) or {}).get("quant_method", "bitsandbytes")
    if str(method) != "bitsandbytes":
        raise ConfigError(f"The base model {config.base} is quantised with {method}, which is not trained here. Give its 16-bit weights.")
    return found


def _check_prompts(tokenizer: PreTrainedTokenizerBase, ends: list[int], model_config: Any) -> None:
    contracts.check_template(tokenizer, ends)
    conversations = [prompts.prompt_ids(tokenizer, messages) for messages in contracts.GOLDEN_CONVERSATIONS]
    rows = model_config.get_text_config().vocab_size
    beyond = sorted({token for ids in [*conversations, ends, [tokenizer.pad_token_id]] for token in ids if token >= rows})
    if beyond:
        raise ContractViolation(
            f"The tokenizer knows tokens up to number {beyond[-1]}, and the base's embedding has {rows} "
            "rows. Resize the embedding and save the base anew, or restore its tokenizer."
        )


def _check_written(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    save_tokenizer(tokenizer, folder)
    again = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    for messages in contracts.GOLDEN_CONVERSATIONS:
        if prompts.prompt_ids(again, messages) != prompts.prompt_ids(tokenizer, messages):
            raise ContractViolation(
                "The base's tokenizer reads a prompt in another way once it has been saved, so no adapter of this base could be opened. "
                "Save the tokenizer anew with transformers' save_pretrained, and give that folder with --base."
            )


def _check_init_adapter(config: TrainConfig, model_config: Any) -> None:
    folder = Path(str(config.init_adapter))
    if not is_adapter_directory(folder):
        raise ConfigError(f"There is no adapter in {folder} to go on from. Give a folder that training wrote as init_adapter.")
    try:
        found = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        kinds = [key for key in UNKNOWN_KINDS if found.get(key)]
        was = {"lora_rank": found["r"], "lora_alpha": found["lora_alpha"], "use_rslora": bool(found.get("use_rslora"))}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"adapter_config.json in {folder} is damaged or of another kind than LoRA. Fetch or train it again.") from error
    if kinds:
        raise ConfigError(f"The adapter in {folder} was made with {', '.join(kinds)}, which training here does not know. Start without it.")
    differs = {key: value for key, value in was.items() if value != getattr(config, key)}
    if differs:
        here = ", ".join(f"{key} = {value} (here {getattr(config, key)})" for key, value in differs.items())
        cure = " ".join(f"--set {key}={str(value).lower()}" for key, value in differs.items())
        raise ConfigError(f"The adapter in {folder} was trained with {here}, and its weights mean that alone. Go on from it with {cure}.")
    if (folder / contracts.FILE_NAME).is_file():
        contracts.verify_base(contracts.read(folder), model_config)


def _count_parameters(config: TrainConfig, model_config: Any) -> int:
    """How many parameters the adapter will have.

    Raises:
        ConfigError: A name in target_modules is that of no linear layer.
    """
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(model_config)
    head = model.get_output_embeddings()
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, torch.nn.Linear) and layer is not head}
    if config.target_modules == "all-linear":
        chosen = set(layers)
    else:
        parts = {target: {name for name in layers if name == target or name.endswith(f".{target}")} for target in config.target_modules}
        lacking = [target for target, names in parts.items() if not names]
        if lacking:
            known = ", ".join(sorted({name.rpartition(".")[2] for name in layers}))
            raise ConfigError(
                f"target_modules names {', '.join(lacking)}, and the base has no such linear layer. It has {known[:200]}; "
                "all-linear takes all of them."
            )
        chosen = set().union(*parts.values())
    return sum(config.lora_rank * (layers[name].in_features + layers[name].out_features) for name in chosen)


def _check_room(output: Path, parameters: int, tokenizer_bytes: int) -> None:
    needed = parameters * (CHECKPOINTS * CHECKPOINT_BYTES + ADAPTER_BYTES) + (CHECKPOINTS + 1) * tokenizer_bytes
    place = next(path for path in (output, *output.resolve().parents) if path.is_dir())
    free = shutil.disk_usage(place).free
    if free < needed:
        raise StorageError(
            f"Checkpoints and adapter of this run take up to {needed / 2**30:.1f} GiB, and {output} has {free / 2**30:.1f} GiB free. "
            "Free some space, choose another folder with --output, or lower lora_rank."
        )
