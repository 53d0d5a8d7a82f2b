"""What a run was made with, for the records: the commit of this repository, versions of libraries. Knows nothing else."""

import importlib.metadata
import subprocess
from collections.abc import Iterable

from app.settings import ROOT


def code() -> dict[str, str | bool | None]:
    """`commit` of this repository, and whether the files were changed since (`dirty`); None where there is no git to ask."""
    changed = _git("status", "--porcelain", "--untracked-files=no")
    return {"commit": _git("rev-parse", "HEAD"), "dirty": None if changed is None else bool(changed)}


def versions(libraries: Iterable[str]) -> dict[str, str | None]:
    """The version of each distribution, None for one that is not installed."""
    return {name: _version(name) for name in libraries}


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    except OSError:  # no git here
        return None
    return done.stdout.strip() if done.returncode == 0 else None
