"""Whether a base model comes from Meta's Llama, by what its files state and by the known ids; a name that only holds the word says nothing.

TinyLlama and OpenLLaMA have Llama's architecture and weights of their own: no licence of Meta's applies to them.
"""

import re
from collections.abc import Iterable
from pathlib import Path

import yaml

# Repositories of Meta's own or known to be made from Llama, whatever licence they state.
_KNOWN = re.compile(r"meta-llama/|codellama/|deepseek-ai/DeepSeek-R1-Distill-Llama", re.IGNORECASE)
# Names that say which version of Llama they were made from: Hermes-3-Llama-3.2-3B; a number before "b" is a size: open_llama_3b.
_VERSION = re.compile(r"(?<![a-z])(?<!open[-_])(?:meta-?)?llama[-_ ]?[234][.\d]*(?![\d.]*b)", re.IGNORECASE)
_LICENCE = re.compile(r"\bllama\b[\w. ]{0,20}\bcommunity license", re.IGNORECASE)
_LICENCE_FILES = ("LICEN[CS]E*", "licen[cs]e*", "*LICEN[CS]E*.txt")
_FRONT_MATTER = re.compile(r"\A\ufeff?---\s*\n(.*?)\n---", re.DOTALL)


def is_llama(name: str, folder: Path | None = None, licence: str | None = None, made_from: Iterable[str] = ()) -> bool:
    """Whether Llama's licence goes with a base.

    Args:
        name: Its hub id, or the name of its folder.
        folder: Where its files lie, the README and the licence among them where there are any.
        licence: What is known of its licence otherwise, as the Hub writes it: "llama3.2", "apache-2.0".
        made_from: Hub ids of what it was made from, where that is known.

    Returns:
        True where a licence file, the stated licence, a known id or what it was made from says so. Where no licence is stated, the name
        decides, if it gives a version: "Llama-3.2-3B".
    """
    card = _card(folder) if folder else {}
    stated = [str(card[key]) for key in ("license", "license_name") if card.get(key)] + ([licence] if licence else [])
    parents = [*made_from, *_listed(card.get("base_model"))]
    if any(text.lower().startswith("llama") for text in stated) or (folder and _has_licence(folder)):
        return True
    if any(_KNOWN.match(known) for known in (name, *parents)) or any(map(_says_version, parents)):
        return True
    return all(text.lower() in ("other", "unknown") for text in stated) and _says_version(name)


def _says_version(name: str) -> bool:
    return bool(_VERSION.search(name.rpartition("/")[2]))


def _card(folder: Path) -> dict[str, object]:
    try:
        found = _FRONT_MATTER.match((folder / "README.md").read_text(encoding="utf-8", errors="replace"))
        values = yaml.safe_load(found[1]) if found else {}
    except (OSError, yaml.YAMLError):
        return {}
    return values if isinstance(values, dict) else {}


def _listed(value: object) -> list[str]:
    return [str(part) for part in (value if isinstance(value, list) else [value]) if part]


def _has_licence(folder: Path) -> bool:
    files = {path for pattern in _LICENCE_FILES for path in folder.glob(pattern) if path.is_file()}
    return any(_LICENCE.search(path.read_text(encoding="utf-8", errors="replace")[:4000]) for path in files)
