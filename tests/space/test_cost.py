"""What answers cost: from a price that the user enters and the speed that is measured."""

import re

import pytest

from app.__main__ import main
from app.engine.generation import LocalGenerator
from app.errors import ConfigError
from app.space.cost import measure, per_thousand, read_price, read_speed, report
from tests.conftest import assert_is_for_people

PRICE = ["--price-per-hour", "3.6", "--currency", "EUR", "--as-of", "2026-01-31"]


def test_the_cost_is_the_price_of_the_time_that_answers_take() -> None:
    price, speed = read_price(3.6, "EUR", "2026-01-31"), read_speed(50, 100)
    assert speed.seconds == 2
    assert per_thousand(price, speed) == pytest.approx(2.0)
    assert any("2 EUR" in line and "2026-01-31" in line for line in report(price, speed))


def test_speed_is_measured_on_the_adapter_itself(generator: LocalGenerator) -> None:
    speed = measure(generator, 2)
    found = re.search(r"with (\d+) .*: (\d+) tokens .*, ([\d.]+) tokens a second", speed.source)
    count, _, rate = found.groups()
    assert count == "2"
    assert speed.tokens > 5
    assert float(rate) == pytest.approx(speed.tokens / speed.seconds, rel=0.02)
    assert generator.queue_length == 0


@pytest.mark.parametrize(
    ("per_hour", "currency", "as_of"),
    [
        (None, "EUR", "2026-01-31"),
        (-1.0, "EUR", "2026-01-31"),
        (float("nan"), "EUR", "2026-01-31"),
        (1.0, None, "2026-01-31"),
        (1.0, "euros", "2026-01-31"),
        (1.0, "EUR", None),
        (1.0, "EUR", "31.1.2026"),
        (1.0, "EUR", "9999-01-01"),
    ],
)
def test_a_price_needs_its_currency_and_its_date(per_hour: float | None, currency: str | None, as_of: str | None) -> None:
    with pytest.raises(ConfigError) as wrong:
        read_price(per_hour, currency, as_of)
    assert_is_for_people(wrong.value)


@pytest.mark.parametrize("figures", [(50, None), (None, 100), (0, 100), (50, -1), (float("inf"), 1)])
def test_entered_figures_belong_together(figures: tuple[float | None, float | None]) -> None:
    with pytest.raises(ConfigError, match="belong together"):
        read_speed(*figures)


def test_the_command_says_it_in_sentences(caplog: pytest.LogCaptureFixture) -> None:
    assert main(["cost", *PRICE, "--tokens-per-second", "50", "--tokens-per-answer", "100"]) == 0
    assert "1,000 answers cost 2 EUR" in caplog.text
    assert main(["cost", *PRICE[:2]]) == 1
    assert "--currency" in caplog.text
