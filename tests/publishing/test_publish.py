"""Publishing an adapter over HTTP, with the real client: one commit, nothing that may not go, channels, and what breaks on the way."""

import json
import logging
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard, constants

from app.adapter.contract import sha256
from app.engine.model import LoadedModel, load
from app.errors import AdapterError, AdapterNotFound, ConfigError, ContractViolation, DataError, HubUnavailable, UserError
from finetune.publishing import channels, publish
from finetune.publishing.card import compare
from finetune.publishing.publish import Options, Published, push
from tests.conftest import assert_is_for_people, publish_demo_base
from tests.engine.test_model import edit_json
from tests.hub_server import HubServer, Repo

REPO = "somebody/medical"
OPTIONS = Options(REPO, base_id="somebody/demo-base")
LICENCE = (
    "An example of a licence.\nRetain this: “Llama 9 is licensed under the Llama 9 Community License, "
    "Copyright © Somebody. All Rights Reserved.”\n"
)


def interval(value: float) -> dict[str, float]:
    return {"value": value, "low": value - 0.05, "high": value + 0.05}


def measure(name: str, base: float, tuned: float, better: bool = True) -> dict[str, Any]:
    difference = {"value": tuned - base, "low": tuned - base - 0.04, "high": tuned - base + 0.04}
    return {
        "name": name,
        "n": 120,
        "base": interval(base),
        "tuned": interval(tuned),
        "difference": difference,
        "higher_is_better": better,
    }


def evaluation(folder: Path, tuned: float = 0.68) -> dict[str, Any]:
    """An evaluation of the weights in a folder, in the form that `evaluate` writes."""
    measures = {
        "answers:trained/rouge_l": measure("ROUGE-L", 0.09, 0.7),
        "answers:held_out/rouge_l": measure("ROUGE-L", 0.09, tuned),
        "answers:held_out/reference_nll": measure("NLL of the reference", 4.2, 1.1, better=False),
        "answers:held_out/bert_score": {"name": "BERTScore", "n": 0, "not_measured": "no model"},
    }
    revision = "sha256:" + sha256(folder / "adapter_model.safetensors")[:16]
    sets: list[dict[str, Any]] = [{"key": "trained", "title": "trained wording", "control": True}]
    sets += [{"key": "held_out", "title": "held-out wording", "best": [{"question": "What is a planted question?"}], "worst": []}]
    return {"adapter_revision": revision, "data": ["assets/flashcards.jsonl"], "sets": sets, "measures": measures}


def evaluate(folder: Path, tuned: float = 0.68) -> None:
    (folder / "evaluation.json").write_text(json.dumps(evaluation(folder, tuned)))
    (folder / "evaluation.html").write_text("<p>A report</p>")


@pytest.fixture
def evaluated(adapter_copy: Path, loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the demo adapter with an evaluation beside it; it was opened before, which spares opening it for each test."""
    monkeypatch.setattr(publish, "load", lambda name, **_: replace(loaded, name=name))
    evaluate(adapter_copy)
    return adapter_copy


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No waiting between attempts."""
    monkeypatch.setattr(publish, "WAIT_SECONDS", 0.0)
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)


def published(hub: HubServer, folder: Path, options: Options = OPTIONS) -> tuple[Published, dict[str, bytes]]:
    result = push(str(folder), options)
    return result, hub.repos[options.repo].commits[result.commit]


def test_everything_goes_in_one_commit_and_the_channel_points_to_it(hub: HubServer, evaluated: Path) -> None:
    (evaluated / "notes.txt").write_text("not for others")
    (evaluated / "checkpoints").mkdir()
    result, files = published(hub, evaluated)
    repo = hub.repos[REPO]
    assert repo.log == ["initial commit", "Publish adapter"] and repo.tags == {"candidate": result.commit}
    assert result.url == f"{hub.url}/{REPO}/tree/{result.commit}"
    assert set(files) == {
        ".gitattributes",
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "chat_template.jinja",
        "evaluation.html",
        "evaluation.json",
        "prompt_contract.json",
        "run.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "training_cards.jsonl.gz",
    }
    assert files["adapter_model.safetensors"] == (evaluated / "adapter_model.safetensors").read_bytes()
    base = hub.repos["somebody/demo-base"].main
    for name, path in {"adapter_config.json": "revision", "prompt_contract.json": "base", "run.json": "base"}.items():
        values = json.loads(files[name])
        assert (values if path == "revision" else values["base"])["revision"] == base
    assert json.loads(files["adapter_config.json"])["base_model_name_or_path"] == "somebody/demo-base"


def test_the_card_is_valid_and_says_what_it_must(hub: HubServer, evaluated: Path) -> None:
    text = published(hub, evaluated)[1]["README.md"].decode()
    data = ModelCard(text).data
    assert (data.library_name, data.base_model, data.license) == ("peft", "somebody/demo-base", "apache-2.0")
    assert data.model_name == "medical"
    assert [(result.metric_type, result.metric_value) for result in data.eval_results] == [("rouge_l", 0.68), ("reference_nll", 1.1)]
    assert "| held-out wording | ROUGE-L | 120 | 0.090 [0.040, 0.140] | 0.680 [0.630, 0.730] | +0.590 [+0.550, +0.630] |" in text
    assert "(lower is better)" in text and "BERTScore" not in text
    for heading in ("Intended use and limits", "Base and licence", "Data", "Training", "Evaluation", "Prompt format", "Use", "Environment"):
        assert f"\n## {heading}\n" in text
    assert f"python -m app --adapter {REPO}" in text and "### Medical Answer:" in text and "CC0-1.0" in text
    assert str(Path.home()) not in text and str(evaluated.parent) not in text


@pytest.mark.slow
def test_the_cards_peft_example_runs_as_it_stands(hub: HubServer, evaluated: Path, tmp_path: Path) -> None:
    text = published(hub, evaluated)[1]["README.md"].decode()
    program = text.split("```python\n")[1].split("```")[0]
    environment = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_TOKEN": "hf_owner", "PATH": "/usr/bin:/bin"}
    result = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert result.returncode == 0 and "thirst" in result.stdout.lower(), result.stderr


def test_the_same_again_makes_no_second_commit_and_other_weights_do(hub: HubServer, evaluated: Path) -> None:
    first, _ = published(hub, evaluated)
    assert published(hub, evaluated)[0] == first and len(hub.repos[REPO].log) == 2
    (evaluated / "evaluation.html").unlink()
    second, files = published(hub, evaluated)
    assert second.commit != first.commit and "evaluation.html" not in files, "what is gone here goes there"
    assert hub.repos[REPO].tags == {"candidate": second.commit}
    assert "evaluation.html" in hub.repos[REPO].commits[first.commit]


def test_what_does_not_open_is_not_published(hub: HubServer, evaluated: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publish, "load", load)
    edit_json("prompt_contract.json", golden_nll=1.0)(evaluated)
    with pytest.raises(ContractViolation, match="does not behave as in training"):
        push(str(evaluated), OPTIONS)
    assert REPO not in hub.repos


def without_evaluation(folder: Path) -> None:
    (folder / "evaluation.json").unlink()


def of_other_weights(folder: Path) -> None:
    edit_json("evaluation.json", adapter_revision="sha256:0000000000000000")(folder)


def got_worse(folder: Path) -> None:
    evaluate(folder, tuned=0.02)


def damaged_evaluation(folder: Path) -> None:
    (folder / "evaluation.json").write_text("{")


REFUSED: dict[str, tuple[Callable[[Path], object], Options, type[UserError], str]] = {
    "not evaluated": (without_evaluation, OPTIONS, ConfigError, "has no evaluation.json.*finetune evaluate"),
    "evaluated with other weights": (of_other_weights, OPTIONS, ConfigError, "belongs to other weights"),
    "worse than its base": (got_worse, OPTIONS, ConfigError, "got worse.*--allow-regression"),
    "a damaged evaluation": (damaged_evaluation, OPTIONS, DataError, "is damaged"),
    "a base that is a folder": (lambda folder: None, Options(REPO), ConfigError, "is a folder.*--base-id"),
    "a base that is not there": (
        lambda folder: None,
        replace(OPTIONS, base_id="somebody/nothing"),
        AdapterNotFound,
        "has no somebody/nothing",
    ),
    "another base": (lambda folder: None, replace(OPTIONS, base_id="somebody/other-base"), ConfigError, "does not hold the weights"),
    "a base without a licence": (lambda folder: None, replace(OPTIONS, base_id="somebody/bare-base"), ConfigError, "--licence"),
    "somebody else's name": (lambda folder: None, replace(OPTIONS, repo="another/medical"), ConfigError, "--repo somebody/medical"),
    "a name in use": (lambda folder: None, replace(OPTIONS, repo="somebody/demo-base"), ConfigError, "is taken"),
    "no name": (lambda folder: None, replace(OPTIONS, repo="medical"), ConfigError, "OWNER/NAME"),
    "a public repository asked to be private": (
        lambda folder: None,
        replace(OPTIONS, repo="somebody/public", private=True),
        ConfigError,
        "public",
    ),
    "the approved channel": (lambda folder: None, replace(OPTIONS, channel="approved"), ConfigError, "cannot be moved"),
    "a counted channel": (lambda folder: None, replace(OPTIONS, channel="approved-3"), ConfigError, "cannot be moved"),
    "a Llama without its name": (
        lambda folder: None,
        replace(OPTIONS, base_id="somebody/Llama-base"),
        ConfigError,
        "must begin with Llama",
    ),
    "a Llama without its licence": (
        lambda folder: None,
        replace(OPTIONS, repo="somebody/Llama-medical", base_id="somebody/Llama-base"),
        ConfigError,
        "copy of the base's Llama licence",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_may_not_be_published_is_refused_with_the_cure(hub: HubServer, evaluated: Path, case: str) -> None:
    spoil, options, kind, text = REFUSED[case]
    publish_demo_base(hub, "somebody/other-base")
    hub.repos["somebody/other-base"].change(lambda files: files.update({"model.safetensors": b"other"}))
    publish_demo_base(hub, "somebody/bare-base", card="No metadata.\n")
    publish_demo_base(hub, "somebody/Llama-base", card="---\nlicense: llama3.2\n---\n")
    hub.repos["somebody/public"] = Repo("somebody")
    hub.repos["somebody/public"].commit({}, "initial commit")
    spoil(evaluated)
    before = {name: len(repo.commits) for name, repo in hub.repos.items()}
    with pytest.raises(kind, match=text) as caught:
        push(str(evaluated), options)
    assert_is_for_people(caught.value)
    assert {name: len(repo.commits) for name, repo in hub.repos.items() if name in before} == before
    assert not [name for name, repo in hub.repos.items() if repo.tags]


def test_a_regression_is_published_only_with_its_reason_in_the_card(hub: HubServer, evaluated: Path) -> None:
    got_worse(evaluated)
    text = published(hub, evaluated, replace(OPTIONS, allow_regression="Shorter answers are wanted"))[1]["README.md"].decode()
    assert "in spite of a regression" in text and "Shorter answers are wanted" in text and "got worse" in text


def test_data_whose_licence_forbids_it_stays_at_home(hub: HubServer, evaluated: Path) -> None:
    edit_json("run.json", data__licence=None)(evaluated)
    files = published(hub, evaluated)[1]
    assert not {"training_cards.jsonl.gz", "evaluation.html"} & set(files)
    assert not [name for name, data in files.items() if b"planted question" in data]
    assert "answers:held_out/rouge_l" in json.loads(files["evaluation.json"])["measures"]
    assert "cards in this repository | no" in files["README.md"].decode()


def test_questions_of_other_data_stay_at_home_too(hub: HubServer, evaluated: Path) -> None:
    edit_json("evaluation.json", data=["assets/flashcards.jsonl", "somebody/exam-questions"])(evaluated)
    files = published(hub, evaluated)[1]
    assert "training_cards.jsonl.gz" in files and not [name for name, data in files.items() if b"planted question" in data]


def test_a_llama_goes_with_its_licence_its_notice_and_its_words(hub: HubServer, evaluated: Path) -> None:
    publish_demo_base(hub, "somebody/Llama-base", card="---\nlicense: llama3.2\n---\n")
    hub.repos["somebody/Llama-base"].change(lambda files: files.update({"LICENSE.txt": LICENCE.encode(), "USE_POLICY.md": b"Be good."}))
    files = published(hub, evaluated, replace(OPTIONS, repo="somebody/Llama-medical", base_id="somebody/Llama-base"))[1]
    assert files["LICENSE.txt"].decode() == LICENCE and "USE_POLICY.md" in files
    assert (
        files["NOTICE"].decode() == "Llama 9 is licensed under the Llama 9 Community License, Copyright © Somebody. All Rights Reserved.\n"
    )
    text = files["README.md"].decode()
    assert "**Built with Llama.**" in text and ModelCard(text).data.license == "llama3.2" and "use policy" in text


def test_the_notice_is_found_in_the_real_licence(real_data: Path) -> None:
    from finetune.data.licences import notice

    licence = real_data / "llama3-tokenizer" / "LLAMA_3_2_LICENSE.txt"
    assert notice([licence]).startswith("Llama 3.2 is licensed under the Llama 3.2 Community License, Copyright ©")


def test_a_cut_connection_is_tried_again_and_leaves_one_whole_commit(hub: HubServer, evaluated: Path, quick: None) -> None:
    hub.faults.cut_uploads = 2
    _, files = published(hub, evaluated)
    assert len(hub.repos[REPO].log) == 2 and len(files) == 12


def test_an_answer_that_was_lost_leads_to_no_second_commit(hub: HubServer, evaluated: Path, quick: None) -> None:
    hub.faults.lose_commits = 1
    result, _ = published(hub, evaluated)
    assert len(hub.repos[REPO].log) == 2 and hub.repos[REPO].main == result.commit


def test_a_hub_that_stays_broken_gets_no_half_of_a_revision(hub: HubServer, evaluated: Path, quick: None) -> None:
    hub.faults.cut_uploads = 1000
    with pytest.raises(HubUnavailable, match="run the same command again") as caught:
        push(str(evaluated), OPTIONS)
    assert_is_for_people(caught.value)
    assert hub.repos[REPO].log == ["initial commit"] and not hub.repos[REPO].tags
    hub.faults.cut_uploads = 0
    assert len(published(hub, evaluated)[1]) == 12


def test_no_space_on_the_hub_is_told(hub: HubServer, evaluated: Path, quick: None) -> None:
    hub.faults.full = True
    with pytest.raises(AdapterError, match="no space left") as caught:
        push(str(evaluated), OPTIONS)
    assert_is_for_people(caught.value)


@pytest.mark.parametrize(
    ("token", "text"), [("hf_wrong_secret", "does not know this token"), (None, "no token"), ("hf_reader", "only read")]
)
def test_a_token_that_will_not_do_is_told_and_never_shown(
    hub: HubServer, evaluated: Path, token: str | None, text: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    hub.readers.add("hf_reader")
    hub.tokens["hf_reader"] = "somebody"
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", "/nowhere/token")
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    else:
        monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(ConfigError, match=text) as caught:
        push(str(evaluated), OPTIONS)
    assert_is_for_people(caught.value)
    assert "hf_" not in caplog.text.replace("HF_TOKEN", "") and "secret" not in str(caught.value)
    assert REPO not in hub.repos


def test_the_token_is_in_no_file_and_no_log(hub: HubServer, evaluated: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    files = published(hub, evaluated)[1]
    assert "hf_owner" not in caplog.text
    assert not [name for name, data in files.items() if b"hf_owner" in data]
    assert not [path for path in evaluated.rglob("*") if path.is_file() and b"hf_owner" in path.read_bytes()]


@pytest.fixture
def history(hub: HubServer) -> Iterator[tuple[Repo, list[str]]]:
    """A repository with four evaluated commits."""
    hub.repos[REPO] = repo = Repo("somebody")
    yield repo, [repo.commit({"evaluation.json": b"{}", "n": str(i).encode()}, f"{i}") for i in range(4)]


def test_approvals_count_up_and_a_roll_back_returns_to_the_one_before(history: tuple[Repo, list[str]]) -> None:
    repo, (one, two, three, _) = history
    repo.tags["candidate"] = one
    assert channels.approve(REPO, "candidate") == (1, one)
    assert channels.approve(REPO, two) == (2, two)
    assert channels.rollback(REPO) == (1, 2, one)
    assert repo.tags["approved"] == one
    assert channels.approve(REPO, three) == (3, three)
    assert channels.rollback(REPO) == (1, 3, one), "what was rolled back once does not come back by a roll-back"
    assert channels.approve(REPO, two) == (4, two), "but can be approved again"
    assert {name: commit for name, commit in repo.tags.items() if name.startswith("approved-")} == {
        "approved-1": one,
        "approved-2": two,
        "approved-3": three,
        "approved-4": two,
    }
    assert repo.log == ["0", "1", "2", "3"], "history is never rewritten"


def test_there_must_be_something_to_roll_back_to(history: tuple[Repo, list[str]]) -> None:
    for expected in ("nothing to roll back", "is the only approval"):
        with pytest.raises(ConfigError, match=expected) as caught:
            channels.rollback(REPO)
        assert_is_for_people(caught.value)
        if expected == "nothing to roll back":
            channels.approve(REPO, history[1][0])
    with pytest.raises(ConfigError, match="is what is approved now") as caught:
        channels.approve(REPO, history[1][0])
    assert_is_for_people(caught.value)


@pytest.mark.parametrize("method", ["POST", "DELETE"])
@pytest.mark.parametrize("action", ["approve", "rollback"])
def test_a_change_that_was_cut_off_is_finished_by_running_it_again(
    hub: HubServer, history: tuple[Repo, list[str]], action: str, method: str
) -> None:
    repo, (one, two, *_) = history
    channels.approve(REPO, one)
    if action == "rollback":
        channels.approve(REPO, two)

    def run() -> object:
        return channels.approve(REPO, two) if action == "approve" else channels.rollback(REPO)

    # Each first call of that method fails: making the counted tag, or deleting the moving one.
    hub.faults.refuse = (method, 1)
    with pytest.raises(HubUnavailable) as caught:
        run()
    assert_is_for_people(caught.value)
    run()
    assert repo.tags["approved"] == (two if action == "approve" else one)
    assert len([name for name in repo.tags if name.startswith("approved-")]) == 2
    assert len([name for name in repo.tags if name.startswith("withdrawn-")]) == (action == "rollback")


def test_what_was_never_evaluated_cannot_be_approved(history: tuple[Repo, list[str]]) -> None:
    repo, _ = history
    bare = repo.commit({"a": b"b"}, "bare")
    with pytest.raises(ConfigError, match="has no evaluation.json"):
        channels.approve(REPO, bare)
    with pytest.raises(AdapterNotFound, match="no such revision"):
        channels.approve(REPO, "nowhere")


def test_the_comparison_shows_what_would_change(evaluated: Path) -> None:
    text = compare(evaluation(evaluated, 0.5), evaluation(evaluated, 0.68))
    assert [line.split() for line in text.splitlines()][2] == ["answers:held_out/rouge_l", "120", "0.500", "0.680", "+0.180"]
    assert compare(None, evaluation(evaluated)).endswith("Nothing is approved yet.")


def test_an_evaluation_of_another_form_is_refused() -> None:
    with pytest.raises(DataError, match="evaluate` again"):
        compare({"measures": {"x": {"difference": 1}}}, {"measures": {}})


def test_the_folder_is_left_as_it_was(hub: HubServer, evaluated: Path) -> None:
    before = {path.name: path.read_bytes() for path in evaluated.iterdir()}
    published(hub, evaluated)
    assert {path.name: path.read_bytes() for path in evaluated.iterdir()} == before
    shutil.rmtree(evaluated)
