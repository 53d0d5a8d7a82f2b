"""The base model of an adapter: how its weights are recognised, what it is called, and where it lies on this machine.

Knows folders, hashes and names; opens no model. A path of this machine is never a name: a base is named by its hub id, by its place in
the repository or beside the adapter, or by the name of its folder alone, and is known again by the hash of its weights.
"""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from app.adapter import contract as contracts
from app.adapter import hub
from app.adapter.contract import Contract
from app.adapter.hub import fetch, resolve_base
from app.errors import AdapterError, ConfigError, ContractViolation

INDEX_FILE = "model.safetensors.index.json"
SINGLE_FILE = "model.safetensors"
CONFIG_FILE = "config.json"

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
# https://huggingface.co/docs/huggingface_hub/guides/manage-cache
_IN_CACHE = re.compile(r"/models--([^/]+?)--([^/]+)/snapshots/[0-9a-f]{40}$")


def weight_files(folder: Path) -> list[Path]:
    """The safetensors that make up a model, as transformers chooses them; others that lie beside them belong to somebody else.

    Raises:
        AdapterError: The index is damaged, or names files outside of its folder.
    """
    if (folder / SINGLE_FILE).is_file():
        return [folder / SINGLE_FILE]
    index = folder / INDEX_FILE
    if not index.is_file():
        return sorted(folder.glob("*.safetensors"))
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        if all(name == Path(name).name for name in names):
            return [folder / name for name in names]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise AdapterError(f"{INDEX_FILE} of the base model {folder.name} is damaged. Restore the base's files and try again.") from error
    raise AdapterError(f"{INDEX_FILE} of the base model {folder.name} names files outside of its folder. Do not use this base.")


def weights_hash(folder: Path) -> str:
    """A short digest over a model's configuration and weights: its revision where there is no commit.

    Raises:
        AdapterError: A file is missing or cannot be read.
    """
    digest = hashlib.sha256()
    try:
        for path in sorted([*weight_files(folder), folder / CONFIG_FILE]):
            digest.update(path.name.encode() + contracts.sha256(path).encode())
    except OSError as error:
        name = Path(str(error.filename)).name
        raise AdapterError(
            f"{name} of the base model {folder.name} cannot be read ({error.strerror}). Restore the base's files."
        ) from error
    return "sha256:" + digest.hexdigest()[:16]


def hub_name(folder: Path) -> str | None:
    """The hub id that a folder gives itself: by its place in the Hub's cache, else in its configuration; None where it gives none.

    A README's `base_model` is not asked: it names what the model was made from.
    """
    in_cache = _IN_CACHE.search(folder.as_posix())
    if in_cache:
        return "/".join(in_cache.groups())
    try:
        name = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8")).get("_name_or_path")
    except (OSError, ValueError, AttributeError):
        return None
    return name if is_hub_id(name) and not Path(name).exists() else None


def is_quantised(folder: Path) -> bool:
    """Whether a model's files hold quantised weights."""
    try:
        return bool(json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8")).get("quantization_config"))
    except (OSError, ValueError, AttributeError):
        return False


def is_hub_id(name: Any) -> bool:
    """Whether a name can be OWNER/NAME of a repository on the Hub."""
    return isinstance(name, str) and bool(_HUB_ID.fullmatch(name)) and hub.parse(name) is not None


def open_folder(name: str) -> Path:
    """The folder of a base model that a person names.

    Raises:
        ConfigError: There is no base model in it.
    """
    folder = Path(name).expanduser()
    try:
        if (folder / CONFIG_FILE).is_file():
            return folder.resolve()
    except (OSError, ValueError):  # a name that no file system takes
        pass
    raise ConfigError(f"There is no base model in the folder {name[:200]}. Give one with a {CONFIG_FILE} and safetensors with --base.")


def _choose_base(contract: Contract, device: str) -> str:
    base = contract.base.id
    sixteen_bit = next((other for other in contract.base.equivalents if not other.lower().endswith("4bit")), None)
    # bitsandbytes decodes 0.15 tokens/s of a 3B model on a CPU: open the same weights in 16 bits there.
    return sixteen_bit if device == "cpu" and base.lower().endswith("4bit") and sixteen_bit else base


def find_base(contract: Contract, directory: Path, device: str, from_hub: bool = False, given: str = "") -> tuple[Path, str, str]:
    """The files of the base model that an adapter is to be opened on, fetched where that is needed.

    Args:
        contract: The adapter's contract.
        directory: The adapter directory.
        device: "cuda" or "cpu".
        from_hub: The adapter came from the Hub; it may then name nothing on this machine.
        given: A folder in which the owner of this machine says that the base lies; empty to look where the contract says.

    Returns:
        Folder, name, and revision: a commit, or a hash of the weights.

    Raises:
        ContractViolation: It is not there, or not what was trained on.
        AdapterError: Its files are damaged.
        ConfigError: There is no base in the folder given.
        AdapterNotFound, HubUnavailable: The Hub has no such base, or does not answer.
    """
    if given:
        folder = open_folder(given)
        found = weights_hash(folder)
        # A contract without a hash leaves the proof to the check on load; so does another edition of the same weights.
        if contract.base.weights in (None, found) or hub_name(folder) in contract.base.equivalents:
            return folder, contract.base.id, found
    name = _choose_base(contract, device)
    local = None if from_hub else resolve_base(name, directory)
    if given and local is None:
        raise ContractViolation(
            f"The base model in {folder.name} is not the one that was trained on, {contract.base.id} ({found} there, "
            f"{contract.base.weights} in the contract). Give the folder of that one with --base."
        )
    if local:
        found = weights_hash(local)
        if contract.base.weights not in (None, found) and name == contract.base.id:
            raise ContractViolation(
                f"The base model in {name} was changed since training ({found} here, {contract.base.weights} in the contract). "
                "Restore it, name its folder with --base, or train the adapter again on the new base."
            )
        return local, name, found
    return _fetched(contract, name, from_hub)


def _fetched(contract: Contract, name: str, from_hub: bool) -> tuple[Path, str, str]:
    if not is_hub_id(name):
        cure = (
            "Its owner publishes the base and pushes the adapter again with --base-id; who has it names its folder with --base."
            if from_hub
            else "Name its folder with --base, or put it next to the adapter or below the repository root, as it was in training."
        )
        raise ContractViolation(f"The base model {name} is not there. {cure}")
    commit = contract.base.commit if name == contract.base.id else None
    folder = fetch(name, commit)
    if commit is None and name == contract.base.id and contract.base.weights not in (None, found := weights_hash(folder)):
        raise ContractViolation(
            f"{name} on the Hub holds other weights ({found}) than those trained on ({contract.base.weights}). "
            "Name the folder that holds them with --base."
        )
    return folder, name, folder.name
