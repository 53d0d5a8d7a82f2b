"""Repositories on the Hugging Face Hub: which commit a name stands for, its files in the cache, and what may not be in them.

Knows names, commits and files; no model and no page. A commit is chosen once and its files are fetched by that commit alone, so
that nothing moves underneath. The cache of `huggingface_hub` is used as it is; a name that was opened once leads to the same commit
again when the Hub does not answer.
"""

import logging
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import httpx
from huggingface_hub import HfApi, get_session, get_token, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from app.errors import AdapterNotFound, ConfigError, HubUnavailable, UnsafeAdapter
from app.settings import ROOT

log = logging.getLogger(__name__)

APPROVED = "approved"
CANDIDATE = "candidate"
MAIN = "main"
PICKLES = {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt"}
FILES = ["*.json", "*.safetensors", "*.jinja", "*.jsonl.gz", "*.md", "*.txt"]
# Seconds that the Hub may be silent; its client has no limit of its own for most calls.
SECONDS = 10.0
# `approved` is moved by deleting and making it; who asks in between asks again.
MOVING_SECONDS = 1.0

_COMMIT = re.compile(r"[0-9a-f]{40}")
_FOLDERS = (".", "/", "~", "outputs/", "assets/")


@dataclass(frozen=True)
class Pin:
    """A commit that a name stood for when it was asked.

    Attributes:
        repo: OWNER/NAME.
        asked: The channel or revision that was asked for; None for the default.
        commit: The commit.
        approved: Whether the repository's owner has approved this commit.
    """

    repo: str
    asked: str | None
    commit: str
    approved: bool

    @property
    def name(self) -> str:
        """The adapter's name with its commit: it leads to these files for ever."""
        return f"{self.repo}@{self.commit}"


def parse(adapter: str) -> tuple[str, str | None] | None:
    """Splits `OWNER/NAME[@REVISION]`; None where a name can only be a folder's."""
    repo, _, revision = adapter.partition("@")
    return None if repo.count("/") != 1 or repo.startswith(_FOLDERS) else (repo, revision or None)


def without_commit(adapter: str) -> str:
    """The name without the commit that `Pin.name` adds."""
    repo, _, revision = adapter.partition("@")
    return repo if _COMMIT.fullmatch(revision) else adapter


@contextmanager
def asking(repo: str, seconds: float | None = None) -> Iterator[HfApi]:
    """A client whose errors become sentences with the cure.

    Args:
        repo: OWNER/NAME, for the sentences.
        seconds: How long the Hub may be silent; `SECONDS` when None.

    Raises:
        AdapterNotFound: There is no such repository or revision, or this account may not see it.
        HubUnavailable: The Hub does not answer.
    """
    get_session().timeout = seconds or SECONDS
    short = repo[:100]
    try:
        yield HfApi()
    except GatedRepoError as error:
        raise AdapterNotFound(
            f"The owner of {short} asks for consent first. Give it on the repository's page on the Hub, then log in with `hf auth login`."
        ) from error
    except RevisionNotFoundError as error:
        raise AdapterNotFound(f"{short} has no such revision. Check the spelling after the @, or leave it out.") from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise AdapterNotFound(
            f"The Hub has no {short}, or this account may not see it. Check the spelling, or log in with `hf auth login`."
        ) from error
    except (HfHubHTTPError, LocalEntryNotFoundError, httpx.HTTPError, OSError) as error:
        status = error.response.status_code if isinstance(error, HfHubHTTPError) else 0
        if status in (401, 403):
            raise AdapterNotFound(
                f"The Hub refuses this account access to {short} ({status}). Log in anew with `hf auth login`, or set HF_TOKEN."
            ) from error
        raise HubUnavailable(
            f"The Hub did not answer when asked for {short} ({type(error).__name__}). Check the network, or give a local folder instead."
        ) from error


def account() -> str:
    """The name of the account that is logged in, whose token may write as far as the Hub tells.

    Raises:
        ConfigError: Nobody is logged in, or the token is of no use.
        HubUnavailable: The Hub does not answer.
    """
    if get_token() is None:
        raise ConfigError("There is no token for the Hub here. Log in with `hf auth login`, or set HF_TOKEN to a token that may write.")
    try:
        who = HfApi().whoami()
    except HfHubHTTPError as error:
        if error.response.status_code in (401, 403):
            raise ConfigError(
                "The Hub does not know this token: it has expired, was revoked, or is mistyped. "
                "Make one that may write at https://huggingface.co/settings/tokens and log in with `hf auth login`."
            ) from error
        raise HubUnavailable(f"The Hub did not answer ({error.response.status_code}). Try again in a minute.") from error
    except httpx.HTTPError as error:
        raise HubUnavailable(f"The Hub did not answer ({type(error).__name__}). Check the network and try again.") from error
    if (who.get("auth", {}).get("accessToken") or {}).get("role") == "read":
        raise ConfigError("This token may only read. Make one that may write at https://huggingface.co/settings/tokens.")
    return str(who["name"])


def pin(repo: str, asked: str | None) -> Pin:
    """Asks the Hub which commit a name stands for; without a revision the approved one, and main where none was ever approved.

    Raises:
        AdapterNotFound: There is no such repository or revision.
        HubUnavailable: The Hub does not answer.
        UnsafeAdapter: The commit holds pickles, or paths that lead out of their folder.
    """
    tags = _tags(repo)
    if asked is None and APPROVED not in tags and any(tag.startswith(f"{APPROVED}-") for tag in tags):
        time.sleep(MOVING_SECONDS)
        tags = _tags(repo)
        if APPROVED not in tags:
            raise AdapterNotFound(
                f"{repo} had an approved revision and has none now: a change was cut off. Its owner runs the last "
                f"`python -m finetune approve` or `rollback` again; or name a revision, as in {repo}@main."
            )
    wanted = asked or (APPROVED if APPROVED in tags else MAIN)
    with asking(repo) as api:
        info = api.model_info(repo, revision=tags.get(wanted, wanted))
    check_names(repo, [file.rfilename for file in info.siblings or []])
    return Pin(repo, asked, str(info.sha), tags.get(APPROVED) == info.sha)


def _tags(repo: str) -> dict[str, str]:
    with asking(repo) as api:
        return {tag.name: tag.target_commit for tag in api.list_repo_refs(repo).tags}


def check_names(repo: str, names: list[str]) -> None:
    """Refuses files that could run code when opened, and paths that would lie elsewhere than in their folder.

    Raises:
        UnsafeAdapter: The message names them.
    """
    pickles = sorted(name for name in names if PurePosixPath(name).suffix.lower() in PICKLES)
    if pickles:
        raise UnsafeAdapter(
            f"{repo} holds {', '.join(pickles[:3])}, a pickle format that can run code when opened. "
            "Save the adapter as safetensors and delete those files."
        )
    outside = [name for name in names if "\\" in name or name.startswith("/") or ".." in PurePosixPath(name).parts]
    if outside:
        raise UnsafeAdapter(f"{repo} holds {len(outside)} files whose paths lead out of its folder. Do not use this repository.")


def cached(repo: str, asked: str | None) -> Pin | None:
    """What `pin` and `remember` left in the cache for a name; None when it was never opened here."""
    for wanted in [asked] if asked else [APPROVED, MAIN]:
        commit = _cached_commit(repo, wanted)
        if commit:
            return Pin(repo, asked, commit, commit == _cached_commit(repo, APPROVED))
    return None


def _cached_commit(repo: str, revision: str) -> str | None:
    with suppress(LocalEntryNotFoundError, HFValidationError):
        return Path(snapshot_download(repo, revision=revision, allow_patterns=FILES, local_files_only=True)).name
    return None


def remember(folder: Path, asked: str | None) -> None:
    """Notes in the cache that a name led to this snapshot, as the Hub's client does; call it once the files have proved good.

    Layout: https://huggingface.co/docs/huggingface_hub/guides/manage-cache
    """
    reference = folder.parents[1] / "refs" / (asked or MAIN)
    if _COMMIT.fullmatch(reference.name) or (reference.is_file() and reference.read_text() == folder.name):
        return
    with suppress(OSError):  # a cache that may only be read
        reference.parent.mkdir(parents=True, exist_ok=True)
        partial = reference.with_name(f"{reference.name}.partial")
        partial.write_text(folder.name)
        partial.replace(reference)


def resolve(repo: str, asked: str | None) -> tuple[Path, Pin]:
    """The files of an adapter's repository and the commit that they are: from the Hub, or from the cache when it does not answer.

    Raises:
        AdapterNotFound, HubUnavailable, UnsafeAdapter: As `pin`.
    """
    try:
        found = pin(repo, asked)
    except HubUnavailable as error:
        before = cached(repo, asked)
        if before is None:
            raise
        log.warning("%s What was opened here before is used: commit %s.", error, before.commit[:12])
        found = before
    return fetch(repo, found.commit), found


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


def fetch(repo: str, revision: str | None, files: list[str] = FILES, repo_type: str | None = None) -> Path:
    """Files of a Hub repository, as a folder whose name is the commit; from the cache where they are in it.

    Raises:
        AdapterNotFound: There is no such repository or revision.
        HubUnavailable: The Hub did not answer and nothing is cached.
        UnsafeAdapter: A path in it leads out of the cache.
    """
    with asking(repo):
        try:
            return Path(snapshot_download(repo, repo_type=repo_type, revision=revision, allow_patterns=files, etag_timeout=SECONDS))
        except ValueError as error:  # the client refuses a path that leads out of its cache
            if isinstance(error, (HFValidationError, OSError)):
                raise
            raise UnsafeAdapter(f"{repo} holds a file that cannot lie in the cache. Do not use this repository.") from error
