"""Opens an adapter - a directory or a Hub repository - on its base model, and proves that both are what was trained.

Knows nothing of requests, pages or servers. No pickle is ever opened and no remote code is ever run.
"""

import gzip
import hashlib
import json
import logging
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from peft import PeftConfig, PeftModel
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from app import contract as contracts
from app.contract import Contract, Probe
from app.errors import AdapterError, AdapterNotFound, ContractViolation, HubUnavailable, UnsafeAdapter
from app.settings import ROOT

log = logging.getLogger(__name__)

CARDS_FILE = "training_cards.jsonl.gz"
RUN_FILE = "run.json"
PICKLES = {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt"}
HUB_FILES = ["*.json", "*.safetensors", "*.jinja", "*.jsonl.gz", "*.md", "*.txt"]


@dataclass
class LoadedModel:
    """An adapter on its base, verified and ready to generate.

    Attributes:
        name: What it was asked for as: a path or a hub id.
        adapter_revision: Hub commit of the adapter, or a hash of its weights for a folder.
        base_revision: Hub commit of the base, or a hash of its weights for a folder.
        probe: What the check on load measured.
        run: Provenance written by training (`run.json`).
        cards: The training cards that travel with the adapter; empty where they may not.
        load_seconds: Seconds that opening and checking took.
    """

    name: str
    model: PeftModel
    tokenizer: PreTrainedTokenizerBase
    contract: Contract
    probe: Probe
    base: str
    base_revision: str | None
    adapter_revision: str | None
    device: str
    dtype: str
    run: dict[str, Any] = field(default_factory=dict)
    cards: list[dict[str, Any]] = field(default_factory=list)
    load_seconds: float = 0.0

    @property
    def is_demo(self) -> bool:
        """Whether the base is the small demonstration model."""
        return "demo" in Path(self.base).parts

    @property
    def built_with_llama(self) -> bool:
        """Whether Llama's licence asks for the words "Built with Llama": the base is one of Meta's, not only shaped like it."""
        return "llama" in self.base.lower() and not self.is_demo


def is_adapter_directory(path: Path) -> bool:
    """Whether a folder looks like an adapter directory."""
    return (path / "adapter_config.json").is_file()


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
    name = portable_path(Path(adapter), ROOT)
    return Path(name).name if Path(name).is_absolute() else name


def resolve_adapter(adapter: str) -> tuple[Path, str | None]:
    """Finds an adapter on disk or fetches it from the Hub.

    Args:
        adapter: A folder, absolute or relative to the current folder or the repository root; or `OWNER/NAME[@REVISION]`.

    Returns:
        Its directory, and its commit when it came from the Hub.

    Raises:
        AdapterNotFound: Neither a folder nor a Hub repository of that name.
        AdapterError: The folder holds no adapter.
        HubUnavailable: The Hub did not answer and nothing is cached.
        UnsafeAdapter: It holds pickles.
    """
    for directory in (Path(adapter).expanduser(), ROOT / adapter):
        if _is_folder(directory):
            _check_directory(directory, adapter)
            return directory.resolve(), None
    repo, _, revision = adapter.partition("@")
    if repo.count("/") != 1 or repo.startswith((".", "/", "~", "outputs/", "assets/")):
        raise AdapterNotFound(
            f"There is no adapter folder {adapter[:100]}. "
            "Give a folder that `python -m finetune train` wrote, or OWNER/NAME of a Hub repository."
        )
    directory = fetch(repo, revision or None)
    _check_directory(directory, adapter)
    return directory, directory.name


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # a name too long for a file system, or a folder that may not be read
        return False


def fetch(repo: str, revision: str | None, files: list[str] = HUB_FILES) -> Path:
    """Files of a Hub repository, as a folder whose name is the commit; from the cache where they are in it.

    Raises:
        AdapterNotFound: There is no such repository or revision.
        HubUnavailable: The Hub did not answer and nothing is cached.
    """
    try:
        return Path(snapshot_download(repo, revision=revision, allow_patterns=files, etag_timeout=10))
    except (RepositoryNotFoundError, RevisionNotFoundError, HFValidationError) as error:
        raise AdapterNotFound(
            f"The Hub has no {repo[:100]}, or this account may not see it. Check the spelling, or log in with `hf auth login`."
        ) from error
    except (HfHubHTTPError, LocalEntryNotFoundError, httpx.HTTPError, OSError) as error:
        raise HubUnavailable(
            f"The Hub did not answer when asked for {repo[:100]} ({type(error).__name__}). "
            "Check the network, or give a local folder instead."
        ) from error


def _check_directory(directory: Path, name: str) -> None:
    pickles = sorted(path.name for path in directory.iterdir() if path.suffix in PICKLES)
    if pickles:
        raise UnsafeAdapter(
            f"{name} holds {', '.join(pickles)}, a pickle format that can run code when opened. "
            "Save the adapter as safetensors and delete those files."
        )
    if not is_adapter_directory(directory):
        raise AdapterError(
            f"The folder {name} is no adapter: it has no adapter_config.json. Give the folder that `python -m finetune train` wrote."
        )
    if not (directory / "adapter_model.safetensors").is_file():
        raise AdapterError(
            f"The folder {name} has no adapter_model.safetensors: the weights are missing. Fetch or train the adapter again."
        )


def resolve_base(identifier: str, adapter_directory: Path) -> Path | None:
    """The folder of a local base - relative to the adapter directory or to the repository root, never to the current folder.

    Returns:
        The folder, or None when the identifier is a hub id.
    """
    for start in (adapter_directory, ROOT):
        folder = start / identifier
        if (folder / "config.json").is_file():
            return folder.resolve()
    return None


def weights_hash(folder: Path) -> str:
    """A short digest over the configuration and all safetensors of a folder: its revision where there is no commit."""
    digest = hashlib.sha256()
    for path in sorted([*folder.glob("*.safetensors"), folder / "config.json"]):
        digest.update(path.name.encode() + contracts.sha256(path).encode())
    return "sha256:" + digest.hexdigest()[:16]


def _choose_base(contract: Contract, device: str) -> str:
    base = contract.base.id
    sixteen_bit = next((other for other in contract.base.equivalents if not other.lower().endswith("4bit")), None)
    # bitsandbytes decodes 0.15 tokens/s of a 3B model on a CPU: open the same weights in 16 bits there.
    return sixteen_bit if device == "cpu" and base.lower().endswith("4bit") and sixteen_bit else base


def _choose_dtype(config: Any, device: str) -> torch.dtype:
    if device == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    small = getattr(config, "hidden_size", 0) <= 1024
    return torch.float32 if small else torch.bfloat16


def _open_base(contract: Contract, directory: Path, device: str) -> tuple[PreTrainedModel, str, str | None]:
    name = _choose_base(contract, device)
    folder = resolve_base(name, directory)
    if folder:
        revision: str | None = weights_hash(folder)
        if contract.base.revision and contract.base.revision != revision and name == contract.base.id:
            raise ContractViolation(
                f"The base model in {name} was changed since training ({revision} here, {contract.base.revision} in the contract). "
                "Restore it, or train the adapter again on the new base."
            )
    elif Path(name).is_absolute() or name.startswith(".") or name.count("/") != 1:
        raise ContractViolation(
            f"The base model {name} is not there. Put it next to the adapter or below the repository root, as it was in training."
        )
    else:
        folder = fetch(name, contract.base.revision if name == contract.base.id else None)
        revision = folder.name
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        contracts.verify_base(contract, config)
        model = AutoModelForCausalLM.from_pretrained(
            folder,
            config=config,
            dtype=_choose_dtype(config, device),
            device_map={"": device},
            use_safetensors=True,
            trust_remote_code=False,
        )
    except (SafetensorError, OSError) as error:
        raise AdapterError(
            f"The base model {name} cannot be read: its files are damaged or incomplete. Restore them and try again."
        ) from error
    return model, name, revision


def _read_cards(directory: Path) -> list[dict[str, Any]]:
    path = directory / CARDS_FILE
    if not path.is_file():
        return []
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            cards = [json.loads(line) for line in file if line.strip()]
        if all({"id", "question", "answer"} <= card.keys() for card in cards):
            return cards
    except (OSError, EOFError, ValueError, AttributeError) as error:
        raise AdapterError(f"{CARDS_FILE} is damaged ({type(error).__name__}). Fetch or train the adapter again.") from error
    raise AdapterError(f"{CARDS_FILE} is damaged: a card lacks id, question or answer. Fetch or train the adapter again.")


def _read_run(directory: Path) -> dict[str, Any]:
    path = directory / RUN_FILE
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError as error:
        raise AdapterError(f"{RUN_FILE} is damaged ({type(error).__name__}). Fetch or train the adapter again.") from error


def default_device() -> str:
    """The best device there is: "cuda" or "cpu"."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def load(adapter: str, device: str | None = None) -> LoadedModel:
    """Opens an adapter, its tokenizer and its base, and verifies them against the prompt contract.

    Args:
        adapter: A folder, or `OWNER/NAME[@REVISION]` of a Hub repository.
        device: "cuda" or "cpu"; the best there is when None.

    Raises:
        AdapterError: The adapter is missing, unsafe, damaged, or differs from what was trained.
        HubUnavailable: The Hub did not answer.
    """
    started = time.perf_counter()
    device = device or default_device()
    directory, revision = resolve_adapter(adapter)
    contract = contracts.read(directory)
    try:
        peft_config = PeftConfig.from_pretrained(str(directory))
        tokenizer = AutoTokenizer.from_pretrained(str(directory), trust_remote_code=False)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise AdapterError(f"{adapter} cannot be opened: its configuration or tokenizer is damaged. Fetch or train it again.") from error
    if peft_config.peft_type != "LORA":
        raise AdapterError(f"{adapter} is a {peft_config.peft_type} adapter; this app opens LoRA adapters.")
    if peft_config.base_model_name_or_path != contract.base.id:
        raise ContractViolation(
            f"adapter_config.json names the base {peft_config.base_model_name_or_path}, the contract {contract.base.id}. "
            "Restore the file that training wrote."
        )
    contracts.verify_files(contract, directory, tokenizer)
    base_model, base, base_revision = _open_base(contract, directory, device)
    try:
        model = PeftModel.from_pretrained(
            base_model, str(directory), is_trainable=False, autocast_adapter_dtype=False, low_cpu_mem_usage=True
        )
    except Exception as error:  # safetensors and PEFT raise many kinds for damaged weights
        raise AdapterError(
            f"The weights of {adapter} do not fit their base or are damaged ({type(error).__name__}). Fetch or train it again."
        ) from error
    for name, parameter in model.named_parameters():
        if "lora_" in name:  # PEFT keeps the dtype of the file; computing in two dtypes would cast at every layer
            parameter.data = parameter.data.to(base_model.dtype)
    model.eval()
    dtype = "4bit" if getattr(base_model, "is_loaded_in_4bit", False) else str(base_model.dtype).removeprefix("torch.")
    probe = contracts.verify_behaviour(contract, model, tokenizer, dtype)
    loaded = LoadedModel(
        name=adapter,
        model=model,
        tokenizer=tokenizer,
        contract=contract,
        probe=probe,
        base=base,
        base_revision=base_revision,
        adapter_revision=revision or "sha256:" + contracts.sha256(directory / "adapter_model.safetensors")[:16],
        device=device,
        dtype=dtype,
        run=_read_run(directory),
        cards=_read_cards(directory),
        load_seconds=time.perf_counter() - started,
    )
    log.info(
        "opened %s on %s (%s, %s) in %.1f s; logits change by %.2f", adapter, base, device, dtype, loaded.load_seconds, probe.logit_change
    )
    return loaded
