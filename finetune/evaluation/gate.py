"""Decides whether an evaluation lets an adapter pass: reads `evaluation.json` and rules, knows no model and imports no torch.

python -m finetune evaluate --adapter DIR --gate [RULES.yaml]
"""

from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from app.errors import ConfigError

DEFAULT_RULES = Path(__file__).parent / "gate.yaml"

Effect = Literal["better", "worse", "unclear"]


class Rule(BaseModel):
    """One measure that must not get worse; see finetune/evaluation/gate.yaml for what the fields mean."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    measure: str
    tolerance: float = Field(0.0, ge=0)
    required: bool = False


class Rules(BaseModel):
    """What must not get worse, and by how much."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    rules: list[Rule]


def load_rules(path: Path = DEFAULT_RULES) -> Rules:
    """Reads rules from a YAML file.

    Raises:
        ConfigError: The file is missing or is not of that form.
    """
    try:
        return Rules.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise ConfigError(
            f"There is no file of gate rules {path}. Copy finetune/evaluation/gate.yaml and change it, or leave the name out."
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text (byte {error.start}). Save it as UTF-8 and try again.") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {' '.join(str(error).split())[:200]}. Mend it and try again.") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise ConfigError(f"{path}: {place} is not allowed ({first['msg']}). See finetune/evaluation/gate.yaml for the form.") from error


def effect(measure: dict[str, Any], tolerance: float = 0.0) -> Effect | None:
    """What the tuning did to one measure.

    Args:
        measure: An entry of "measures" in `evaluation.json`.
        tolerance: A difference that does not count yet, in the measure's unit.

    Returns:
        "better" or "worse" when the whole interval of the paired difference lies on that side, beyond the tolerance; None for a
        measure that was not taken or has no better direction.
    """
    if "difference" not in measure or measure["higher_is_better"] is None:
        return None
    low, high = measure["difference"]["low"], measure["difference"]["high"]
    if not measure["higher_is_better"]:
        low, high = -high, -low
    return "better" if low > tolerance else "worse" if high < -tolerance else "unclear"


def verdict(measures: list[dict[str, Any]]) -> str:
    """One sentence on a set of measures taken on the same questions: "better on 3 of 5 measures, worse on 1, n = 200"."""
    effects = [found for found in map(effect, measures) if found]
    if not effects:
        return "nothing was measured"
    sizes = sorted({measure["n"] for measure in measures if effect(measure)})
    n = f"{sizes[0]}" if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
    plural = "s" if len(effects) > 1 else ""
    return f"better on {effects.count('better')} of {len(effects)} measure{plural}, worse on {effects.count('worse')}, n = {n}"


def gate(evaluation: dict[str, Any], rules: Rules | None = None) -> list[str]:
    """Why an adapter is refused: one sentence per broken rule, none when it passes.

    Args:
        evaluation: The content of `evaluation.json`.
        rules: What must not get worse; the rules of finetune/evaluation/gate.yaml when None.
    """
    measures = evaluation.get("measures") or {}
    reasons = {}
    for rule in (rules or load_rules()).rules:
        keys = [key for key in measures if fnmatchcase(key, rule.measure)]
        taken = [key for key in keys if "difference" in measures[key]]
        if rule.required and not taken:
            reasons[rule.measure] = f"{rule.measure} was not measured, and the gate asks for it: run the evaluation again."
        for key in taken:
            if effect(measures[key], rule.tolerance) == "worse":
                reasons[key] = _sentence(key, measures[key], rule.tolerance)
    return list(reasons.values())


def _sentence(key: str, measure: dict[str, Any], tolerance: float) -> str:
    base, tuned, difference = (measure[part] for part in ("base", "tuned", "difference"))
    return (
        f"{measure['name']} ({key}) got worse: {base['value']:.3f} for the base, {tuned['value']:.3f} tuned; difference "
        f"{difference['value']:+.3f} [{difference['low']:+.3f}, {difference['high']:+.3f}], n = {measure['n']}, allowed {tolerance:g}."
    )
