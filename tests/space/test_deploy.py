"""From spaces.yaml to a running Space, over HTTP with the real client and the real app: what is changed, what never is, what is told."""

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from app.errors import ConfigError, DeployFailed, HubUnavailable, UserError
from app.settings import ROOT
from app.space import deploy, plan, space
from tests.answers import SECRET
from tests.conftest import assert_is_for_people
from tests.hub_server import Files, HubServer, Repo, Space
from tests.servers import HTTP, Process, check_from_outside, free_port, unmeasured
from tests.space.test_space import deployment_file
from tests.test_install import on_a_space

NAME = "spaces/somebody/chat"


@pytest.fixture(scope="module")
def built() -> list[Process]:
    """The Space that runs, once there is one."""
    return []


@pytest.fixture(scope="module")
def start_once(tmp_path_factory: pytest.TempPathFactory, built: list[Process]) -> Iterator[Callable[[str, Files, dict[str, str]], str]]:
    """Starts the app of the first Space that is built; the others of this file, which differ in nothing that it shows, share it."""
    with ExitStack() as stack:

        def start(name: str, files: Files, environment: dict[str, str]) -> str:
            if not built:
                folder = tmp_path_factory.mktemp("space") / "app"
                built.append(stack.enter_context(on_a_space(sys.executable, free_port(), folder, files, environment)))
            return built[0].url

        yield start


@pytest.fixture
def spaces(hub: HubServer, start_once: Callable[[str, Files, dict[str, str]], str], monkeypatch: pytest.MonkeyPatch) -> HubServer:
    """A Hub that runs what is committed to a Space, and does so without dawdling."""
    hub.start_space = start_once
    monkeypatch.setattr(deploy, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(deploy, "SETTLE_SECONDS", 0.2)
    return hub


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Iterator[list[str]]:
    """What the commands say."""
    caplog.set_level(logging.INFO, logger="app")
    said: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage())

    handler = Keep()
    logging.getLogger("app").addHandler(handler)
    yield said
    logging.getLogger("app").removeHandler(handler)
    assert not [line for line in said if "hf_owner" in line or "hf_reader" in line], "a token is never shown"


def changing(hub: HubServer) -> list[str]:
    """The requests that change something."""
    harmless = ("/api/validate-yaml",)
    return [f"{method} {path}" for method, path in hub.requests if method != "GET" and method != "HEAD" and path not in harmless]


def test_apply_makes_a_space_that_answers_and_a_second_one_changes_nothing(
    spaces: HubServer, tmp_path: Path, lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("READER", "hf_reader")
    config = deployment_file(tmp_path, secrets={"HF_TOKEN": "READER"}, limits={"max_new_tokens": 48})
    assert deploy.run("plan", config) == 0
    assert "+ Space somebody/chat, public" in lines and "+ variable MAX_NEW_TOKENS = 48" in lines
    assert "+ secret HF_TOKEN, from READER" in lines and [line for line in lines if line.startswith("+ file app/web/server.py (")]
    assert not changing(spaces) and NAME not in spaces.repos, "plan changes nothing"

    assert deploy.run("apply", config) == 0
    repo = spaces.repos[NAME]
    files = repo.commits[repo.main]
    assert repo.log == ["initial commit", "Deploy"], "everything goes in one commit"
    assert files.keys() == space.content(space.read(config)).keys() | {".gitattributes"}
    assert (
        files["README.md"].decode().startswith("---\ntitle: Medical Q&A\n")
        and files["app/web/server.py"] == (ROOT / "app/web/server.py").read_bytes()
    )
    assert repo.space and repo.space.secrets == {"HF_TOKEN": "hf_reader"} and repo.space.variables["ADAPTER"] == "assets/demo/adapter"
    assert repo.space.variables["MAX_NEW_TOKENS"] == "48" and repo.space.stage == "RUNNING"
    assert lines[-1].startswith('Asked "What are the common symptoms of diabetes?", it answered in ')
    assert "with adapter sha256:" in lines[-1] and len(lines[-1].split(': "')[-1]) > 20

    spaces.requests.clear()
    assert deploy.run("apply", config) == 0
    assert "somebody/chat is as the file says: nothing to change." in lines and not changing(spaces)
    assert lines[-1].startswith("Asked "), "it is asked all the same"
    assert "Secret HF_TOKEN is set and stays as it is; --renew-secrets sets it again." in lines


@pytest.fixture
def deployed(spaces: HubServer, start_once: Callable[[str, Files, dict[str, str]], str], tmp_path: Path) -> Repo:
    """The repository's own Space as `apply` leaves it, running."""
    wanted = space.read(deployment_file(tmp_path))
    files = space.content(wanted)
    state = Space(stage="RUNNING", hardware="cpu-basic", variables=dict(wanted.environment))
    spaces.repos[NAME] = repo = Repo("somebody", space=state)
    state.sha = repo.commit({".gitattributes": b""}, "initial commit")
    state.sha = repo.commit(files | {".gitattributes": b""}, "Deploy")
    state.host = start_once("somebody/chat", files, state.variables)
    return repo


def test_only_what_differs_is_changed(spaces: HubServer, deployed: Repo, tmp_path: Path, lines: list[str]) -> None:
    def edit(files: Files) -> None:
        files["app/page/theme.py"] = b"# changed behind our back\n"
        files["tests/test_x.py"] = b""

    deployed.change(edit)
    assert deployed.space
    deployed.space.variables |= {"MAX_QUEUE": "1", "STRAY": "x"}
    deployed.space.secrets["OLD"] = "x"
    config = deployment_file(tmp_path, hardware="t4-small", sleep_time=600, visibility="private")
    deploy.run("apply", config)
    changes = [line for line in lines if line[:2] in ("+ ", "- ", "~ ")]
    assert [line.split(" (")[0] for line in changes] == [
        "~ visibility: public -> private",
        "~ file app/page/theme.py",
        "~ file README.md",
        "- file tests/test_x.py",
        "~ variable MAX_QUEUE: 1 -> 32",
        "- variable STRAY = x",
        "~ hardware: cpu-basic -> t4-small",
        "~ sleep time: never -> 600 s",
    ]
    assert "Secret OLD is on the Space and not in the file: it stays. Delete it in the Space's settings." in lines
    assert deployed.log[-2:] == ["tampered", "Deploy"] and deployed.private
    assert (deployed.space.hardware, deployed.space.sleep_time, set(deployed.space.secrets)) == ("t4-small", 600, {"OLD"})
    assert "STRAY" not in deployed.space.variables and "tests/test_x.py" not in deployed.commits[deployed.main]
    spaces.requests.clear()
    deploy.run("apply", deployment_file(tmp_path, hardware="t4-small", sleep_time=900, visibility="private"))
    assert changing(spaces) == [f"POST /api/{NAME}/sleeptime"]


def test_down_pauses_and_apply_wakes(spaces: HubServer, deployed: Repo, tmp_path: Path, lines: list[str]) -> None:
    config = deployment_file(tmp_path)
    deploy.run("down", config)
    assert deployed.space and deployed.space.stage == "PAUSED" and "costs nothing" in lines[-1]
    deploy.run("down", config)
    assert lines[-1] == "somebody/chat is paused already."
    deploy.run("status", config)
    assert [line for line in lines if line.endswith(": PAUSED.")]
    deploy.run("apply", config)
    assert "~ stage: PAUSED -> RUNNING" in lines and deployed.space.stage == "RUNNING" and lines[-1].startswith("Asked ")
    assert changing(spaces) == [f"POST /api/{NAME}/pause", f"POST /api/{NAME}/restart"]


def test_status_and_logs_say_how_it_fares(deployed: Repo, tmp_path: Path, lines: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    config = deployment_file(tmp_path)
    deploy.run("status", config)
    assert lines[0] == f"somebody/chat (public) at commit {deployed.main[:12]}: RUNNING."
    assert lines[1] == "Hardware cpu-basic; sleeps after never." and "ready, adapter assets/demo/adapter sha256:" in lines[3]
    deploy.run("logs", config)
    assert capsys.readouterr().out == "the run log\nits second line\n"
    assert deployed.space
    deployed.space.stage = "BUILD_ERROR"
    deploy.run("logs", config)
    assert capsys.readouterr().out == "the build log\nits second line\n"


def test_a_space_that_cannot_be_built_is_told(spaces: HubServer, tmp_path: Path) -> None:
    spaces.faults.build = "BUILD_ERROR"
    with pytest.raises(DeployFailed, match=r"does not run: BUILD_ERROR\. `python -m app deploy logs` shows why") as caught:
        deploy.run("apply", deployment_file(tmp_path))
    assert_is_for_people(caught.value)
    spaces.faults.build = "RUNNING"
    assert deploy.run("apply", deployment_file(tmp_path)) == 0, "another apply starts it anew"


def test_an_answer_of_another_adapter_is_a_failure(
    spaces: HubServer, deployed: Repo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = space.content

    def other_weights(wanted: space.Space) -> Files:
        return real(wanted) | {"assets/demo/adapter/adapter_model.safetensors": b"other"}

    monkeypatch.setattr(space, "content", other_weights)
    with pytest.raises(DeployFailed, match="The Space answers with sha256:") as caught:
        deploy.run("apply", deployment_file(tmp_path))
    assert_is_for_people(caught.value)


def test_an_app_that_does_not_answer_is_a_failure(spaces: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spaces.start_space = lambda name, files, environment: "http://127.0.0.1:9"
    monkeypatch.setattr(deploy, "START_SECONDS", 0.3)
    config = deployment_file(tmp_path)
    with pytest.raises(DeployFailed, match="is not ready after 0 s") as caught:
        deploy.run("apply", config)
    assert_is_for_people(caught.value)
    spaces.repos[NAME].space.host = "ftp://somewhere"
    with pytest.raises(DeployFailed, match="as the address of somebody/chat, which is none"):
        deploy.run("apply", config)


def test_a_hub_adapter_is_asked_at_the_commit_of_its_channel(spaces: HubServer, tmp_path: Path) -> None:
    spaces.repos["somebody/medical"] = made = Repo("somebody")
    folder = ROOT / "assets" / "demo" / "adapter"
    made.tags["approved"] = made.commit({path.name: path.read_bytes() for path in folder.iterdir()}, "Publish adapter")
    made.commit({"README.md": b""}, "newer")
    config = deployment_file(tmp_path, adapter="somebody/medical", channel="approved")
    wanted = space.read(config)
    deployment = plan.Deployment(wanted, space.content(wanted))
    assert deploy.expected(deployment) == (made.tags["approved"], "What are the common symptoms of diabetes?")
    with pytest.raises(UserError, match="no such revision"):
        deploy.run("apply", deployment_file(tmp_path, adapter="somebody/medical", channel="nowhere"))
    assert NAME not in spaces.repos, "nothing is made before that is known"


def test_a_visitor_has_to_log_in_and_no_question_is_asked(spaces: HubServer, tmp_path: Path, lines: list[str]) -> None:
    deploy.run("apply", deployment_file(tmp_path, login=True))
    assert "wants a login" in lines[-1]
    repo = spaces.repos[NAME]
    assert b"hf_oauth: true" in repo.commits[repo.main]["README.md"]


def test_a_missing_secret_and_the_token_that_deploys_are_refused(
    spaces: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = deployment_file(tmp_path, secrets={"HF_TOKEN": "READER"})
    monkeypatch.delenv("READER", raising=False)
    for value, said in ((None, "Set READER in the environment"), ("hf_owner", "READER is the token that deploys")):
        if value:
            monkeypatch.setenv("READER", value)
        with pytest.raises(ConfigError, match=said) as caught:
            deploy.run("apply", config)
        assert_is_for_people(caught.value)
    assert NAME not in spaces.repos and not changing(spaces)


def test_secrets_are_set_again_when_asked(spaces: HubServer, deployed: Repo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert deployed.space
    deployed.space.secrets["HF_TOKEN"] = "old"
    monkeypatch.setenv("READER", "hf_reader")
    config = deployment_file(tmp_path, secrets={"HF_TOKEN": "READER"})
    deploy.run("apply", config)
    assert deployed.space.secrets == {"HF_TOKEN": "old"}
    deploy.run("apply", config, renew_secrets=True)
    assert deployed.space.secrets == {"HF_TOKEN": "hf_reader"}


def test_what_was_cut_off_is_finished_by_another_apply(spaces: HubServer, tmp_path: Path) -> None:
    config = deployment_file(tmp_path)
    spaces.faults.full = True
    with pytest.raises(DeployFailed, match=r"The Hub refused that \(413: Storage limit reached\)") as refused:
        deploy.run("apply", config)
    assert_is_for_people(refused.value)
    assert spaces.repos[NAME].log == ["initial commit"]
    spaces.faults.full, spaces.faults.lose_commits = False, 1
    with pytest.raises(HubUnavailable, match="Run the same command again") as lost:
        deploy.run("apply", config)
    assert_is_for_people(lost.value)
    assert deploy.run("apply", config) == 0
    assert spaces.repos[NAME].log == ["initial commit", "Deploy"], "it had arrived"


def test_hardware_that_is_not_paid_for_is_told_before_files_change(spaces: HubServer, deployed: Repo, tmp_path: Path) -> None:
    spaces.faults.unpaid = True
    with pytest.raises(ConfigError, match=r"wants to be paid for that first \(.*payment method") as caught:
        deploy.run("apply", deployment_file(tmp_path, hardware="a10g-small", sleep_time=600))
    assert_is_for_people(caught.value)
    assert deployed.log[-1] == "Deploy" and len(deployed.log) == 2


def test_somebody_elses_change_meanwhile_is_not_overwritten(spaces: HubServer, deployed: Repo, tmp_path: Path) -> None:
    wanted = space.read(deployment_file(tmp_path))
    deployment = plan.Deployment(wanted, space.content(wanted) | {"app/x.py": b""})
    found = plan.compare(deployment)
    other = deployed.change(lambda files: files.update({"app/theirs.py": b""}))
    with pytest.raises(DeployFailed, match="changed by somebody else meanwhile") as caught:
        plan.change(deployment, found)
    assert_is_for_people(caught.value)
    assert deployed.main == other


def test_a_space_of_another_kind_and_other_peoples_are_left_alone(
    spaces: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = deployment_file(tmp_path)
    spaces.repos[NAME] = taken = Repo("somebody")
    taken.commit({"app.py": b"another app"}, "theirs")
    with pytest.raises(ConfigError, match="is taken by another Space") as caught:
        deploy.run("apply", config)
    assert_is_for_people(caught.value)
    del spaces.repos[NAME]
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    with pytest.raises(ConfigError, match=r"may not do that with somebody/chat \(403\)") as caught:
        deploy.run("apply", config)
    assert_is_for_people(caught.value)
    for action in ("status", "logs", "down"):
        with pytest.raises(DeployFailed, match="The Hub has no Space somebody/chat"):
            deploy.run(action, config)
    monkeypatch.setenv("HF_TOKEN", "hf_unknown")
    with pytest.raises(ConfigError, match="does not know this token"):
        deploy.run("plan", config)


def test_the_hub_not_answering_is_told(spaces: HubServer, deployed: Repo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.space.deploy.hub.account", lambda: "somebody")
    spaces.faults.refuse = ("GET", 50)
    with pytest.raises(HubUnavailable, match="could not do that now") as caught:
        deploy.run("plan", deployment_file(tmp_path))
    assert_is_for_people(caught.value)


def test_check_needs_no_hub_and_names_what_to_mend(tmp_path: Path, lines: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("READER", raising=False)
    assert deploy.run("check", deployment_file(tmp_path)) == 0
    assert lines == [line for line in lines if "is in order: " in line]
    assert deploy.run("check", deployment_file(tmp_path, repository="OWNER/x", secrets={"A_KEY": "READER"}, login=True)) == 1
    said = "\n".join(lines)
    assert "put yours in place of OWNER" in said and "Set READER in the environment" in said and "hf_oauth: true" in said
    with pytest.raises(ConfigError, match="in place of OWNER"):
        deploy.run("plan", deployment_file(tmp_path, repository="OWNER/x"))
    for action in (None, "aply"):
        with pytest.raises(ConfigError, match="deploy needs one of check, plan") as caught:
            deploy.run(action, deployment_file(tmp_path))
        assert_is_for_people(caught.value)


def test_the_command_line_reaches_the_hub_that_the_environment_names(hub: HubServer, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "app", "deploy", "plan", "--config", str(deployment_file(tmp_path))]
    environment = unmeasured(os.environ) | {"HF_ENDPOINT": hub.url, "HF_TOKEN": "hf_owner", "HF_HOME": str(tmp_path)}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0 and result.stderr.startswith("+ Space somebody/chat, public\n"), result.stderr
    assert ("GET", f"/api/{NAME}") in hub.requests and "hf_owner" not in result.stderr + result.stdout
    broken = subprocess.run([*command[:4], "aply"], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert broken.returncode == 1 and broken.stderr.startswith("deploy needs one of") and len(broken.stderr.splitlines()) == 1


def test_the_golden_question_is_the_contracts_own() -> None:
    contract = json.loads((ROOT / "assets/demo/adapter/prompt_contract.json").read_text())
    wanted = space.read()
    revision, question = deploy.expected(plan.Deployment(wanted, space.content(wanted)))
    assert question == contract["golden"][0]["messages"][-1]["content"] and revision.startswith("sha256:") and len(revision) == 23


def test_a_space_serves_the_same_from_outside_and_an_open_page_does_not_keep_it_from_ending(deployed: Repo, built: list[Process]) -> None:
    """The last test of this file: the Space that the others share ends here."""
    (process,) = built
    check_from_outside(process.url)
    with HTTP.stream("GET", f"{process.url}/gradio_api/heartbeat/abc") as heartbeat:
        next(heartbeat.iter_lines())
        output = process.end()
    assert SECRET not in output
    # As the interpreter ends, Python may complain of loops that Gradio has not closed.
    assert "Traceback" not in output.split("Exception ignored in: <function BaseEventLoop.__del__")[0]
    assert "Ready: adapter" in output
