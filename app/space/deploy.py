"""spaces.yaml -> a running Space: `python -m app deploy check|plan|apply|status|logs|down [--config FILE] [--renew-secrets]`.

`plan` compares the file with the Space and changes nothing; `apply` makes the same comparison, sets what differs, waits until the
Space runs and asks it a question. Knows no model: what runs there is judged by what it says over HTTP. A token is used by
`huggingface_hub` and sent to a private Space, and never shown.
"""

import hashlib
import json
import logging
import re
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
from huggingface_hub import get_token

from app.adapter import hub
from app.errors import ConfigError, DeployFailed
from app.space import plan, space
from app.space.plan import HALTED, Deployment, Plan, asking

log = logging.getLogger(__name__)

ACTIONS = ("check", "plan", "apply", "status", "logs", "down")
START_SECONDS = 1800.0  # the platform's own limit for a start
SETTLE_SECONDS = 60.0  # for which a Space may still say how it fared before the last change
POLL_SECONDS = 3.0
ANSWER_SECONDS = 180.0
CONTRACT = "prompt_contract.json"


def run(action: str | None, config: Path = space.FILE, renew_secrets: bool = False) -> int:
    """Does one of `ACTIONS`.

    Args:
        action: Its name.
        config: The deployment file.
        renew_secrets: Set secrets again that the Space has; their values cannot be read back and compared.

    Returns:
        The exit status: 1 when `check` found something to mend.

    Raises:
        UserError: It cannot be done; the message says why and what to do.
    """
    if action not in ACTIONS:
        raise ConfigError(f"deploy needs one of {', '.join(ACTIONS)}, as in `python -m app deploy plan`.")
    wanted = space.read(config)
    if action == "check":
        return check(wanted, config)
    if problem := _placeholder(wanted):
        raise ConfigError(problem)
    hub.account()
    if action in ("plan", "apply"):
        deployment = Deployment(wanted, space.content(wanted))
        found = plan.compare(deployment, renew_secrets)
        show(found, deployment)
        if action == "apply":
            apply(deployment, found)
    elif action == "status":
        status(wanted.repository)
    elif action == "logs":
        logs(wanted.repository)
    else:
        down(wanted.repository)
    return 0


def _placeholder(wanted: space.Space) -> str:
    owner = wanted.repository.startswith("OWNER/")
    return "repository names no account yet: put yours in place of OWNER in spaces.yaml." if owner else ""


def check(wanted: space.Space, config: Path) -> int:
    """Says without a network what would stand in the way of `apply`."""
    files = space.content(wanted)
    problems = [_placeholder(wanted)] if _placeholder(wanted) else []
    try:
        plan.secret_values(wanted.secrets)
    except ConfigError as error:
        problems.append(str(error))
    for problem in problems:
        log.warning("%s", problem)
    if files[space.README] != (space.ROOT / space.README).read_bytes():
        log.info("README.md's block is not what follows from %s. The Space gets this one; put it on top of README.md:", config.name)
        log.info("%s", space.block(wanted).rstrip())
    size = sum(map(len, files.values())) / 1e6
    log.info("%s %s: %d files, %.1f MB.", config.name, "needs mending" if problems else "is in order", len(files), size)
    return int(bool(problems))


def show(found: Plan, deployment: Deployment) -> None:
    """Logs a plan, line by line."""
    for line in [*found.lines, *found.notes]:
        log.info("%s", line)
    if not found.lines:
        log.info("%s is as the file says: nothing to change.", deployment.repo)


def apply(deployment: Deployment, found: Plan) -> None:
    """Does what a plan says, waits until the Space runs, and asks it a golden question.

    Raises:
        UserError: Something was refused or failed; what was done stays, and another `apply` goes on from there.
    """
    golden = None if deployment.space.login else expected(deployment)
    commit = plan.change(deployment, found)
    if found.lines:
        log.info("Done: %s is at commit %s.", deployment.repo, commit[:12])
    wait(deployment.repo, commit)
    log.info("%s", ask(deployment, golden))


def status(repo: str) -> None:
    """Logs how the Space fares.

    Raises:
        UserError: There is no such Space, or the Hub does not answer.
    """
    with asking(repo) as api:
        found, runtime = api.space_info(repo), api.get_space_runtime(repo)
    log.info("%s (%s) at commit %s: %s.", repo, "private" if found.private else "public", str(found.sha)[:12], runtime.stage)
    asked = f", {runtime.requested_hardware} asked for" if runtime.requested_hardware not in (None, runtime.hardware) else ""
    log.info("Hardware %s%s; sleeps after %s.", runtime.hardware or "none", asked, plan.duration(runtime.sleep_time))
    log.info("%s", f"{api.endpoint}/spaces/{repo}")
    if runtime.stage == "RUNNING":
        with suppress(httpx.HTTPError, ValueError), _client(repo, bool(found.private)) as client:
            facts = client.get("/readyz", timeout=hub.SECONDS).json()
            log.info("Its app says: %s, adapter %s %s.", facts["status"], facts.get("adapter", "-"), facts.get("adapter_revision", ""))


def logs(repo: str) -> None:
    """Writes to standard output what the Space has written: while it is built or after that failed, the log of the building.

    Raises:
        UserError: There is no such Space, or the Hub does not answer.
    """
    with asking(repo) as api:
        stage = api.get_space_runtime(repo).stage
        build = stage in ("BUILDING", "BUILD_ERROR", "CONFIG_ERROR")
        empty = True
        for text in api.fetch_space_logs(repo, build=build):
            empty = False
            sys.stdout.write(text if text.endswith("\n") else f"{text}\n")
        if empty:
            log.info(
                "There is nothing in the %s log (%s). See %s/spaces/%s?logs=container",
                "build" if build else "run",
                stage,
                api.endpoint,
                repo,
            )


def down(repo: str) -> None:
    """Pauses the Space: nothing runs and nothing is billed until `apply`.

    Raises:
        UserError: There is no such Space, or the Hub does not answer.
    """
    with asking(repo) as api:
        if api.get_space_runtime(repo).stage == "PAUSED":
            log.info("%s is paused already.", repo)
            return
        api.pause_space(repo)
    log.info("%s is paused: it costs nothing and answers nobody until `python -m app deploy apply`.", repo)


def wait(repo: str, commit: str) -> None:
    """Waits until the Space runs a commit.

    Raises:
        DeployFailed: It failed, or takes too long.
    """
    began, said = time.monotonic(), ""
    while (passed := time.monotonic() - began) < START_SECONDS:
        with asking(repo) as api:
            runtime = api.get_space_runtime(repo)
        if runtime.stage != said:
            said = runtime.stage
            log.info("%s after %.0f s.", said, passed)
        # Soon after a change it may still say how the commit before fares.
        if (
            runtime.stage == "RUNNING"
            and runtime.raw.get("sha", commit) == commit
            and runtime.requested_hardware in (None, runtime.hardware)
        ):
            return
        if passed > SETTLE_SECONDS and (runtime.stage.endswith("ERROR") or runtime.stage in HALTED | {"NO_APP_FILE", "DELETING"}):
            raise DeployFailed(f"{repo} does not run: {runtime.stage}. `python -m app deploy logs` shows why.")
        time.sleep(POLL_SECONDS)
    raise DeployFailed(f"{repo} does not run after {START_SECONDS:.0f} s ({said}). `python -m app deploy logs` shows what it is doing.")


def expected(deployment: Deployment) -> tuple[str, str]:
    """The revision of the adapter that has to answer, as `/readyz` calls it, and the golden question of its contract.

    Raises:
        UserError: The adapter's repository cannot be read.
    """
    adapter = deployment.space.adapter_name
    reference = hub.parse(adapter)
    if reference is None:
        folder = adapter.rstrip("/")
        revision = "sha256:" + hashlib.sha256(deployment.files[f"{folder}/adapter_model.safetensors"]).hexdigest()[:16]
        contract = deployment.files[f"{folder}/{CONTRACT}"]
    else:
        revision = hub.pin(*reference).commit
        contract = (hub.fetch(reference[0], revision, [CONTRACT]) / CONTRACT).read_bytes()
    return revision, str(json.loads(contract)["golden"][0]["messages"][-1]["content"])


def ask(deployment: Deployment, golden: tuple[str, str] | None) -> str:
    """Asks the Space a golden question, once its model is open.

    Args:
        deployment: What has to run there.
        golden: What `expected` says; None where nobody gets an answer without a login.

    Returns:
        One sentence on what it answered.

    Raises:
        DeployFailed: It does not answer, or with another adapter than the file names.
    """
    with _client(deployment.repo, deployment.space.visibility == "private") as client:
        if golden is None:
            _until(lambda: client.get("/healthz").status_code == 200)
            return f"{client.base_url} is up. It wants a login, so no question was asked: log in and ask one."
        revision, question = golden
        facts: dict[str, Any] = {}

        def ready() -> bool:
            answer = client.get("/readyz")
            facts.update(answer.json())
            if facts.get("status") == "failed":
                raise DeployFailed(f"The Space cannot open its adapter: {str(facts.get('message'))[:300]}")
            return answer.status_code == 200

        _until(ready)
        if facts.get("adapter_revision") != revision:
            raise DeployFailed(
                f"The Space answers with {facts.get('adapter_revision')}, and {deployment.space.adapter_name} is {revision}. "
                "`python -m app deploy down` and `apply` make it open that one."
            )
        began = time.monotonic()
        body = {"model": "adapter", "messages": [{"role": "user", "content": question}], "temperature": 0}
        answer = _answer(client, body)
        return f'Asked "{question}", it answered in {time.monotonic() - began:.1f} s with adapter {revision[:19]}: "{answer[:100]}"'


def _answer(client: httpx.Client, body: dict[str, Any]) -> str:
    try:
        response = client.post("/v1/chat/completions", json=body)
        text = " ".join(response.json()["choices"][0]["message"]["content"].split()) if response.status_code == 200 else ""
    except (httpx.HTTPError, ValueError, LookupError, AttributeError) as error:
        raise DeployFailed(f"The Space gave no answer ({type(error).__name__}). `python -m app deploy logs` shows why.") from error
    if not text:
        raise DeployFailed(f"The Space gave no answer ({response.status_code}). `python -m app deploy logs` shows why.")
    return text


def _until(holds: Callable[[], bool]) -> None:
    """Asks again until something holds; a Space that starts or wakes up answers with pages of the platform's own."""
    ends = time.monotonic() + START_SECONDS
    while time.monotonic() < ends:
        with suppress(httpx.HTTPError, ValueError):
            if holds():
                return
        time.sleep(POLL_SECONDS)
    raise DeployFailed(f"The Space runs and is not ready after {START_SECONDS:.0f} s. `python -m app deploy logs` shows why.")


def _client(repo: str, private: bool) -> httpx.Client:
    """A client for the Space itself; a private one lets in only who has a token for it."""
    with asking(repo) as api:
        found = api.space_info(repo)
    address = found.host or f"https://{found.subdomain}.hf.space"
    if not re.fullmatch(r"https://[a-z0-9.-]+|http://127\.0\.0\.1:\d+", address):  # a token may be sent there
        raise DeployFailed(f"The Hub gives {address[:100]} as the address of {repo}, which is none. Try again.")
    headers = {"Authorization": f"Bearer {get_token()}"} if private else {}
    return httpx.Client(base_url=address, headers=headers, timeout=ANSWER_SECONDS)
