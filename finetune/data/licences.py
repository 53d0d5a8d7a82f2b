"""What licences ask of somebody who publishes an adapter: which data may go along, which name, which files. Pure functions."""

import re
from pathlib import Path

from app.errors import ConfigError

# Data under these may be handed on, with its source named.
FREE_DATA = {"cc0-1.0", "cc-by-3.0", "cc-by-4.0", "cc-by-sa-4.0", "mit", "apache-2.0"}
# Files of the base's repository that go along with everything made from it.
LICENCE_FILES = ["LICENSE*", "LICENCE*", "NOTICE*", "Notice*", "USE_POLICY*"]
LLAMA_LICENCES = "https://www.llama.com/llama-downloads/"

# The sentence that a Llama licence wants in a file called Notice stands in the licence, between quotation marks.
_NOTICE = re.compile(r"[“\"]([^“”\"]*is licensed under the[^“”\"]*All Rights Reserved\.)[”\"]")


def may_be_shipped(licence: str | None) -> bool:
    """Whether rows of a data set may go along with an adapter: only where its licence, or each of several, is known to allow it."""
    return {part.strip().lower() for part in (licence or "").split(",")} <= FREE_DATA


def check_name(repo: str, base: str) -> None:
    """A model made from Llama has a name that begins so (Llama 3.2 Community License, 1.b.i).

    Raises:
        ConfigError: It does not; the message gives one that would do.
    """
    owner, name = repo.split("/")
    if not name.startswith("Llama"):
        raise ConfigError(
            f"The name {name} must begin with Llama, because the licence of {base} asks that of every model made from it. "
            f"Take --repo {owner}/Llama-{name}, say."
        )


def notice(files: list[Path]) -> str:
    """The text of the NOTICE file that a Llama licence asks for, read from the licence itself.

    Raises:
        ConfigError: There is no licence among the files, or it holds no such sentence.
    """
    for path in files:
        if found := _NOTICE.search(path.read_text(encoding="utf-8", errors="replace")):
            return " ".join(found.group(1).split()) + "\n"
    raise ConfigError(
        "A copy of the base's Llama licence must go along, and neither the adapter folder nor the base's repository holds one. "
        f"Save it from {LLAMA_LICENCES} as LICENSE.txt in the adapter folder and push again."
    )
