"""Channels of a published adapter: tags on its commits. History is never rewritten, and every state can be read from the tags.

`candidate` is the last push and `approved` what apps open; both move. `approved-N` says what was approved as the N-th, and
`withdrawn-N` that it was rolled back; these never move. `approved` belongs on the commit of the highest `approved-N` that was not
withdrawn, so a change that was cut off is finished by running it again.
"""

import json
import logging
import re
from dataclasses import dataclass
from typing import Any

from app.adapter.hub import APPROVED, CANDIDATE, MAIN, asking, fetch
from app.errors import AdapterNotFound, ConfigError, HubUnavailable

log = logging.getLogger(__name__)

WITHDRAWN = "withdrawn"
CHANNEL_SECONDS = 120.0

_CHANNEL = re.compile(r"[a-z][a-z0-9._-]{0,40}")
_COUNTED = re.compile(rf"({APPROVED}|{WITHDRAWN})-([1-9]\d*)")


@dataclass(frozen=True)
class History:
    """What the tags of a repository say.

    Attributes:
        approvals: Number of each approval and its commit.
        withdrawn: Numbers that were rolled back.
        approved: Where `approved` points; None when there is no such tag.
    """

    approvals: dict[int, str]
    withdrawn: frozenset[int]
    approved: str | None

    @property
    def standing(self) -> list[int]:
        """Numbers of the approvals that stand, the last one at the end."""
        return sorted(self.approvals.keys() - self.withdrawn)

    @property
    def due(self) -> str | None:
        """Where `approved` belongs."""
        return self.approvals[self.standing[-1]] if self.standing else None


def read(tags: dict[str, str]) -> History:
    """The history that tags (name -> commit) tell."""
    counted = [(match[1], int(match[2]), commit) for name, commit in tags.items() if (match := _COUNTED.fullmatch(name))]
    return History(
        approvals={number: commit for kind, number, commit in counted if kind == APPROVED},
        withdrawn=frozenset(number for kind, number, _ in counted if kind == WITHDRAWN),
        approved=tags.get(APPROVED),
    )


def check_channel(channel: str) -> None:
    """Refuses names that mean something else.

    Raises:
        ConfigError: The name is not one for a channel that `push` may move.
    """
    if not _CHANNEL.fullmatch(channel) or channel in (APPROVED, MAIN) or _COUNTED.fullmatch(channel):
        raise ConfigError(
            f"--channel {channel} cannot be moved by push. Use {CANDIDATE} or another word in small letters; "
            "`python -m finetune approve` approves."
        )


def tags_of(repo: str) -> dict[str, str]:
    """Every tag and its commit.

    Raises:
        AdapterNotFound, HubUnavailable: As `app.adapter.hub.asking`.
    """
    with asking(repo, CHANNEL_SECONDS) as api:
        return {tag.name: tag.target_commit for tag in api.list_repo_refs(repo).tags}


def move(repo: str, channel: str, commit: str, now: str | None) -> None:
    """Points a channel to a commit; the Hub can only delete and make tags, so for a moment there is none.

    Raises:
        HubUnavailable: It did not come to an end; the message says how to finish it.
    """
    if now == commit:
        return
    try:
        with asking(repo, CHANNEL_SECONDS) as api:
            if now is not None:
                api.delete_tag(repo, tag=channel)
            api.create_tag(repo, tag=channel, revision=commit)
    except HubUnavailable as error:
        raise HubUnavailable(f"The Hub did not answer while {channel} was moved to {commit[:12]}. Run the same command again.") from error


def approve(repo: str, revision: str) -> tuple[int, str]:
    """Approves a revision: makes the next `approved-N` and points `approved` to it.

    Returns:
        N and the commit.

    Raises:
        AdapterNotFound: There is no such repository or revision.
        ConfigError: It is approved already, or was never evaluated.
    """
    tags = tags_of(repo)
    history, commit = read(tags), commit_of(repo, revision, tags)
    if evaluation_at(repo, commit) is None:
        raise ConfigError(f"{revision} ({commit[:12]}) of {repo} has no evaluation.json. Approve what `python -m finetune push` published.")
    if history.due == commit:
        if history.approved == commit:
            raise ConfigError(f"{revision} ({commit[:12]}) is what is approved now. Push a new candidate first.")
        number = history.standing[-1]  # an approval that was cut off
    else:
        number = max(history.approvals, default=0) + 1
        with asking(repo, CHANNEL_SECONDS) as api:
            api.create_tag(repo, tag=f"{APPROVED}-{number}", revision=commit)
    move(repo, APPROVED, commit, history.approved)
    return number, commit


def rollback(repo: str) -> tuple[int, int | None, str]:
    """Withdraws what is approved and points `approved` to the approval before it that still stands.

    Returns:
        The number that is approved now, the number that was withdrawn (None when a change that was cut off was finished), and the
        commit that is approved now.

    Raises:
        ConfigError: There is no earlier approval.
    """
    history = read(tags_of(repo))
    if history.due is None:
        raise ConfigError(f"Nothing of {repo} is approved, so there is nothing to roll back. Approve a revision first.")
    withdrawn = None
    if history.approved == history.due or max(history.approvals) not in history.withdrawn:  # else a roll-back was cut off
        if len(history.standing) < 2:
            raise ConfigError(
                f"{APPROVED}-{history.standing[0]} is the only approval of {repo} that stands. Approve another revision instead."
            )
        withdrawn = history.standing[-1]
        with asking(repo, CHANNEL_SECONDS) as api:
            api.create_tag(repo, tag=f"{WITHDRAWN}-{withdrawn}", revision=history.due)
        history = History(history.approvals, history.withdrawn | {withdrawn}, history.approved)
    commit = str(history.due)
    move(repo, APPROVED, commit, history.approved)
    return history.standing[-1], withdrawn, commit


def commit_of(repo: str, revision: str, tags: dict[str, str] | None = None) -> str:
    """The commit that a channel, a tag or a (shortened) commit means.

    Raises:
        AdapterNotFound: There is none.
    """
    known = tags or {}
    with asking(repo, CHANNEL_SECONDS) as api:
        return str(api.model_info(repo, revision=known.get(revision, revision)).sha)


def evaluation_at(repo: str, revision: str) -> dict[str, Any] | None:
    """The evaluation that was published with a revision; None where there is none."""
    try:
        path = fetch(repo, revision, ["evaluation.json"]) / "evaluation.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    except (AdapterNotFound, ValueError):
        return None
