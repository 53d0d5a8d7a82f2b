"""The deployment file: what it may say, the block of README.md that follows from it, and the files that go with it."""

import shutil
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from packaging.requirements import Requirement

from app.errors import ConfigError, UnsafeAdapter
from app.settings import ROOT, load_settings
from app.space import space
from tests.conftest import assert_is_for_people
from tests.pins import requirements


def deployment_file(folder: Path, **changes: Any) -> Path:
    """The repository's own file with an account in it and changes; None takes a key out, `a__b` is b inside a."""
    values = yaml.safe_load(space.FILE.read_text(encoding="utf-8")) | {"repository": "somebody/chat"}
    for key, value in changes.items():
        *parents, last = key.split("__")
        target = values
        for parent in parents:
            target = target[parent]
        if value is None:
            del target[last]
        else:
            target[last] = value
    path = folder / "spaces.yaml"
    path.write_text(yaml.safe_dump(values, allow_unicode=True), encoding="utf-8")
    return path


def block(path: Path) -> dict[str, Any]:
    return yaml.safe_load(space.block(space.read(path)).strip("-\n"))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"hardwear": "t4-small"}, "the key hardwear is unknown. Did you mean hardware?"),
        ({"page__titel": "x"}, "the key page.titel is unknown. Did you mean title?"),
        ({"zzz": 1}, "the key zzz is unknown. Correct it"),
        ({"hardware": "t4-smal", "sleep_time": 600}, "Did you mean t4-small?"),
        ({"hardware": "h200", "sleep_time": 600}, "is not allowed"),
        ({"repository": None}, "the key repository is missing"),
        ({"repository": "no-owner"}, "repository = 'no-owner' is not allowed"),
        ({"visibility": "publik"}, "Did you mean public?"),
        ({"sleep_time": 3600}, "cpu-basic falls asleep when the platform says so"),
        ({"hardware": "t4-small"}, "t4-small costs money as long as it is awake: give sleep_time"),
        ({"hardware": "t4-small", "sleep_time": 5}, "60 seconds or more"),
        ({"hardware": "t4-small", "sleep_time": "3600"}, "sleep_time = '3600' is not allowed"),
        ({"channel": "approved"}, "channel goes with an adapter of the form OWNER/NAME"),
        ({"limits": {"max_new_token": 5}}, "Did you mean max_new_tokens?"),
        ({"limits": {"max_new_tokens": 0}}, "greater than or equal to 1"),
        ({"limits": {"max_new_tokens": 2.5}}, "max_new_tokens: "),
        ({"limits": {"max_new_tokens": "5"}}, "max_new_tokens: "),
        ({"limits": {"port": 80}}, "port is no limit"),
        ({"variables": {"ADAPTER": "x"}}, "ADAPTER is set by another key"),
        ({"variables": {"MAX_QUEUE": "5"}}, "MAX_QUEUE is set by another key"),
        ({"variables": {"HF_TOKEN": "x"}}, "HF_TOKEN would be read by everybody"),
        ({"variables": {"OTHER": "hf_abc"}}, "OTHER would be read by everybody"),
        ({"variables": {"lower": "x"}}, "lower"),
        ({"variables": {"FLAG": True}}, "variables.FLAG"),
        ({"secrets": {"HF_TOKEN": "hf_abc"}}, "secrets.HF_TOKEN"),
        ({"preload": ["owner/name a b"]}, "preload.0"),
        ({"login_organisation": "us"}, "switch login on"),
        ({"sdk": "docker"}, "sdk = 'docker' is not allowed"),
        ({"page__short_description": "x" * 61}, "page.short_description"),
    ],
)
def test_what_the_file_may_not_say_is_told_with_the_cure(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        space.read(deployment_file(tmp_path, **changes))
    assert said in str(caught.value) and "hf_abc" not in str(caught.value)
    assert_is_for_people(caught.value)


@pytest.mark.parametrize(
    ("text", "said"), [("a: [", "not valid YAML"), ("- a", "no settings"), ("limits: {}\nlimits: {}", "limits stands twice")]
)
def test_a_file_that_is_none_is_told(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "spaces.yaml").write_text(text)
    for path, expected in ((tmp_path / "spaces.yaml", said), (tmp_path / "none.yaml", "cannot be read")):
        with pytest.raises(ConfigError, match=expected) as caught:
            space.read(path)
        assert_is_for_people(caught.value)


def test_every_hardware_that_we_support_is_one_of_the_hubs_own() -> None:
    from huggingface_hub import SpaceHardware

    assert {"zero-a10g", "t4-small", "a10g-small", "l4x1", "a100-large", "cpu-basic"} == set(get_args(space.Hardware))
    assert set(get_args(space.Hardware)) <= {item.value for item in SpaceHardware}


def test_limits_and_adapter_reach_the_apps_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = deployment_file(tmp_path, adapter="somebody/medical", channel="candidate", limits={"max_new_tokens": 77, "deadline": 12.5})
    for name, value in space.read(path).environment.items():
        monkeypatch.setenv(name, value)
    settings = load_settings()
    assert (settings.adapter, settings.max_new_tokens, settings.deadline) == ("somebody/medical@candidate", 77, 12.5)


def test_the_block_says_what_is_fetched_and_who_may_log_in(tmp_path: Path) -> None:
    assert not {"models", "preload_from_hub", "hf_oauth"} & block(deployment_file(tmp_path)).keys()
    entry = "meta/base *.json,model.safetensors " + "a" * 40
    path = deployment_file(
        tmp_path, adapter="somebody/medical", preload=[entry], login=True, login_organisation="ward", hardware="l4x1", sleep_time=600
    )
    made = block(path)
    assert made["models"] == ["somebody/medical", "meta/base"] and made["preload_from_hub"] == [entry]
    assert made["hf_oauth"] is True and made["hf_oauth_authorized_org"] == "ward"
    assert space.read(path).environment["REQUIRE_LOGIN"] == "true" and space.read(path).environment["LOGIN_ORGANISATION"] == "ward"
    assert made["suggested_hardware"] == "l4x1" and made["python_version"] == "3.12"


def test_the_readmes_text_stays_and_its_block_is_replaced(tmp_path: Path) -> None:
    wanted = space.read(deployment_file(tmp_path))
    (tmp_path / "README.md").write_text("---\ntitle: old\n---\n\n# Title\n\n---\nnot a block\n---\n")
    made = space.readme(wanted, tmp_path)
    assert made == space.block(wanted) + "\n# Title\n\n---\nnot a block\n---\n"
    (tmp_path / "README.md").write_text("# No block\n")
    assert space.readme(wanted, tmp_path) == space.block(wanted) + "# No block\n"


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of what a Space gets, and of some things that it must not get."""
    for name in (*space.FOLDERS, *space.FILES, space.README, space.REQUIREMENTS, space.LOCK, space.CONSTRAINTS):
        source = ROOT / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, tmp_path / name)
    for name in ("tests/test_x.py", "app/__pycache__/x.cpython-311.pyc", "app/.env", "assets/.cache/x", ".env"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("TOKEN=secret")
    return tmp_path


def test_the_app_its_assets_and_nothing_else_are_uploaded(copy: Path) -> None:
    wanted = space.read(deployment_file(copy))
    names = set(space.content(wanted, copy))
    assert {name.split("/")[0] for name in names} == {"app", "assets", "requirements.txt", "README.md", "LICENSE", "NOTICE"}
    assert not [name for name in names if "pycache" in name or "/." in name]
    assert {"app/__main__.py", "assets/demo/adapter/adapter_model.safetensors", "assets/style.css"} <= names


@pytest.mark.parametrize(("hardware", "torch"), [("cpu-basic", "=="), ("l4x1", "=="), ("zero-a10g", ">=")])
def test_a_space_gets_the_tested_versions_and_its_own_pytorch_on_zerogpu(copy: Path, hardware: str, torch: str) -> None:
    paid = {} if hardware in space.FREE else {"sleep_time": 600}
    wanted = space.read(deployment_file(copy, hardware=hardware, **paid))
    (copy / "installed.txt").write_bytes(space.content(wanted, copy)["requirements.txt"])
    pins = requirements("installed.txt", copy)
    own = pins.pop("torch")
    assert own.startswith(torch) and own in (requirements("requirements.txt")["torch"], requirements("constraints.txt")["torch"])
    assert pins.items() <= requirements("constraints.txt").items()
    assert requirements("requirements.txt").keys() - {"torch"} <= pins.keys() and {"h11", "certifi", "cryptography"} <= pins.keys()
    text = (copy / "installed.txt").read_text()
    assert "hash" not in text and "\\" not in text, "the platform installs packages without hashes by the same command"
    assert [Requirement(line).name for line in text.splitlines()] == [*pins, "torch"], "each line is one that pip reads"


def test_another_gradio_than_the_pinned_one_is_refused(copy: Path) -> None:
    with pytest.raises(ConfigError, match=r"sdk_version = '6\.30\.0' is not allowed: requirements\.lock pins Gradio 6\.") as caught:
        space.content(space.read(deployment_file(copy, sdk_version="6.30.0")), copy)
    assert_is_for_people(caught.value)


@pytest.mark.parametrize(
    ("adapter", "said"), [("outputs/mine", "no adapter that goes with the Space"), ("assets/demo", "no adapter that goes with the Space")]
)
def test_an_adapter_that_would_not_be_there_is_refused(copy: Path, adapter: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        space.content(space.read(deployment_file(copy, adapter=adapter)), copy)
    assert_is_for_people(caught.value)


def test_pickles_and_missing_files_are_refused(copy: Path) -> None:
    wanted = space.read(deployment_file(copy))
    (copy / "assets" / "weights.bin").write_bytes(b"x")
    with pytest.raises(UnsafeAdapter, match="weights.bin"):
        space.content(wanted, copy)
    (copy / "assets" / "weights.bin").unlink()
    for name in ("LICENSE", "requirements.lock", "constraints.txt"):
        kept = (copy / name).read_bytes()
        (copy / name).unlink()
        with pytest.raises(ConfigError, match="whole copy of the repository") as caught:
            space.content(wanted, copy)
        assert_is_for_people(caught.value)
        (copy / name).write_bytes(kept)
