"""What a run leaves between start and end, and what may change when it goes on."""

import json
from pathlib import Path

import pytest

from app.errors import ConfigError, StorageError, TrainingFailed
from finetune.config import TrainConfig
from finetune.training import checkpoints
from tests.conftest import assert_is_for_people


def config(output: Path, **changes: object) -> TrainConfig:
    return TrainConfig(output=str(output), **changes)


def checkpoint(output: Path, step: int, state: str | None = None) -> Path:
    path = output / "checkpoints" / f"checkpoint-{step}"
    path.mkdir(parents=True)
    (path / "adapter_model.safetensors").write_bytes(b"x")
    (path / checkpoints.STATE_FILE).write_text(state or json.dumps({"global_step": step, "max_steps": 4}))
    return path


def test_a_checkpoint_that_was_cut_off_is_passed_over(tmp_path: Path) -> None:
    whole = checkpoint(tmp_path, 2)
    checkpoint(tmp_path, 10, '{"global_st')
    assert checkpoints.last_checkpoint(tmp_path) == whole
    assert not checkpoints.is_finished(whole)


def test_the_best_checkpoint_is_found_after_the_folder_has_moved(tmp_path: Path) -> None:
    path = checkpoint(tmp_path, 2)
    assert checkpoints.best_checkpoint(tmp_path, "/elsewhere/checkpoints/checkpoint-2") == path
    assert checkpoints.best_checkpoint(tmp_path, "/elsewhere/checkpoints/checkpoint-4") is None
    assert checkpoints.best_checkpoint(tmp_path, None) is None


def test_a_run_killed_before_its_first_checkpoint_starts_again_on_resume(tmp_path: Path) -> None:
    assert checkpoints.begin(config(tmp_path), resume=False) is None
    assert checkpoints.begin(config(tmp_path), resume=True) is None


def test_an_unfinished_run_is_not_overwritten(tmp_path: Path) -> None:
    checkpoint(tmp_path, 2)
    with pytest.raises(StorageError, match=r"unfinished run \(checkpoint-2\).*--resume") as caught:
        checkpoints.begin(config(tmp_path), resume=False)
    assert_is_for_people(caught.value)


def test_there_is_nothing_to_resume_in_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="holds no checkpoint to go on from"):
        checkpoints.begin(config(tmp_path), resume=True)


@pytest.mark.parametrize(
    "changes", [{"learning_rate": 1.0}, {"seed": 1}, {"per_device_train_batch_size": 5}, {"train_size": 0.5, "template": "llama3"}]
)
def test_a_run_goes_on_only_with_the_settings_that_it_was_started_with(tmp_path: Path, changes: dict[str, object]) -> None:
    checkpoints.begin(config(tmp_path), resume=False)
    with pytest.raises(ConfigError, match="was started with") as caught:
        checkpoints.begin(config(tmp_path, **changes), resume=True)
    assert_is_for_people(caught.value)


def test_a_damaged_note_of_the_settings_does_not_lose_the_run(tmp_path: Path) -> None:
    path = checkpoint(tmp_path, 2)
    (path.parent / checkpoints.CONFIG_FILE).write_text("")
    assert checkpoints.begin(config(tmp_path), resume=True) == path


def test_a_run_may_go_on_in_smaller_micro_batches(tmp_path: Path) -> None:
    checkpoints.begin(config(tmp_path, per_device_train_batch_size=6, gradient_accumulation_steps=2), resume=False)
    checkpoints.begin(config(tmp_path, per_device_train_batch_size=3, gradient_accumulation_steps=4), resume=True)


@pytest.mark.parametrize(("batch", "smaller"), [(64, 32), (6, 3), (3, 1), (9, 3), (2, 1)])
def test_out_of_memory_takes_fewer_rows_at_a_time_and_as_many_a_step(
    batch: int, smaller: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    changed = checkpoints.smaller_micro_batch(config(tmp_path, per_device_train_batch_size=batch, gradient_accumulation_steps=2))
    assert changed.per_device_train_batch_size == smaller
    assert changed.per_device_train_batch_size * changed.gradient_accumulation_steps == batch * 2
    assert f"going on with {smaller}" in caplog.text


def test_one_row_that_does_not_fit_is_an_error_with_the_cures(tmp_path: Path) -> None:
    with pytest.raises(TrainingFailed, match="Lower max_length.*gradient_checkpointing=true") as caught:
        checkpoints.smaller_micro_batch(config(tmp_path, per_device_train_batch_size=1))
    assert_is_for_people(caught.value)


@pytest.mark.parametrize(("batch", "accumulation", "processes"), [(6, 2, 1), (6, 2, 2), (64, 1, 2), (64, 1, 8), (3, 4, 2)])
def test_several_processes_see_as_many_cards_a_step_as_one(batch: int, accumulation: int, processes: int, tmp_path: Path) -> None:
    whole = config(tmp_path, per_device_train_batch_size=batch, gradient_accumulation_steps=accumulation)
    share = checkpoints.per_process(whole, processes)
    assert share.per_device_train_batch_size * share.gradient_accumulation_steps * processes == batch * accumulation


def test_cards_that_cannot_be_shared_out_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="3 x 1 conversations a step cannot be shared out to 2") as caught:
        checkpoints.per_process(config(tmp_path, per_device_train_batch_size=3, gradient_accumulation_steps=1), 2)
    assert_is_for_people(caught.value)
