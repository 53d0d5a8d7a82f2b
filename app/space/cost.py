"""What answers cost: the price of an hour, which the user enters with its date, times the measured time of an answer.

`python -m app cost --price-per-hour 0.5 --currency EUR --as-of 2026-11-22` asks the adapter some sample questions, one after another;
`--tokens-per-second 400 --tokens-per-answer 80` takes figures measured elsewhere. Knows no prices of its own.
"""

import json
import math
import re
from dataclasses import dataclass
from datetime import UTC, date, datetime

from app.engine.answer import GenerationRequest
from app.engine.remote import Generator
from app.errors import ConfigError
from app.settings import ROOT

SAMPLES = ROOT / "assets" / "sample_questions.json"


@dataclass(frozen=True)
class Price:
    """What the machine costs.

    Attributes:
        per_hour: Of the whole machine, in `currency`.
        as_of: The day on which somebody looked that up.
    """

    per_hour: float
    currency: str
    as_of: date


@dataclass(frozen=True)
class Speed:
    """How long answers take.

    Attributes:
        seconds: From the beginning of an answer to its end, on average.
        tokens: Of an answer, on average.
        source: Where the two come from, as a sentence.
    """

    seconds: float
    tokens: float
    source: str


def read_price(per_hour: float | None, currency: str | None, as_of: str | None) -> Price:
    """Checks what the user entered.

    Raises:
        ConfigError: A part is missing or cannot be.
    """
    if per_hour is None or not math.isfinite(per_hour) or per_hour < 0:
        raise ConfigError("cost needs what the machine costs an hour: --price-per-hour 0.5 (0 where it is free).")
    if not currency or not re.fullmatch(r"[A-Z]{3}", currency):
        raise ConfigError("cost needs the currency of the price as three letters: --currency EUR.")
    try:
        day = date.fromisoformat(as_of or "")
    except ValueError as error:
        raise ConfigError("cost needs the day on which the price was looked up: --as-of 2026-11-22.") from error
    if day > datetime.now(UTC).date():
        raise ConfigError(f"--as-of {day} is in the future. Give the day on which the price was looked up.")
    return Price(per_hour, currency, day)


def read_speed(tokens_per_second: float | None, tokens_per_answer: float | None) -> Speed | None:
    """Figures that were measured elsewhere; None when none were given.

    Raises:
        ConfigError: One is missing or not above 0.
    """
    if tokens_per_second is None and tokens_per_answer is None:
        return None
    if not all(value is not None and math.isfinite(value) and value > 0 for value in (tokens_per_second, tokens_per_answer)):
        raise ConfigError("--tokens-per-second and --tokens-per-answer belong together, and both are above 0.")
    speed, tokens = float(tokens_per_second or 0), float(tokens_per_answer or 0)
    return Speed(tokens / speed, tokens, f"As entered: {tokens:,.0f} tokens an answer at {speed:,.1f} tokens a second.")


def measure(generator: Generator, count: int = 8) -> Speed:
    """Asks the adapter sample questions of different specialties, one after another.

    Args:
        generator: Ready.
        count: Questions at most.

    Raises:
        UserError: An answer failed.
        ConfigError: Not one answer had a token.
    """
    questions = [questions[0] for questions in json.loads(SAMPLES.read_text(encoding="utf-8")).values()][:count]
    loaded = generator.loaded
    options = loaded.contract.generation.model_dump() if loaded else {}
    seconds, tokens = 0.0, 0
    for question in questions:
        answer = generator.submit(GenerationRequest([{"role": "user", "content": question}], seed=0, **options))
        for _ in answer:
            pass
        seconds += (answer.finished_at or 0.0) - (answer.started_at or 0.0)
        tokens += answer.completion_tokens
    if not tokens:
        raise ConfigError("The adapter answered none of the sample questions, so there is no speed to count with.")
    where = f"{loaded.device}, {loaded.dtype}" if loaded else "an unknown device"
    return Speed(
        seconds / len(questions),
        tokens / len(questions),
        f"Measured with {len(questions)} sample questions, one after another, on {where}: "
        f"{tokens / len(questions):.0f} tokens and {seconds / len(questions):.2f} s an answer, {tokens / seconds:.1f} tokens a second.",
    )


def per_thousand(price: Price, speed: Speed) -> float:
    """What 1,000 answers cost in the price's currency when they follow one another without a pause."""
    return price.per_hour * speed.seconds * 1000 / 3600


def report(price: Price, speed: Speed) -> list[str]:
    """Sentences for the user."""
    return [
        speed.source,
        f"At {price.per_hour:.2f} {price.currency} an hour (as entered, looked up on {price.as_of}), 1,000 answers cost "
        f"{per_thousand(price, speed):.4g} {price.currency} if they follow one another without a pause.",
        f"Time without questions costs the same {price.per_hour:.2f} {price.currency} an hour until the machine sleeps.",
    ]
