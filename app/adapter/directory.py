"""An adapter directory: where it lies and what its files say. Opens tokenizers, never a model.

The directory is the only thing that passes between training and chatting. No pickle is ever opened and no remote code is ever run.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from peft import PeftConfig
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from app.adapter import contract as contracts
from app.adapter import hub
from app.adapter.base import find_base
from app.adapter.contract import Contract
from app.errors import AdapterError, AdapterNotFound, ContractViolation
from app.settings import ROOT

WEIGHTS_FILE = "adapter_model.safetensors"
RUN_FILE = "run.json"
CONFIG_FILE = "adapter_config.json"
# Settings of PEFT's LoRA by which more than the matrices decides what a model says.
CHANGES_BASE: dict[str, Callable[[Any], bool]] = {
    "bias": lambda value: value not in (None, "none"),
    "init_lora_weights": lambda value: isinstance(value, str) and value.startswith(("pissa", "olora", "corda", "loftq", "lora_ga")),
    "layer_replication": bool,
    "alora_invocation_tokens": bool,
}


def is_adapter_directory(path: Path) -> bool:
    """Whether a folder looks like an adapter directory."""
    return (path / CONFIG_FILE).is_file()


def find_adapters(folder: Path) -> list[str]:
    """Adapter directories directly below `folder`, newest first, as paths relative to the repository root where they can be."""
    found = [path for path in folder.iterdir() if is_adapter_directory(path)] if folder.is_dir() else []
    found.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    return [portable_path(path, ROOT) for path in found]


def portable_path(path: Path, start: Path) -> str:
    """The path relative to `start` when it lies below it, so that nobody's home folder is written down; else as it is."""
    resolved = path.resolve()
    return resolved.relative_to(start).as_posix() if resolved.is_relative_to(start) else str(path)


def public_name(adapter: str) -> str:
    """An adapter's name as strangers may see it: the path of a folder outside the repository tells about the machine."""
    name = portable_path(Path(hub.without_commit(adapter)), ROOT)
    return Path(name).name if Path(name).is_absolute() else name


def resolve_adapter(adapter: str) -> tuple[Path, hub.Pin | None]:
    """Finds an adapter on disk or fetches it from the Hub.

    Args:
        adapter: A folder, absolute or relative to the current folder or the repository root; or `OWNER/NAME[@REVISION]`.

    Returns:
        Its directory, and what the Hub said of it when it came from there.

    Raises:
        AdapterNotFound: Neither a folder nor a Hub repository of that name.
        AdapterError: The folder holds no adapter.
        HubUnavailable: The Hub did not answer and nothing is cached.
        UnsafeAdapter: It holds pickles.
    """
    directory = find_folder(adapter)
    if directory:
        _check_directory(directory, adapter)
        return directory.resolve(), None
    reference = hub.parse(adapter)
    if reference is None:
        raise AdapterNotFound(
            f"There is no adapter folder {adapter[:100]}. "
            "Give a folder that `python -m finetune train` wrote, or OWNER/NAME of a Hub repository."
        )
    directory, pin = hub.resolve(*reference)
    _check_directory(directory, adapter)
    return directory, pin


def find_folder(adapter: str) -> Path | None:
    """The folder of a local adapter; None where there is none of that name."""
    return next((folder for folder in (Path(adapter).expanduser(), ROOT / adapter) if _is_folder(folder)), None)


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # a name too long for a file system, or a folder that may not be read
        return False


def _check_directory(directory: Path, name: str) -> None:
    hub.check_names(name, [path.name for path in directory.iterdir()])
    if not is_adapter_directory(directory):
        raise AdapterError(f"{name} is no adapter: it has no adapter_config.json. Give what `python -m finetune train` wrote.")
    if not (directory / WEIGHTS_FILE).is_file():
        raise AdapterError(f"{name} has no {WEIGHTS_FILE}: the weights are missing. Fetch or train the adapter again.")


def prepare(adapter: str, device: str, base: str = "") -> Path:
    """Fetches all that `load` will need from the Hub, so that loading does not wait for it.

    Args:
        adapter: As for `load`.
        device: "cuda" or "cpu".
        base: As `given` of `find_base`.

    Returns:
        The adapter directory.

    Raises:
        AdapterError, HubUnavailable: As `load`.
    """
    directory, pin = resolve_adapter(adapter)
    find_base(contracts.read(directory), directory, device, pin is not None, base)
    return directory


def read_run(directory: Path) -> dict[str, Any]:
    """The provenance in an adapter directory; empty where there is none.

    Raises:
        AdapterError: It is damaged.
    """
    path = directory / RUN_FILE
    try:
        values = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError as error:
        raise AdapterError(f"{RUN_FILE} is damaged ({type(error).__name__}). Fetch or train the adapter again.") from error
    if not isinstance(values, dict) or not isinstance(values.get("data") or {}, dict):
        raise AdapterError(f"{RUN_FILE} is damaged: it holds no record of a training. Fetch or train the adapter again.")
    return values


def read_peft_config(directory: Path, adapter: str) -> Any:
    """PEFT's configuration of an adapter.

    Args:
        directory: Where it lies.
        adapter: Its name for people.

    Raises:
        AdapterError: It is damaged, or of a kind that switched off would not leave the base as it is.
    """
    try:
        config: Any = PeftConfig.from_pretrained(str(directory))
    except Exception as error:  # of a file that is cut off the library tells by `Exception` itself
        raise AdapterError(f"{adapter} cannot be opened: its {CONFIG_FILE} is damaged. Fetch or train it again.") from error
    if config.peft_type != "LORA":
        raise AdapterError(f"{adapter} is a {config.peft_type} adapter; this app opens LoRA adapters.")
    found = [f"{key} = {getattr(config, key)!r}" for key, changes in CHANGES_BASE.items() if changes(getattr(config, key, None))]
    if found:
        raise AdapterError(
            f"{adapter} changes its base beside its LoRA matrices ({found[0][:100]}), so the base could not be shown without it. "
            "Train or convert it to plain LoRA, DoRA or rsLoRA."
        )
    return config


def open_tokenizer(adapter: str, directory: Path, contract: Contract) -> PreTrainedTokenizerBase:
    """The tokenizer in an adapter directory, verified against its contract.

    Raises:
        AdapterError: It is damaged, or differs from what was trained.
    """
    peft_config = read_peft_config(directory, adapter)
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(directory), trust_remote_code=False)
    except Exception as error:  # of a file that is cut off the library tells by `Exception` itself
        raise AdapterError(f"{adapter} cannot be opened: its tokenizer is damaged. Fetch or train it again.") from error
    if peft_config.base_model_name_or_path != contract.base.id:
        raise ContractViolation(
            f"adapter_config.json names the base {peft_config.base_model_name_or_path}, the contract {contract.base.id}. "
            "Restore the file that training wrote."
        )
    contracts.verify_files(contract, directory, tokenizer)
    return tokenizer
