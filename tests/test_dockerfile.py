"""The Dockerfile: it cannot be built here, so it is linted, and what it copies and promises is checked against the repository."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from app.settings import ROOT, Settings

TEXT = (ROOT / "Dockerfile").read_text(encoding="utf-8")
STEPS = re.sub(r"\\\n", " ", TEXT)


def test_hadolint_finds_nothing(tmp_path: Path) -> None:
    hadolint = shutil.which("hadolint", path=Path(sys.executable).parent)
    if not hadolint:
        pytest.skip("hadolint is not installed")
    checked = subprocess.run([hadolint, str(ROOT / "Dockerfile")], capture_output=True, text=True)
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")
    bad = tmp_path / "Dockerfile"
    bad.write_text("FROM debian\nRUN sudo apt-get install x\n")
    assert subprocess.run([hadolint, str(bad)], capture_output=True).returncode, "the check cannot fail"


def test_all_that_is_copied_is_there_and_not_kept_out() -> None:
    copied = {name for line in re.findall(r"^COPY (?!--from)(.*)$", STEPS, flags=re.MULTILINE) for name in line.split()[:-1]}
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines() if line.startswith("!")}
    assert copied == let_in == {"app", "assets", "requirements.txt", "requirements.lock", "constraints.txt"}
    assert all((ROOT / name).exists() for name in copied)


def test_it_ends_as_a_user_without_rights_with_a_health_check_on_the_open_route() -> None:
    users = re.findall(r"^USER (.*)$", STEPS, flags=re.MULTILINE)
    assert users[-1].isdigit() and int(users[-1]) > 1000
    check = json.loads(re.search(r"^HEALTHCHECK .*CMD (\[.*\])$", STEPS, flags=re.MULTILINE).group(1))
    port = re.search(r"^EXPOSE (\d+)$", STEPS, flags=re.MULTILINE).group(1)
    assert f"127.0.0.1:{port}/healthz" in check[-1]
    assert int(port) == Settings.model_fields["port"].default
    compile(check[-1], "healthcheck", "exec")


def test_its_variables_are_settings_or_known_to_libraries() -> None:
    names = set(re.findall(r"\b([A-Z][A-Z_]+)=", re.search(r"^ENV (.*)$", STEPS, flags=re.MULTILINE).group(1)))
    libraries = {"PATH", "HF_HOME", "TRITON_CACHE_DIR", "PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE"}
    ours = {"APP_HOST", *(name.upper() for name in Settings.model_fields)}
    assert names - libraries <= ours


def test_all_that_has_hashes_is_installed_by_them_first() -> None:
    install = re.findall(r"\$\{install\} (.*?)(?: &&|$)", STEPS, flags=re.MULTILINE)
    assert [line.strip() for line in install] == ["--no-deps -r requirements.lock", "-r requirements.txt -c constraints.txt"]


@pytest.mark.parametrize(("device", "expected"), [("cpu", "https://download.pytorch.org/whl/cpu"), ("cuda", ""), ("tpu", None)])
def test_the_build_argument_chooses_the_index_of_the_wheels(device: str, expected: str | None) -> None:
    case = re.search(r"(case \"\$\{DEVICE\}\" in .*? esac)", STEPS).group(1)
    run = subprocess.run(["sh", "-c", f'{case}; echo "[$index]"'], env={"DEVICE": device}, capture_output=True, text=True)
    assert (run.stdout.strip(), run.returncode) == ((f"[{expected}]", 0) if expected is not None else ("", 1))
