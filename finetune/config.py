"""The training configuration: every default lives here, a preset file holds what differs, unknown keys are errors."""

from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from app.errors import ConfigError

MEDICAL_MEADOW = "medalpaca/medical_meadow_medical_flashcards"
CONFIGS = Path(__file__).parent / "configs"
PROJECT = "medical-llm-fine-tuning"  # of the Trackio dashboard
TEMPLATES = Path(__file__).parent / "templates"


class TrainConfig(BaseModel):
    """What `python -m finetune train` needs to know. The names are TRL's and PEFT's where they have one."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    base: str = Field("unsloth/Llama-3.2-3B-Instruct-bnb-4bit", description="Base model: a hub id, or a folder.")
    base_id: str | None = Field(
        None, pattern=r"^[\w.-]+/[\w.-]+$", description="Hub id, OWNER/NAME, by which the adapter names a base that is a folder."
    )
    base_revision: str | None = Field(None, description="Commit, branch or tag of a base model on the Hub.")
    data: str = Field(MEDICAL_MEADOW, description="Data set: a hub id, a file, or a folder of data prepare.")
    data_revision: str | None = Field(None, description="Commit, branch or tag of a data set on the Hub.")
    columns: str | None = Field(None, description="Which of our fields the data's columns are, as question=Frage,answer=Antwort.")
    encoding: str | None = Field(None, description="Encoding of a text file that states none and is not UTF-8, such as windows-1252.")
    max_dropped: float = Field(0.3, ge=0, le=1, description="Share of the data's rows that may be unusable; beyond it training stops.")
    output: str = Field("outputs/adapter", description="Folder to write the adapter into; it must not hold another run.")
    init_adapter: str | None = Field(None, description="Adapter directory whose weights training goes on from; new weights without it.")
    template: Literal["medical", "llama3", "native"] = Field(
        "medical", description="Prompt format: the original project's, Llama 3's, or the base's own chat template with our system text."
    )
    ship_cards: bool = Field(False, description="Put the cards into the adapter directory; refused where their licence does not allow it.")
    train_size: float = Field(1.0, gt=0, description="Up to 1: the share of conversations to train on; above: their number.")
    validation_size: float = Field(
        0.0,
        ge=0,
        description="Conversations to hold back for validation where the data brings none: a share up to 1, or a number, "
        "which also limits a validation split of the data.",
    )
    max_length: int = Field(1024, ge=32, description="Tokens a conversation may have; longer ones are left out and counted.")
    per_device_train_batch_size: int = Field(6, ge=1, description="Conversations in one forward pass of one device.")
    gradient_accumulation_steps: int = Field(2, ge=1, description="Forward passes in one optimizer step.")
    num_train_epochs: float = Field(1.0, gt=0, description="Passes over the data.")
    max_steps: int = Field(-1, description="Optimizer steps; overrides num_train_epochs when positive.")
    learning_rate: float = Field(5e-5, gt=0, description="Peak learning rate.")
    lr_scheduler_type: str = Field("cosine", description="Schedule of the learning rate, by transformers' name.")
    warmup_steps: float = Field(0.05, ge=0, description="Below 1: share of the steps to warm up in; else their number.")
    weight_decay: float = Field(0.0, ge=0, description="Weight decay of AdamW.")
    optim: str = Field(
        "adamw_8bit", description="Optimizer, by transformers' name; without a GPU adamw_torch takes the place of 8-bit ones."
    )
    precision: Literal["auto", "bf16", "fp16", "fp32"] = Field(
        "auto", description="auto: bf16 where the device has it, else fp16; fp32 on CPU."
    )
    load_in_4bit: bool = Field(True, description="Open the base in NF4 on a GPU; on a CPU it is opened in 16 or 32 bits.")
    gradient_checkpointing: bool = Field(True, description="Recompute activations on a GPU: less memory, more time.")
    lora_rank: int = Field(64, ge=1, description="Rank of the LoRA matrices.")
    lora_alpha: int = Field(128, ge=1, description="LoRA alpha; the scale is alpha/rank, or alpha/sqrt(rank) with use_rslora.")
    lora_dropout: float = Field(0.0, ge=0, lt=1, description="Dropout before the LoRA matrices.")
    use_rslora: bool = Field(True, description="Rank-stabilised scale, https://arxiv.org/abs/2312.03732.")
    target_modules: list[str] | Literal["all-linear"] = Field(
        ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
        description="Linear layers that get LoRA matrices: a list of their names, or all-linear.",
    )
    question_noise: float = Field(0.0, ge=0, lt=1, description="Mean share of a question's words left out, drawn anew for every copy.")
    joined_share: float = Field(
        0.0, ge=0, le=1, description="Share of the conversations put two by two into one row, as a change of subject."
    )
    copies: int = Field(1, ge=1, description="Copies of each conversation in one epoch, each with noise of its own.")
    padding_free: bool | None = Field(
        None, description="Join a micro-batch into one row instead of padding it (GPU only); by default Unsloth decides."
    )
    packing: bool = Field(False, description="Put several conversations into one row of max_length tokens (GPU only): more cards a step.")
    group_by_length: bool = Field(False, description="Put conversations of like length into one batch: less padding, a less random order.")
    save_steps: float = Field(
        200, gt=0, description="Optimizer steps between checkpoints, each with a validation; below 1: a share of the run."
    )
    early_stopping: int = Field(0, ge=0, description="Stop after so many validations without a lower loss; 0: never.")
    logging_steps: int = Field(5, ge=1, description="Optimizer steps between two entries of the metrics.")
    seed: int = Field(3407, description="Seed of the selection, the order and the LoRA weights.")
    report_to: Literal["none", "trackio", "tensorboard", "wandb"] = Field(
        "none", description="Who gets the metrics beside run.json: trackio is a dashboard on this machine."
    )


def load_config(preset: str, overrides: dict[str, Any] | None = None) -> TrainConfig:
    """Reads a preset and lays overrides on it.

    Args:
        preset: Name of a file in finetune/configs without its ending, or the path of a YAML file.
        overrides: Field names and values, as on the command line; None values are left out.

    Raises:
        ConfigError: The preset does not exist, or a key or value is not allowed.
    """
    path = Path(preset) if preset.endswith((".yaml", ".yml")) else CONFIGS / f"{preset}.yaml"
    if not path.is_file():
        names = ", ".join(sorted(p.stem for p in CONFIGS.glob("*.yaml")))
        raise ConfigError(f"There is no preset {preset!r}. Choose one of {names}, or give the path of a YAML file.")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid YAML: {' '.join(str(error).split())}. Mend it and try again.") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path} holds no settings of the form `key: value`. See {CONFIGS.name}/seed.yaml for an example.")
    try:
        return TrainConfig(**(values | {k: v for k, v in (overrides or {}).items() if v is not None}))
    except ValidationError as error:
        first = error.errors()[0]
        key = str(first["loc"][0])  # what follows is a place in a list, or one of several kinds that a key may have
        hint = (
            f"Known keys: {', '.join(TrainConfig.model_fields)}."
            if first["type"] == "extra_forbidden"
            else TrainConfig.model_fields[key].description
        )
        raise ConfigError(f"{key} = {first.get('input')!r} is not allowed ({first['msg']}). {hint}") from error


def parse_assignments(assignments: list[str]) -> dict[str, Any]:
    """Turns `["learning_rate=1e-4"]` into a dictionary; values are read as YAML scalars.

    Raises:
        ConfigError: An entry is not of the form key=value.
    """
    values = {}
    for assignment in assignments:
        key, equals, value = assignment.partition("=")
        try:
            parsed = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ConfigError(f"--set {assignment} has a value that cannot be read. Put texts with special signs in quotes.") from error
        if not equals:
            raise ConfigError(f"--set {assignment} is not of the form key=value, as in --set learning_rate=1e-4.")
        if isinstance(parsed, str):
            with suppress(ValueError):  # YAML 1.1 reads 1e-4 as text
                parsed = float(parsed)
        values[key.strip()] = parsed
    return values
