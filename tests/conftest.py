"""What the tests share: the demo adapter opened once, real tokenizers where they are, and no way to the network."""

import gc
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

# Before anything imports the Hub's client: its address is a closed port of this machine, so that no test depends on a network.
os.environ["HF_ENDPOINT"] = "http://127.0.0.1:9"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["HF_HUB_DISABLE_XET"] = "1"  # our small Hub speaks the older protocol
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import pytest
import torch
from huggingface_hub import constants
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from app.engine.generation import LocalGenerator
from app.engine.model import LoadedModel, load
from app.settings import DEMO_ADAPTER, ROOT
from tests.answers import PATIENCE, Steer, hooked_decoder
from tests.hub_server import HubServer, Repo

LONGEST = (
    "tests/training/test_train.py",
    "tests/browser/test_page.py",
    "tests/space/test_deploy.py",
    "tests/web/test_processes.py",
    "tests/engine/test_generation.py",
    "tests/adapter/test_hub.py",
    "tests/browser/test_tools.py",
)
TEMPLATES = ROOT / "finetune" / "templates"
FLASHCARDS = ROOT / "assets" / "flashcards.jsonl"
# A parameter of tests that repeat something: quick in the default run, long under the mark `slow`.
QUICK_AND_LONG = [pytest.param(False, id="quick"), pytest.param(True, id="long", marks=[pytest.mark.slow, pytest.mark.timeout(1800)])]


def pytest_configure(config: pytest.Config) -> None:
    """One thread is fastest for the demo model and leaves the other core to servers and browsers."""
    torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that take longest come first, so that neither of two processes ends long before the other."""
    items.sort(key=lambda item: next((place for place, name in enumerate(LONGEST) if item.nodeid.startswith(name)), len(LONGEST)))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Under CI a test that skips for want of a browser, of nginx or of the package index has failed: nobody would notice otherwise."""
    report = yield
    wants = any(item.get_closest_marker(name) for name in ("browser", "nginx", "index"))
    if report.skipped and not hasattr(report, "wasxfail") and wants and os.environ.get("CI") == "true":
        report.outcome = "failed"
        report.longrepr = f"skipped under CI: {report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr}"
    return report


@pytest.fixture(scope="session")
def adapter() -> str:
    """The adapter that the tests talk to; TEST_ADAPTER names another one than the demo."""
    return os.environ.get("TEST_ADAPTER", DEMO_ADAPTER)


@pytest.fixture(scope="session")
def loaded(adapter: str) -> LoadedModel:
    """The adapter on its base, opened once for all tests; do not change it."""
    return opened(adapter)


@cache
def opened(adapter: str) -> LoadedModel:
    """Opens an adapter once in a process and those that are forked from it, as `make mutants` does for each change."""
    model = load(adapter, "cpu")
    model.warm_up()  # before any test puts a hook on it
    gc.freeze()  # a generator that closes looks through all objects for what nobody needs: not again through those that stay
    return model


@pytest.fixture
def endless(loaded: LoadedModel) -> LoadedModel:
    """The same model, but no token ends its answers, so that only what a test does can end them."""
    never = loaded.tokenizer.convert_tokens_to_ids("<|start_header_id|>")
    return replace(loaded, contract=loaded.contract.model_copy(update={"eos_token_ids": [never]}))


@pytest.fixture(scope="module")
def hooked(loaded: LoadedModel) -> Iterator[Steer]:
    """The course of every answer of the shared model, while a module's tests run."""
    steer = Steer(loaded)
    with hooked_decoder(loaded, steer):
        yield steer
        steer.reset()


@pytest.fixture
def make_generator(loaded: LoadedModel) -> Iterator[Callable[..., LocalGenerator]]:
    """Makes ready generators, by default over the shared model, and closes them at the end."""
    made: list[LocalGenerator] = []

    def make(model: LoadedModel = loaded, **options: object) -> LocalGenerator:
        generator = LocalGenerator(lambda name: model, model.name, **options)
        made.append(generator)
        generator.wait_until_ready(PATIENCE)
        return generator

    yield make
    for generator in made:
        generator.close()


@pytest.fixture
def generator(make_generator: Callable[..., LocalGenerator]) -> LocalGenerator:
    """A generator of this test's own over the shared model."""
    return make_generator()


@pytest.fixture
def adapter_copy(adapter: str, tmp_path: Path) -> Path:
    """A copy of the adapter that a test may damage."""
    source = Path(adapter) if Path(adapter).is_absolute() else ROOT / adapter
    return Path(shutil.copytree(source, tmp_path / "adapter", ignore=shutil.ignore_patterns("checkpoints")))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A Hub of this test's own, with the demo base published on it, a logged-in owner and an empty cache."""
    with HubServer() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}")
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("HF_TOKEN", "hf_owner")
        publish_demo_base(server)
        yield server


def publish_demo_base(server: HubServer, name: str = "somebody/demo-base", card: str = "---\nlicense: apache-2.0\n---\n") -> None:
    """Puts the demo base on a test Hub, as its owner would."""
    folder = ROOT / "assets" / "demo" / "base"
    server.repos[name] = Repo("somebody")
    server.repos[name].commit({path.name: path.read_bytes() for path in folder.iterdir()} | {"README.md": card.encode()}, "Base")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data that REAL_DATA_DIR names; it is no part of the repository."""
    folder = os.environ.get("REAL_DATA_DIR")
    if not folder or not Path(folder).is_dir():
        pytest.skip("REAL_DATA_DIR names no folder with real data")
    return Path(folder)


@pytest.fixture(scope="session")
def demo_tokenizer() -> PreTrainedTokenizerBase:
    """The demo base's tokenizer, without a chat template."""
    return AutoTokenizer.from_pretrained(ROOT / "assets" / "demo" / "base")


@pytest.fixture(scope="session")
def llama3_tokenizer(real_data: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of Llama-3.2-3B-Instruct."""
    return AutoTokenizer.from_pretrained(real_data / "llama3-tokenizer")


def assert_is_for_people(error: BaseException | str) -> None:
    """A message that may be shown: one or two sentences on one line, without anything of the machinery."""
    text = str(error)
    assert text and "\n" not in text and len(text) < 500, text
    assert text.endswith("."), text
    assert "Traceback" not in text and "<class" not in text and "0x" not in text, text
