"""The training configuration: the original's values stand in seed.yaml, and a typing error never passes for a setting."""

from pathlib import Path

import pytest

from app.errors import ConfigError
from app.settings import Settings, load_settings
from finetune.config import CONFIGS, MEDICAL_MEADOW, load_config, parse_assignments
from tests.conftest import assert_is_for_people

# The original project's table and script, under today's argument names.
ORIGINAL = {
    "base": "unsloth/Llama-3.2-3B-Instruct-bnb-4bit",
    "data": "medalpaca/medical_meadow_medical_flashcards",
    "template": "medical",
    "train_size": 0.10,
    "max_length": 1024,
    "per_device_train_batch_size": 6,
    "gradient_accumulation_steps": 2,
    "num_train_epochs": 1,
    "max_steps": -1,
    "learning_rate": 5e-5,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 0.05,
    "lora_rank": 64,
    "lora_alpha": 128,
    "lora_dropout": 0,
    "use_rslora": True,
    "optim": "adamw_8bit",
    "precision": "auto",
    "load_in_4bit": True,
    "report_to": "none",
    "question_noise": 0,
    "joined_share": 0,
    "copies": 1,
}


def test_seed_holds_the_originals_values() -> None:
    config = load_config("seed").model_dump()
    assert {key: config[key] for key in ORIGINAL} == ORIGINAL
    assert ORIGINAL["data"] == MEDICAL_MEADOW


@pytest.mark.parametrize("preset", sorted(path.stem for path in CONFIGS.glob("*.yaml")))
def test_every_shipped_preset_is_valid(preset: str) -> None:
    config = load_config(preset)
    assert config.output.startswith("outputs/")
    assert load_config(str(CONFIGS / f"{preset}.yaml")) == config


def test_the_command_line_overrides_a_preset_and_none_does_not() -> None:
    config = load_config("seed", {"learning_rate": 1e-4, "base": None, "output": "outputs/x"})
    assert (config.learning_rate, config.base, config.output) == (1e-4, ORIGINAL["base"], "outputs/x")


@pytest.mark.parametrize(
    ("overrides", "text"),
    [
        ({"lerning_rate": 1}, "lerning_rate = 1 is not allowed.*Known keys: .*learning_rate"),
        ({"learning_rate": "fast"}, "learning_rate = 'fast' is not allowed.*Peak learning rate"),
        ({"learning_rate": -1}, "learning_rate = -1 is not allowed"),
        ({"template": "alpaca"}, "template = 'alpaca' is not allowed.*'medical', 'llama3' or 'native'"),
        ({"lora_rank": 0}, "lora_rank = 0 is not allowed"),
        ({"target_modules": "all"}, "target_modules = 'all' is not allowed"),
    ],
)
def test_a_wrong_key_or_value_is_named_with_what_is_allowed(overrides: dict[str, object], text: str) -> None:
    with pytest.raises(ConfigError, match=text) as caught:
        load_config("seed", overrides)
    assert_is_for_people(str(caught.value)[-300:])


@pytest.mark.parametrize("content", ["- a\n- b\n", "a: [\n", "just words", "\x00"])
def test_a_file_that_is_no_configuration_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(content)
    with pytest.raises(ConfigError) as caught:
        load_config(str(path))
    assert_is_for_people(caught.value)


def test_an_unknown_preset_names_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="no preset 'sead'.*seed") as caught:
        load_config("sead")
    assert_is_for_people(caught.value)


def test_assignments_are_read_as_numbers_texts_and_lists() -> None:
    assert parse_assignments(["learning_rate=1e-4", "lora_rank=8", "packing=true", "output=a b", "target_modules=[q_proj]"]) == {
        "learning_rate": 1e-4,
        "lora_rank": 8,
        "packing": True,
        "output": "a b",
        "target_modules": ["q_proj"],
    }


@pytest.mark.parametrize("assignment", ["learning_rate", "output=[a", "=5"])
def test_an_assignment_that_is_none_is_refused(assignment: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config("seed", parse_assignments([assignment]))
    assert_is_for_people(str(caught.value)[-300:])


def test_settings_come_from_the_environment_and_the_command_line_wins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ADAPTER", "outputs/a")
    monkeypatch.setenv("GRADIO_SERVER_PORT", "8123")
    assert (load_settings().adapter, load_settings().port) == ("outputs/a", 8123)
    settings = load_settings(adapter="outputs/b", port="8124", host=None)
    assert (settings.adapter, settings.port, settings.host) == ("outputs/b", 8124, Settings().host)


@pytest.mark.parametrize(("name", "value"), [("port", "70000"), ("port", "http"), ("max_queue", "0"), ("deadline", "-1")])
def test_a_setting_out_of_range_is_named(name: str, value: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} = '{value}' is not allowed") as caught:
        load_settings(**{name: value})
    assert_is_for_people(caught.value)
