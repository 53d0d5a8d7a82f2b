"""The app and the Hub, over HTTP with the real client: which commit is opened, what is refused, and what happens without a network."""

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, save

from app.adapter import hub
from app.adapter.cards import training_cards
from app.adapter.directory import public_name
from app.engine import offer
from app.engine.answer import GenerationRequest
from app.engine.generation import LocalGenerator
from app.engine.model import LoadedModel
from app.engine.model import load as open_adapter
from app.engine.renewal import REST_SECONDS, Renewal
from app.errors import AdapterError, AdapterNotFound, Busy, ContractViolation, HubUnavailable, UnsafeAdapter, UserError
from app.page import fragments
from app.settings import Settings, load_settings
from app.web.server import readiness
from finetune.publishing import channels, publish
from finetune.publishing.publish import Options
from tests.answers import PATIENCE, wait_until
from tests.conftest import assert_is_for_people
from tests.hub_server import Files, HubServer, Repo
from tests.publishing.test_publish import evaluate

REPO = "somebody/medical"
QUESTION = [{"role": "user", "content": "What are the common symptoms of diabetes?"}]
content: Files = {}


@pytest.fixture
def repo(hub: HubServer, adapter_copy: Path, loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> Repo:
    """The demo adapter as `push` publishes it; the push itself is done once for all tests."""
    if not content:
        monkeypatch.setattr(publish, "load", lambda name, **_: replace(loaded, name=name))
        evaluate(adapter_copy)
        commit = publish.push(str(adapter_copy), Options(REPO, base_id="somebody/demo-base")).commit
        content.update(hub.repos.pop(REPO).commits[commit])
    hub.repos[REPO] = made = Repo("somebody")
    made.tags["candidate"] = made.commit(dict(content), "Publish adapter")
    return made


def weights(change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Files], None]:
    """Changes one matrix in every layer, as another training would."""

    def edit(files: Files) -> None:
        tensors = load(files["adapter_model.safetensors"])
        files["adapter_model.safetensors"] = save(
            {name: change(tensor) if "lora_B" in name else tensor for name, tensor in tensors.items()}, metadata={"format": "pt"}
        )

    return edit


def edit_json(name: str, **changes: Any) -> Callable[[Files], None]:
    def edit(files: Files) -> None:
        values = json.loads(files[name])
        for key, value in changes.items():
            *parents, last = key.split("__")
            target = values
            for parent in parents:
                target = target[parent]
            target[last] = value
        files[name] = json.dumps(values).encode()

    return edit


def name_base(identifier: str) -> Callable[[Files], None]:
    def edit(files: Files) -> None:
        edit_json("adapter_config.json", base_model_name_or_path=identifier)(files)
        edit_json("prompt_contract.json", base__id=identifier)(files)

    return edit


def add(name: str, data: bytes) -> Callable[[Files], None]:
    return lambda files: files.update({name: data})


slightly = weights(lambda tensor: tensor * 1.002)  # a commit of its own that still keeps the contract


def test_without_an_approval_main_is_opened_and_called_not_approved(hub: HubServer, repo: Repo) -> None:
    opened = open_adapter(REPO, "cpu")
    assert (opened.adapter_revision, opened.base) == (repo.main, "somebody/demo-base")
    assert opened.base_revision == hub.repos["somebody/demo-base"].main
    assert opened.pin and not opened.pin.approved
    line = fragments.model_line(opened)
    assert "Not approved" in line and repo.main[:12] in line and REPO in line


def test_the_approved_commit_is_the_default_and_names_lead_to_their_own(hub: HubServer, repo: Repo) -> None:
    first = repo.main
    channels.approve(REPO, first)
    second = repo.change(slightly, tag="candidate")
    opened = open_adapter(REPO, "cpu")
    assert opened.adapter_revision == first and opened.pin and opened.pin.approved
    assert "Not approved" not in fragments.model_line(opened)
    for name, commit, approved in (
        ("candidate", second, False),
        ("main", second, False),
        ("approved-1", first, True),
        (second, second, False),
    ):
        _, pin = publish_resolve(f"{REPO}@{name}")
        assert (pin.commit, pin.approved) == (commit, approved)


def publish_resolve(adapter: str) -> tuple[Path, hub.Pin]:
    reference = hub.parse(adapter)
    assert reference
    return hub.resolve(*reference)


@pytest.mark.parametrize(
    ("name", "token", "text"),
    [
        (f"{REPO}@nowhere", "hf_owner", "no such revision"),
        ("somebody/nothing", "hf_owner", "has no somebody/nothing"),
        ("somebody/secret", "hf_other", "may not see it"),
        ("somebody/secret", None, "may not see it"),
        (REPO, "hf_wrong", "refuses this account"),
    ],
)
def test_what_cannot_be_had_is_told(
    hub: HubServer, repo: Repo, name: str, token: str | None, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.repos["somebody/secret"] = Repo("somebody", private=True)
    hub.repos["somebody/secret"].commit(dict(content), "x")
    monkeypatch.setenv("HF_TOKEN", token or "")
    with pytest.raises(AdapterNotFound, match=text) as caught:
        open_adapter(name, "cpu")
    assert_is_for_people(caught.value)


def test_its_owner_opens_a_private_repository(hub: HubServer, repo: Repo) -> None:
    repo.private = True
    assert publish_resolve(REPO)[1].commit == repo.main


TAMPERED: dict[str, tuple[Callable[[Files], object], type[UserError], str]] = {
    "weights": (weights(lambda tensor: -tensor), ContractViolation, "does not behave as in training"),
    "weights emptied": (weights(torch.zeros_like), ContractViolation, "does not change the model"),
    "template": (add("chat_template.jinja", b"{{ messages }}"), ContractViolation, "chat_template.jinja differs"),
    "tokenizer": (edit_json("tokenizer.json", added_tokens=[]), UserError, "tokenizer"),
    "base in one file": (edit_json("adapter_config.json", base_model_name_or_path="somebody/other"), ContractViolation, "names the base"),
    "base on this machine": (name_base("assets/demo/base"), ContractViolation, "--base-id"),
    "base outside the cache": (name_base("../../secrets"), ContractViolation, "is not there"),
    "base at another place": (name_base("/etc"), ContractViolation, "is not there"),
    "base that is not there": (name_base("somebody/gone"), AdapterNotFound, "has no somebody/gone"),
    "architecture in the contract": (
        edit_json("prompt_contract.json", base__architecture__num_hidden_layers=9),
        ContractViolation,
        "instead",
    ),
    "contract": (edit_json("prompt_contract.json", golden_nll=9.0), ContractViolation, "does not behave as in training"),
    "contract removed": (lambda files: files.pop("prompt_contract.json"), ContractViolation, "has no prompt_contract.json"),
    "a pickle": (add("adapter_model.bin", b"\x80\x04."), UnsafeAdapter, "adapter_model.bin"),
    "a pickle in a folder": (add("more/optimizer.PT", b"\x80\x04."), UnsafeAdapter, "more/optimizer.PT"),
    "a path that leads out": (add("../../evil.json", b"{}"), UnsafeAdapter, "lead out of its folder"),
    "no adapter": (lambda files: files.pop("adapter_config.json"), AdapterError, "is no adapter"),
}


@pytest.mark.parametrize("case", TAMPERED)
def test_a_tampered_repository_is_refused(hub: HubServer, repo: Repo, case: str, tmp_path: Path) -> None:
    edit, kind, text = TAMPERED[case]
    repo.change(edit)
    with pytest.raises(kind, match=text) as caught:
        open_adapter(REPO, "cpu")
    assert_is_for_people(caught.value)
    cache = tmp_path / "cache"
    assert not [path for path in tmp_path.rglob("*") if path.name in ("evil.json", "adapter_model.bin", "optimizer.PT")]
    assert all(path.resolve().is_relative_to(cache) for path in cache.rglob("*"))


def test_a_changed_base_does_not_move_underneath(hub: HubServer, repo: Repo) -> None:
    trained_on = hub.repos["somebody/demo-base"].main
    hub.repos["somebody/demo-base"].change(lambda files: files.update({"model.safetensors": b"other"}))
    assert open_adapter(REPO, "cpu").base_revision == trained_on


def offline(server: HubServer, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    if how == "silent":
        monkeypatch.setattr(hub, "SECONDS", 0.3)
        server.faults.silent.set()
    elif how == "broken":
        server.faults.refuse = ("GET", 10**6)
    else:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")


@pytest.mark.parametrize("how", ["silent", "broken", "gone"])
def test_what_was_opened_once_opens_again_without_a_hub(hub: HubServer, repo: Repo, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    channels.approve(REPO, repo.main)
    before = open_adapter(REPO, "cpu")
    repo.change(slightly)
    offline(hub, monkeypatch, how)
    asked = len(hub.requests)
    again = open_adapter(REPO, "cpu")
    assert (again.adapter_revision, again.base_revision) == (before.adapter_revision, before.base_revision)
    assert again.pin and again.pin.approved
    assert len(hub.requests) - asked <= 3, "a Hub that is down is not asked again and again"
    with pytest.raises(HubUnavailable, match="did not answer") as caught:
        open_adapter("somebody/never-seen", "cpu")
    assert_is_for_people(caught.value)


def test_a_newer_commit_that_was_refused_does_not_take_the_place_of_the_good_one(
    hub: HubServer, repo: Repo, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = open_adapter(REPO, "cpu").adapter_revision
    repo.change(edit_json("prompt_contract.json", golden_nll=9.0))
    with pytest.raises(ContractViolation):
        open_adapter(REPO, "cpu")
    offline(hub, monkeypatch, "gone")
    assert open_adapter(REPO, "cpu").adapter_revision == good


def test_between_delete_and_make_of_a_moving_tag_nobody_gets_main(hub: HubServer, repo: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    channels.approve(REPO, repo.main)
    approved = repo.main
    repo.change(weights(lambda tensor: -tensor))
    del repo.tags["approved"]
    monkeypatch.setattr("app.adapter.hub.MOVING_SECONDS", 0.01)
    with pytest.raises(AdapterNotFound, match="a change was cut off") as caught:
        publish_resolve(REPO)
    assert_is_for_people(caught.value)
    monkeypatch.setattr("app.adapter.hub.time.sleep", lambda seconds: repo.tags.update(approved=approved))
    assert publish_resolve(REPO)[1].commit == approved


@pytest.fixture
def running(hub: HubServer, repo: Repo) -> Iterator[tuple[LocalGenerator, Settings]]:
    """A generator that serves the repository's adapter, which was approved."""
    channels.approve(REPO, repo.main)
    settings = load_settings(adapter=REPO)
    generator = LocalGenerator(lambda name: open_adapter(name, "cpu"), REPO)
    generator.wait_until_ready(PATIENCE)
    yield generator, settings
    generator.close()


def commit_of(generator: LocalGenerator) -> str | None:
    return generator.loaded.adapter_revision if generator.loaded else None


def test_a_newer_approval_replaces_the_running_adapter_and_a_roll_back_returns_it(
    running: tuple[LocalGenerator, Settings], repo: Repo
) -> None:
    generator, settings = running
    first = commit_of(generator)
    second = repo.change(slightly)
    assert "nothing newer" in Renewal(generator, settings).look(), "a push alone changes nothing"
    channels.approve(REPO, second)
    assert second[:12] in Renewal(generator, settings).look()
    assert commit_of(generator) == second
    facts = readiness(generator)[1]
    assert (facts["adapter"], facts["adapter_revision"], facts["approved"]) == (REPO, second, True)
    channels.rollback(REPO)
    assert str(first)[:12] in Renewal(generator, settings).look()
    assert commit_of(generator) == first
    assert public_name(generator.default_adapter) == REPO
    answer = generator.submit(GenerationRequest(messages=QUESTION, max_new_tokens=5))
    assert "".join(answer) and answer.loaded and answer.loaded.adapter_revision == first


@pytest.mark.parametrize("case", ["weights", "template", "a pickle", "base that is not there"])
def test_a_newer_commit_that_fails_its_checks_leaves_the_running_one(
    running: tuple[LocalGenerator, Settings], repo: Repo, case: str
) -> None:
    generator, settings = running
    first = commit_of(generator)
    bad = repo.change(TAMPERED[case][0])
    channels.approve(REPO, bad)
    with pytest.raises(TAMPERED[case][1], match=TAMPERED[case][2]) as caught:
        Renewal(generator, settings).look()
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")
    assert commit_of(generator) == first
    assert "".join(generator.submit(GenerationRequest(messages=QUESTION, max_new_tokens=5)))


def test_a_running_answer_ends_on_the_adapter_that_it_began_with(running: tuple[LocalGenerator, Settings], repo: Repo) -> None:
    generator, settings = running
    first = commit_of(generator)
    second = repo.change(slightly)
    channels.approve(REPO, second)
    reached, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        if threading.current_thread().name == "generation" and not reached.is_set():
            reached.set()
            go_on.wait()

    begun = generator.submit(GenerationRequest(messages=QUESTION, max_new_tokens=30))
    begun.listen(hold)
    assert reached.wait(PATIENCE)
    look = threading.Thread(target=Renewal(generator, settings).look)
    look.start()
    wait_until(lambda: generator.queue_length == 2)  # what opens the newer one waits behind the answer
    assert commit_of(generator) == first, "nothing is replaced in the middle of an answer"
    go_on.set()
    text = "".join(begun)
    look.join(PATIENCE)
    after = generator.submit(GenerationRequest(messages=QUESTION, max_new_tokens=30))
    list(after)
    assert text and begun.loaded and begun.loaded.adapter_revision == first
    assert after.loaded and after.loaded.adapter_revision == second
    assert len(generator._state.models) <= 2, "memory stays bounded"


def test_looking_is_rare_and_a_folder_has_nothing_newer(running: tuple[LocalGenerator, Settings], loaded: LoadedModel) -> None:
    generator, settings = running
    renewal = Renewal(generator, settings)
    renewal.look()
    with pytest.raises(Busy, match=f"{REST_SECONDS:.0f} seconds"):
        renewal.look()
    local = Renewal(generator, load_settings(adapter="assets/demo/adapter"))
    assert renewal.possible and not local.possible and "folder" in local.look()


def test_it_looks_by_itself_where_the_settings_say_so(running: tuple[LocalGenerator, Settings], repo: Repo) -> None:
    generator, _ = running
    second = repo.change(slightly)
    channels.approve(REPO, second)
    stop = threading.Event()
    renewal = Renewal(generator, load_settings(adapter=REPO, look_minutes=0.001))
    thread = threading.Thread(target=renewal.keep_looking, args=(stop,))
    thread.start()
    wait_until(lambda: commit_of(generator) == second)
    stop.set()
    thread.join(PATIENCE)
    assert commit_of(generator) == second and not thread.is_alive()


def test_several_adapters_are_offered_in_one_list_and_answer_by_name(
    running: tuple[LocalGenerator, Settings], hub: HubServer, repo: Repo
) -> None:
    generator, _ = running
    hub.repos["somebody/second"] = other = Repo("somebody")
    other.commit(dict(content), "x")
    other.change(slightly)
    settings = load_settings(adapter=REPO, more_adapters="somebody/second, assets/demo/adapter", adapters_folder=Path("nowhere"))
    assert list(offer.offered(settings)) == [REPO, "somebody/second", "assets/demo/adapter"]
    described = offer.describe("somebody/second", generator.loaded, settings)
    assert described and described.name == "somebody/second" and "trained on" in described.base, "asking the Hub waits for a question"
    for name in ("somebody/second", "assets/demo/adapter", REPO):
        answer = generator.submit(GenerationRequest(messages=QUESTION, adapter=offer.choose(name, settings), max_new_tokens=3))
        assert "".join(answer) and answer.loaded and public_name(answer.loaded.name) == name
        assert len(generator._state.models) <= 2
    assert commit_of(generator) == repo.main, "the default stays open"
    described = offer.describe("somebody/second", generator.loaded, settings)
    assert described and described.base == "somebody/demo-base"


def test_a_hub_that_hangs_does_not_keep_the_server_from_starting(hub: HubServer, repo: Repo) -> None:
    from fastapi.testclient import TestClient

    from app.web.server import create_app

    hub.faults.silent.set()
    with TestClient(create_app(load_settings(adapter=REPO))) as client:
        assert client.get("/healthz").status_code == 200
        assert client.get("/").status_code == 200
        assert client.get("/readyz").json()["status"] == "loading"
        hub.faults.silent.clear()


def test_a_name_of_a_folder_never_asks_the_hub(hub: HubServer, adapter: str) -> None:
    open_adapter(adapter, "cpu")
    assert not hub.requests


# Cards that may not travel are fetched from where they were published.


def test_cards_that_did_not_travel_are_fetched_by_commit_and_row_number(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"instruction": "", "input": f"What is {number}?", "output": f"It is {number}."} for number in range(5)]
    hub.repos["somebody/cards"] = published = Repo("somebody")
    commit = published.commit({"cards.json": json.dumps(rows).encode(), "README.md": b"cards"}, "Cards")
    run = {"data": {"id": "somebody/cards", "revision": commit, "rows": ["3", "1", "99"]}}
    found = training_cards(tmp_path, run)
    assert found == [{"id": str(n), "question": f"What is {n}?", "answer": f"It is {n}."} for n in (1, 3)]
    offline(hub, monkeypatch, "gone")
    assert training_cards(tmp_path, run) == found, "from the cache"


@pytest.mark.parametrize(
    "data", [{}, {"id": "cards.jsonl", "revision": None, "rows": ["1"]}, {"id": "a/b", "revision": "main", "rows": []}]
)
def test_cards_without_a_commit_are_not_looked_for(hub: HubServer, tmp_path: Path, data: dict[str, Any]) -> None:
    assert training_cards(tmp_path, {"data": data}) == []
    assert hub.requests == []


def test_a_hub_without_the_cards_keeps_nobody_from_chatting(hub: HubServer, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = {"data": {"id": "somebody/gone", "revision": "0" * 40, "rows": ["1"]}}
    with caplog.at_level("WARNING"):
        assert training_cards(tmp_path, run) == []
    assert "cannot be had" in caplog.text
