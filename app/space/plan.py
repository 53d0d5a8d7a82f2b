"""What differs between a deployment file and a Space on the Hub, and the calls that set it; each thing is set once.

A change that was cut off is finished by comparing and changing again. Knows no running app.
"""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import httpx
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, SpaceInfo, SpaceRuntime, get_session, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, RepositoryNotFoundError

from app.errors import ConfigError, DeployFailed, HubUnavailable, UserError
from app.space.space import NEVER, README, Space

HUB_SECONDS = 120.0  # the Hub may be silent so long, after an upload, say
KEPT = {".gitattributes"}  # the Hub's own file
HALTED = {"PAUSED", "STOPPED", "SLEEPING"}


@dataclass
class Plan:
    """What differs between the file and the Space; empty when nothing does.

    Attributes:
        commit: The Space's last commit; None when there is no Space yet.
        add: Files to upload, with their content.
        remove: Files to delete.
        secrets: Secrets to set: the name on the Space, and the variable here that holds the value.
        sleep_time: Seconds; None when it stays.
        restart: The stage that it is halted in.
        notes: What is worth knowing and changes nothing.
    """

    commit: str | None = None
    visibility: str | None = None
    add: dict[str, bytes] = field(default_factory=dict)
    remove: list[str] = field(default_factory=list)
    variables: dict[str, str] = field(default_factory=dict)
    unset: list[str] = field(default_factory=list)
    secrets: dict[str, str] = field(default_factory=dict)
    hardware: str | None = None
    sleep_time: int | None = None
    restart: str | None = None
    lines: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def note(self, what: str, before: object, after: object) -> None:
        """Adds a line for a value that changes."""
        self.lines.append(f"~ {what}: {before} -> {after}")


@dataclass(frozen=True)
class Deployment:
    """What a deployment file says and the files that go with it, by their path."""

    space: Space
    files: dict[str, bytes]

    @property
    def repo(self) -> str:
        """OWNER/NAME of the Space."""
        return self.space.repository


@contextmanager
def asking(repo: str) -> Iterator[HfApi]:
    """A client whose errors become sentences with the cure.

    Raises:
        ConfigError: The account may not do that.
        DeployFailed: There is no such Space, or it changed meanwhile.
        HubUnavailable: The Hub does not answer.
    """
    get_session().timeout = HUB_SECONDS
    try:
        yield HfApi()
    except RepositoryNotFoundError as error:
        raise DeployFailed(
            f"The Hub has no Space {repo}, or this account may not see it. `python -m app deploy apply` makes it."
        ) from error
    except HFValidationError as error:
        raise ConfigError(f"{repo} is no name that the Hub allows. Correct repository in spaces.yaml.") from error
    except (httpx.HTTPError, RuntimeError) as error:
        # The client wraps what breaks a large file's upload.
        broken = error.__cause__ if isinstance(error, RuntimeError) else error
        if isinstance(broken, HfHubHTTPError):
            raise _refusal(repo, broken) from error
        if not isinstance(broken, httpx.HTTPError):
            raise
        raise HubUnavailable(
            f"The connection to the Hub broke ({type(broken).__name__}). Run the same command again: it goes on."
        ) from error


def _refusal(repo: str, error: HfHubHTTPError) -> UserError:
    """What a status of the Hub means here, as a sentence with the cure."""
    status, said = error.response.status_code, " ".join(str(error.server_message or "").split())[:200]
    if status == 402:
        return ConfigError(
            f"The Hub wants to be paid for that first ({said or status}). See the account's billing page, or choose other hardware."
        )
    if status in (401, 403):
        return ConfigError(f"This account may not do that with {repo} ({status}). Take another repository, or a token that may.")
    if status in (409, 412):
        return DeployFailed(f"{repo} was changed by somebody else meanwhile. Look at `python -m app deploy plan` again.")
    if status < 500 and status != 429:
        return DeployFailed(f"The Hub refused that ({status}{': ' + said if said else ''}). Correct what it names and try again.")
    return HubUnavailable(f"The Hub could not do that now ({status}). Run the same command again in a minute.")


def compare(deployment: Deployment, renew_secrets: bool = False) -> Plan:
    """What `apply` would change.

    Raises:
        UserError: The Hub does not answer, or the Space's name is taken by something else.
    """
    wanted, plan = deployment.space, Plan()
    found = _find(deployment.repo)
    if found is None:
        plan.lines.append(f"+ Space {deployment.repo}, {wanted.visibility}")
        there: dict[str, str] = {}
        variables: dict[str, str] = {}
        secrets: set[str] = set()
        runtime = SpaceRuntime({"stage": "BUILDING", "hardware": {"current": "cpu-basic"}, "gcTimeout": None})
    else:
        plan.commit = str(found.sha)
        there = {file.rfilename: str(file.lfs.sha256 if file.lfs else file.blob_id) for file in found.siblings or []}
        _check_ours(deployment.repo, set(there))
        with asking(deployment.repo) as api:
            variables = {name: variable.value for name, variable in api.get_space_variables(deployment.repo).items()}
            secrets = set(api.get_space_secrets(deployment.repo))
            runtime = api.get_space_runtime(deployment.repo)
        if found.private != (wanted.visibility == "private"):
            plan.visibility = wanted.visibility
            plan.note("visibility", "private" if found.private else "public", wanted.visibility)
    _compare_files(plan, deployment.files, there)
    _compare_variables(plan, wanted.environment, variables)
    _compare_secrets(plan, wanted.secrets, secrets, renew_secrets)
    _compare_machine(plan, wanted, runtime)
    return plan


def _find(repo: str) -> SpaceInfo | None:
    with asking(repo) as api, suppress(RepositoryNotFoundError):
        return api.space_info(repo, files_metadata=True)
    return None


def _check_ours(repo: str, names: set[str]) -> None:
    """Refuses to overwrite something else."""
    if names - KEPT - {README} and "app/__main__.py" not in names:
        raise ConfigError(f"The name {repo} is taken by another Space. Choose another repository in spaces.yaml.")


def _compare_files(plan: Plan, files: dict[str, bytes], there: dict[str, str]) -> None:
    for name, data in files.items():
        known = there.get(name)
        if known not in (
            hashlib.sha256(data).hexdigest(),
            hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest(),
        ):
            plan.add[name] = data
            plan.lines.append(f"{'~' if known else '+'} file {name} ({len(data):,} bytes)")
    plan.remove = sorted(there.keys() - files.keys() - KEPT)
    plan.lines += [f"- file {name}" for name in plan.remove]


def _compare_variables(plan: Plan, wanted: dict[str, str], there: dict[str, str]) -> None:
    for name, value in wanted.items():
        if there.get(name) == value:
            continue
        plan.variables[name] = value
        if name in there:
            plan.note(f"variable {name}", there[name], value)
        else:
            plan.lines.append(f"+ variable {name} = {value}")
    plan.unset = sorted(there.keys() - wanted.keys())
    plan.lines += [f"- variable {name} = {there[name]}" for name in plan.unset]


def _compare_secrets(plan: Plan, wanted: dict[str, str], there: set[str], renew: bool) -> None:
    plan.secrets = {name: source for name, source in wanted.items() if renew or name not in there}
    plan.lines += [f"{'~' if name in there else '+'} secret {name}, from {source}" for name, source in plan.secrets.items()]
    plan.notes += [
        f"Secret {name} is set and stays as it is; --renew-secrets sets it again." for name in wanted if name not in plan.secrets
    ]
    plan.notes += [
        f"Secret {name} is on the Space and not in the file: it stays. Delete it in the Space's settings."
        for name in sorted(there - wanted.keys())
    ]


def _compare_machine(plan: Plan, wanted: Space, runtime: SpaceRuntime) -> None:
    hardware = runtime.requested_hardware or runtime.hardware
    if hardware != wanted.hardware:
        plan.hardware = wanted.hardware
        plan.note("hardware", hardware, wanted.hardware)
    asleep_after = NEVER if runtime.sleep_time is None else runtime.sleep_time
    if wanted.sleep_time is not None and (asleep_after != wanted.sleep_time or plan.hardware):
        plan.sleep_time = wanted.sleep_time
        plan.note("sleep time", duration(runtime.sleep_time), duration(wanted.sleep_time))
    files_change = bool(plan.add or plan.remove)
    if runtime.stage in HALTED or (runtime.stage.endswith("ERROR") and not files_change):
        plan.restart = runtime.stage
        plan.note("stage", runtime.stage, "RUNNING")


def duration(seconds: int | None) -> str:
    """A sleep time in words; the Hub says None for never."""
    return "never" if seconds in (None, NEVER) else f"{seconds} s"


def secret_values(sources: dict[str, str]) -> dict[str, str]:
    """The values of secrets, from the environment alone.

    Raises:
        ConfigError: One is missing, or is the token that deploys; the message names the variable.
    """
    values = {}
    for name, source in sources.items():
        value = os.environ.get(source, "")
        if not value:
            raise ConfigError(f"The secret {name} has no value here. Set {source} in the environment of this command, as spaces.yaml says.")
        if value == get_token():
            raise ConfigError(
                f"{source} is the token that deploys and may write, which the Space must not hold. "
                "Make one that may do no more than the Space needs."
            )
        values[name] = value
    return values


def change(deployment: Deployment, plan: Plan) -> str:
    """Does what a plan says.

    Returns:
        The Space's last commit.

    Raises:
        UserError: Something was refused; what was done before stays, and another `apply` goes on from there.
    """
    repo, wanted = deployment.repo, deployment.space
    secrets = secret_values(plan.secrets)
    commit = plan.commit
    with asking(repo) as api:
        if commit is None:
            api.create_repo(repo, repo_type="space", space_sdk=wanted.sdk, visibility=wanted.visibility)
            commit = str(api.space_info(repo).sha)
        if plan.visibility == "private":
            api.update_repo_settings(repo, repo_type="space", visibility="private")
        for name, value in plan.variables.items():
            api.add_space_variable(repo, name, value)
        for name in plan.unset:
            api.delete_space_variable(repo, name)
        for name, value in secrets.items():
            api.add_space_secret(repo, name, value)
        if plan.hardware:
            api.request_space_hardware(repo, plan.hardware, sleep_time=plan.sleep_time)  # type: ignore[arg-type]
        elif plan.sleep_time is not None:
            api.set_space_sleep_time(repo, plan.sleep_time)
        if plan.add or plan.remove:
            add = [CommitOperationAdd(name, data) for name, data in plan.add.items()]
            remove = [CommitOperationDelete(name) for name in plan.remove]
            made = api.create_commit(repo, [*add, *remove], commit_message="Deploy", repo_type="space", parent_commit=commit)
            commit = str(made.oid)
        if plan.visibility == "public":
            api.update_repo_settings(repo, repo_type="space", visibility="public")
        if plan.restart:
            api.restart_space(repo)
    return commit
