"""Training with the real Unsloth for a few steps, and everything that may go wrong in it.

Unsloth patches the libraries that it finds, so it runs in other processes; this one opens what they wrote, without Unsloth.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from app.engine.answer import GenerationRequest
from app.engine.generation import LocalGenerator
from app.engine.model import LoadedModel, load
from app.errors import UserError
from app.settings import ROOT
from finetune.__main__ import main
from finetune.config import TrainConfig
from finetune.data.sources import read_cards
from tests.conftest import FLASHCARDS, TEMPLATES, assert_is_for_people

pytestmark = pytest.mark.timeout(900)  # a test waits for the processes that it is the first to need

QUESTION = "What are the common symptoms of diabetes?"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    # One thread adds in one order, so that the same steps give the same weights.
    # However slow the machine is, work that is quick elsewhere gets no bar.
    one_thread = os.environ | {"OMP_NUM_THREADS": "1", "TQDM_DELAY": "1000"}
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, env=one_thread, capture_output=True, text=True, timeout=800, check=False)


@pytest.fixture(scope="session")
def scenarios(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What happened in tests/training/train_scenarios.py."""
    folder = tmp_path_factory.mktemp("scenarios")
    result = run("-m", "tests.training.train_scenarios", str(folder))
    assert result.returncode == 0, result.stderr[-3000:]
    return json.loads((folder / "report.json").read_text()) | {"folder": str(folder), "surviving": str(folder) + "-surviving"}


@pytest.fixture(scope="session")
def command(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """An adapter directory that the command line trained in three steps, and how the command ended."""
    folder = tmp_path_factory.mktemp("trained")
    output = folder / "adapter"
    base = shutil.copytree(ROOT / "assets" / "demo" / "base", folder / "base")
    values = ("train_size=12", "copies=1", "max_steps=3", "per_device_train_batch_size=4", "learning_rate=0.01")
    steps = [word for value in values for word in ("--set", value)]
    result = run("-m", "finetune", "train", "--config", "demo", "--base", str(base), "--output", str(output), *steps)
    assert result.returncode == 0, result.stderr[-3000:]
    return output, result


@pytest.fixture(scope="session")
def trained(command: tuple[Path, subprocess.CompletedProcess[str]]) -> tuple[Path, str]:
    """That adapter directory, and what the command printed."""
    return command[0], command[1].stdout + command[1].stderr


@pytest.fixture(scope="session")
def opened(trained: tuple[Path, str]) -> LoadedModel:
    """The trained adapter as the app opens it."""
    assert "unsloth" not in sys.modules
    return load(str(trained[0]), "cpu")


def files(scenario: dict[str, Any], folder: str) -> dict[str, str]:
    return {name: digest for name, digest in scenario["files"].items() if name.startswith(folder)}


def test_the_app_opens_and_streams_from_what_unsloth_trained(opened: LoadedModel) -> None:
    generator = LocalGenerator(lambda name: opened, "trained")
    try:
        generator.wait_until_ready(10)
        tuned, base = (
            generator.submit(GenerationRequest([{"role": "user", "content": QUESTION}], max_new_tokens=16, use_adapter=on))
            for on in (True, False)
        )
        pieces = list(tuned)
        assert len(pieces) > 1
        assert "".join(pieces) == tuned.text != "".join(base)
    finally:
        generator.close()


def test_three_steps_change_the_model_and_the_contract_holds(opened: LoadedModel) -> None:
    assert opened.probe.logit_change > 100 * opened.probe.threshold
    assert opened.probe.nll == pytest.approx(opened.probe.trained_nll, abs=0.05)  # trained in bf16, opened in fp32


def test_training_shows_progress_and_ends_with_the_originals_question(trained: tuple[Path, str]) -> None:
    output, printed = trained
    assert "lora_rank: 64" in printed, "the resolved configuration comes first"
    assert re.search(r"training: 100%.* 3/3 .*step", printed)
    assert QUESTION in printed
    answer = printed.split(QUESTION)[1]
    assert re.search(r"\w{3}", answer), "the tuned model answered"
    assert f"python -m app --adapter {output}" in answer


def test_training_says_what_a_person_wants_to_read_and_nothing_else(
    command: tuple[Path, subprocess.CompletedProcess[str]], opened: LoadedModel
) -> None:
    output, result = command
    keys = "|".join(TrainConfig.model_fields)
    ours = [
        rf"  ({keys}): .+",
        r"Training on .+\.",
        r"12 conversations, \d+ rows \(0 too long, 0 rows of the source unusable\), 0 for validation",
        r"training: +\d+%\|.+\| \d/3 \[.+\]",
        re.escape(f"The adapter is in {output}. It answers, opened without Unsloth:"),
        re.escape(f"  {QUESTION}"),
        rf"opened {re.escape(str(output))} on \.\./base \(cpu, float32\) in [\d.]+ s; logits change by [\d.]+",
        re.escape(f"Chat with it in a browser: python -m app --adapter {output}"),
    ]
    lines = [line for line in re.split(r"[\r\n]+", result.stderr) if line]
    assert [line for line in lines if not re.fullmatch("|".join(ours), line)] == []
    assert [words for words in ours if not any(re.fullmatch(words, line) for line in lines)] == []
    generator = LocalGenerator(lambda name: opened, "trained")
    try:
        generator.wait_until_ready()
        answer = generator.submit(GenerationRequest([{"role": "user", "content": QUESTION}], max_new_tokens=200))
        assert result.stdout == "".join(answer) + "\n", "the answer alone is printed"
    finally:
        generator.close()


def test_the_adapter_directory_is_complete_and_in_16_bits(trained: tuple[Path, str]) -> None:
    from safetensors.torch import load_file

    names = {path.name for path in trained[0].iterdir()}
    assert names == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "chat_template.jinja",
        "checkpoints",
        "prompt_contract.json",
        "run.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "training.svg",
        "training_cards.jsonl.gz",
    }
    assert {str(tensor.dtype) for tensor in load_file(trained[0] / "adapter_model.safetensors").values()} == {"torch.bfloat16"}
    assert (trained[0] / "chat_template.jinja").read_text().endswith((TEMPLATES / "medical.jinja").read_text())


def test_the_provenance_repeats_the_run(opened: LoadedModel) -> None:
    record = opened.run
    assert record["base"] == {"id": "../base", "revision": opened.base_revision}
    assert (record["data"]["id"], record["data"]["licence"], record["data"]["conversations"]) == ("flashcards.jsonl", "CC0-1.0", 12)
    assert (record["config"]["max_steps"], record["config"]["learning_rate"]) == (3, 0.01)
    assert {"torch", "transformers", "trl", "peft", "unsloth"} <= record["versions"].keys()
    assert re.fullmatch(r"[0-9a-f]{64}", record["data"]["training_rows_sha256"])
    assert record["seed"] == record["config"]["seed"]
    assert record["loss_history"] and record["tokens_seen"] > 0


def test_no_path_of_this_machine_is_written_into_an_adapter(trained: tuple[Path, str], scenarios: dict[str, Any]) -> None:
    folder = Path(scenarios["folder"])
    private = [str(ROOT), str(folder), str(trained[0].parent), str(Path.home()) + "/"]
    for adapter in (trained[0], folder / "mine"):
        for path in adapter.iterdir():
            if path.is_file():
                content = path.read_bytes()
                assert not [secret for secret in private if secret.encode() in content], path


def test_what_travels_with_an_adapter_are_the_trained_cards(opened: LoadedModel) -> None:
    held_out = {card.held_out for card in read_cards(FLASHCARDS)}
    assert opened.cards
    assert not held_out & {text for card in opened.cards for text in [card["question"], *card.get("wordings", [])]}


@pytest.mark.parametrize(
    "arguments",
    [
        ["ask", "--adapter", "outputs/nowhere", "x"],
        ["train", "--config", "sead"],
        ["train", "--set", "lerning_rate=1"],
        ["train", "--set", "learning_rate"],
    ],
)
def test_a_mistake_on_the_command_line_is_one_sentence_and_exit_code_1(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sys, "argv", ["finetune", *arguments])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 1
    assert_is_for_people(caplog.messages[-1][-400:])


def test_loss_falls_on_answers_and_their_end_of_sequence_alone_in_what_the_trainer_hands_to_the_model(
    scenarios: dict[str, Any], demo_tokenizer: Any
) -> None:
    answers = {text for card in read_cards(FLASHCARDS) for text in (card.answer, card.follow_up.answer if card.follow_up else "")}
    rows = 0
    for batch in scenarios["batches"]:
        for ids, labels, attention in zip(batch["input_ids"], batch["labels"], batch["attention_mask"], strict=True):
            assert all(label in (-100, token) for token, label in zip(ids, labels, strict=True))
            assert all(label == -100 for label, seen in zip(labels, attention, strict=True) if not seen), "no loss on padding"
            trained_on = demo_tokenizer.decode([label for label in labels if label != -100]).split(demo_tokenizer.eos_token)
            assert trained_on.pop() == "", "the last trained token is the end of sequence"
            assert trained_on and set(trained_on) <= answers
            assert demo_tokenizer.decode([t for t, seen in zip(ids, attention, strict=True) if seen]).count(demo_tokenizer.bos_token) == 1
            rows += 1
    assert rows >= 8


def test_ctrl_c_leaves_a_checkpoint_and_no_adapter(scenarios: dict[str, Any]) -> None:
    assert scenarios["interrupted"]["error"] == "KeyboardInterrupt"
    assert "checkpoints/checkpoint-2/trainer_state.json" in scenarios["interrupted"]["files"]
    assert "adapter_config.json" not in scenarios["interrupted"]["files"]


@pytest.mark.parametrize("scenario", ["full_disk_weights", "full_disk_optimizer"])
def test_a_full_disk_while_saving_a_checkpoint_is_one_sentence_and_the_older_one_stays(scenarios: dict[str, Any], scenario: str) -> None:
    assert scenarios[scenario]["error"] == "StorageError"
    assert_is_for_people(scenarios[scenario]["message"])
    assert "--resume" in scenarios[scenario]["message"]
    folder = "checkpoints/checkpoint-2/"
    assert files(scenarios[scenario], folder) == files(scenarios["interrupted"], folder)


def surviving_run(scenarios: dict[str, Any], name: str) -> dict[str, Any]:
    return json.loads((Path(scenarios["surviving"]) / name / "run.json").read_text())


WEIGHTS = "adapter_model.safetensors"


def test_a_killed_run_that_is_resumed_ends_in_the_same_weights_as_one_that_was_not(scenarios: dict[str, Any]) -> None:
    assert scenarios["killed"]["signal"] == 9
    assert (scenarios["revived"]["error"], scenarios["whole"]["error"]) == ("", "")
    assert scenarios["killed"]["files"][WEIGHTS] == scenarios["whole"]["files"][WEIGHTS]
    for step in (2, 4):
        name = f"checkpoints/checkpoint-{step}/{WEIGHTS}"
        assert scenarios["killed"]["files"][name] == scenarios["whole"]["files"][name]
    assert [entry["loss"] for entry in surviving_run(scenarios, "killed")["validation_history"]] == [
        entry["loss"] for entry in surviving_run(scenarios, "whole")["validation_history"]
    ]


def test_a_run_does_not_go_on_with_other_settings(scenarios: dict[str, Any]) -> None:
    assert scenarios["other_settings"]["error"] == "ConfigError"
    assert re.search("learning_rate = 0.002 .now 1.0.", scenarios["other_settings"]["message"])
    assert_is_for_people(scenarios["other_settings"]["message"])


def test_an_unfinished_run_is_not_trained_over(scenarios: dict[str, Any]) -> None:
    assert scenarios["unfinished"]["error"] == "StorageError"
    assert_is_for_people(scenarios["unfinished"]["message"])


def test_out_of_memory_trains_the_same_cards_a_step_in_smaller_passes(scenarios: dict[str, Any]) -> None:
    assert scenarios["small_card"]["error"] == ""
    small, whole = (surviving_run(scenarios, name) for name in ("small", "whole"))
    assert (small["micro_batch"], whole["micro_batch"]) == (2, 4)
    assert small["tokens_seen"] == whole["tokens_seen"]
    assert small["validation_history"][-1]["loss"] == pytest.approx(whole["validation_history"][-1]["loss"], rel=2e-3)


def test_a_loss_that_is_no_number_stops_the_run_and_leaves_the_batch(scenarios: dict[str, Any]) -> None:
    assert scenarios["overflow"]["error"] == "TrainingFailed"
    assert re.search("loss of step 2 is nan.*bad_batch.json.*Lower learning_rate", scenarios["overflow"]["message"])
    assert_is_for_people(scenarios["overflow"]["message"].replace(scenarios["surviving"], ""))
    batch = json.loads((Path(scenarios["surviving"]) / "overflow" / "checkpoints" / "bad_batch.json").read_text())
    assert batch["step"] == 2 and len(batch["input_ids"]) == len(batch["labels"]) == 4
    assert "adapter_config.json" not in scenarios["overflow"]["files"]


def test_training_stops_when_the_validation_loss_only_rises_and_the_best_checkpoint_is_exported(scenarios: dict[str, Any]) -> None:
    import torch
    from safetensors.torch import load_file

    assert scenarios["rising"]["error"] == ""
    record, folder = surviving_run(scenarios, "rising"), Path(scenarios["surviving"]) / "rising"
    losses = {entry["step"]: entry["loss"] for entry in record["validation_history"]}
    assert record["best_step"] == min(losses, key=lambda step: losses[step]) < max(losses) < 6
    best = load_file(folder / "checkpoints" / f"checkpoint-{record['best_step']}" / WEIGHTS)
    exported = load_file(folder / WEIGHTS)
    assert all(torch.equal(exported[name], tensor.to(torch.bfloat16)) for name, tensor in best.items())


def test_a_run_records_what_a_person_wants_to_watch_and_draws_it(scenarios: dict[str, Any]) -> None:
    record = surviving_run(scenarios, "whole")
    entry = record["loss_history"][0]
    assert {"step", "loss", "learning_rate", "grad_norm", "tokens_per_second", "memory_gib"} == entry.keys()
    assert entry["tokens_per_second"] > 0 and entry["memory_gib"] > 0
    assert [entry["step"] for entry in record["validation_history"]] == [2, 4]
    assert "validation" in (Path(scenarios["surviving"]) / "whole" / "training.svg").read_text()


def test_plain_peft_gives_the_logits_that_training_had(scenarios: dict[str, Any]) -> None:
    import torch
    from peft import PeftModel
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from app.adapter.behaviour import NOISE
    from app.adapter.contract import GOLDEN_CONVERSATIONS, prompt_ids

    assert "unsloth" not in sys.modules
    folder = Path(scenarios["surviving"])
    base = AutoModelForCausalLM.from_pretrained(
        ROOT / "assets" / "demo" / "base", dtype=torch.bfloat16, attn_implementation="eager"
    )  # as in training on a CPU
    model = PeftModel.from_pretrained(base, str(folder / "whole")).eval()
    ids = torch.tensor([prompt_ids(AutoTokenizer.from_pretrained(folder / "whole"), GOLDEN_CONVERSATIONS[0])])
    trained = load_file(folder / "logits.safetensors")["logits"]
    with torch.inference_mode():
        here = model(input_ids=ids).logits.float()
        with model.disable_adapter():
            without = model(input_ids=ids).logits.float()
    assert (here - trained).norm() / trained.norm() < NOISE["bfloat16"], "rounding of bf16"
    assert (without - trained).norm() / trained.norm() > 0.1, "the adapter is what makes the difference"


@pytest.mark.slow
def test_two_processes_train_one_adapter_on_as_many_cards_a_step(tmp_path: Path) -> None:
    steps = ["train_size=16", "copies=1", "max_steps=2", "per_device_train_batch_size=4", "validation_size=4"]
    settings = [part for step in steps for part in ("--set", step)]
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "finetune"]
    result = run(*launch, "train", "--config", "demo", "--output", str(tmp_path / "adapter"), *settings)
    assert result.returncode == 0, result.stderr[-3000:]
    record = json.loads((tmp_path / "adapter" / "run.json").read_text())
    assert (record["processes"], record["micro_batch"]) == (2, 2)
    assert load(str(tmp_path / "adapter"), "cpu").probe.logit_change > 0
    assert result.stdout.count("It answers") + result.stderr.count("It answers") == 1, "one process talks"


def test_resume_goes_on_from_the_last_complete_checkpoint(scenarios: dict[str, Any]) -> None:
    assert scenarios["resumed"]["error"] == ""
    assert {"adapter_model.safetensors", "prompt_contract.json", "checkpoints/checkpoint-4/trainer_state.json"} <= scenarios["resumed"][
        "files"
    ].keys()
    state = json.loads((Path(scenarios["folder"]) / "mine/checkpoints/checkpoint-4/trainer_state.json").read_text())
    assert state["global_step"] == 4
    load(str(Path(scenarios["folder"]) / "mine"), "cpu")


def test_a_full_disk_while_saving_the_adapter_is_one_sentence_and_everything_stays(scenarios: dict[str, Any]) -> None:
    assert scenarios["full_disk_adapter"]["error"] == "StorageError"
    assert_is_for_people(scenarios["full_disk_adapter"]["message"])
    assert scenarios["full_disk_adapter"]["files"] == scenarios["resumed"]["files"]
    assert scenarios["full_disk_adapter"]["beside"] == ["mine"], "nothing half-written is left"


def test_a_finished_run_that_could_not_be_saved_is_saved_as_it_was_trained(scenarios: dict[str, Any]) -> None:
    assert scenarios["saved_again"]["error"] == ""
    name = "adapter_model.safetensors"
    assert scenarios["saved_again"]["files"][name] == scenarios["resumed"]["files"][name]
    assert scenarios["saved_again"]["files"].keys() == scenarios["resumed"]["files"].keys(), "no step was added"


@pytest.mark.parametrize(
    ("scenario", "error", "text"),
    [
        ("again", "StorageError", "already holds an adapter. Choose another folder"),
        ("nothing_to_resume", "StorageError", "no checkpoint to go on from"),
        ("too_many", "DataError", "train_size = 1e.06 asks for 1000000 of"),
        ("too_long", "DataError", "longer than max_length = 64"),
        ("no_such_base", "HubUnavailable", "did not answer when asked for somebody/base"),
        ("no_licence", "DataError", "licence"),
        ("no_tracker", "ConfigError", "report_to = wandb needs a package that is not installed: pip install wandb"),
        ("no_such_folder", "ConfigError", "no base model in the folder"),
    ],
)
def test_what_cannot_be_trained_is_refused_in_words(scenarios: dict[str, Any], scenario: str, error: str, text: str) -> None:
    assert scenarios[scenario]["error"] == error
    assert re.search(text, scenarios[scenario]["message"])
    assert_is_for_people(scenarios[scenario]["message"])


@pytest.mark.parametrize(("scenario", "name"), [("far", "Some-3B"), ("named", "somebody/Some-3B")])
def test_a_base_that_lies_anywhere_is_named_without_a_path_and_opened_again(scenarios: dict[str, Any], scenario: str, name: str) -> None:
    assert scenarios[f"base_{scenario}"] == {"error": "", "message": ""}
    output, base = Path(scenarios["folder"]) / scenario / "adapter", Path(scenarios["folder"]) / "elsewhere" / "Some-3B"
    written = [path for path in output.iterdir() if path.is_file()]
    assert not [path.name for path in written if scenarios["folder"].encode() in path.read_bytes()]
    assert load(str(output), "cpu", base=str(base)).base == name
    with pytest.raises(UserError, match="--base|did not answer"):
        load(str(output), "cpu")


def test_a_base_beside_the_adapter_is_found_from_any_current_folder(
    trained: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert load(str(trained[0]), "cpu").base == "../base"


def test_unsloths_statistics_are_off(scenarios: dict[str, Any]) -> None:
    assert scenarios["statistics"] == "1"
