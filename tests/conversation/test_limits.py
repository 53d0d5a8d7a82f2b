"""Limits on questions and tokens: per client, for all, and per day; on the page and on the API alike."""

import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from functools import partial

import pytest

from app.conversation import chat
from app.conversation.limits import Budget, RateLimits
from app.engine.generation import LocalGenerator
from app.engine.model import LoadedModel
from app.errors import BudgetSpent, ConfigError, RateLimited
from app.settings import load_settings
from tests.answers import PATIENCE, Steer
from tests.conftest import assert_is_for_people
from tests.page_client import PageClient
from tests.servers import HTTP, Served, ask, check_error, running


def test_each_client_has_its_own_limit_and_is_told_when_to_come_again() -> None:
    rates = RateLimits("2/minute", "")
    for address in ("1.1.1.1", "1.1.1.1", "2.2.2.2"):
        rates.take(address)
    with pytest.raises(RateLimited, match="2 per 1 minute") as refused:
        rates.take("1.1.1.1")
    assert 1 <= refused.value.retry_after <= 60
    assert_is_for_people(refused.value)
    rates.take("2.2.2.2")


def test_all_together_have_a_limit_and_a_refusal_counts_for_nothing() -> None:
    rates = RateLimits("5/minute;2/second", "3/hour")
    for address in ("1.1.1.1", "1.1.1.1", "2.2.2.2"):
        rates.take(address)
    for _ in range(3):
        with pytest.raises(RateLimited, match="Too many people"):
            rates.take("3.3.3.3")


def test_a_client_with_many_ipv6_addresses_is_one_client() -> None:
    rates = RateLimits("1/minute", "")
    rates.take("2001:db8:1:1::1")
    with pytest.raises(RateLimited):
        rates.take("2001:db8:1:1:ffff::2")
    rates.take("2001:db8:1:2::1")
    rates.take("::ffff:1.1.1.1")
    rates.take("::ffff:1.1.1.2")


def test_a_limit_that_is_not_set_limits_nobody() -> None:
    for client, everybody in (("", "2/minute"), ("2/minute", ""), ("", "")):
        rates = RateLimits(client, everybody)
        for address in ("1.1.1.1", "2.2.2.2"):
            rates.take(address)
    for _ in range(100):
        rates.take("1.1.1.1")


def test_who_has_no_address_is_a_client_like_any_other() -> None:
    rates = RateLimits("1/minute", "")
    rates.take("behind a socket")
    rates.take("behind another")
    with pytest.raises(RateLimited):
        rates.take("behind a socket")


def test_a_refusal_says_which_limit_and_when_to_come_again(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [time.time()]
    monkeypatch.setattr(time, "time", lambda: clock[0])
    rates = RateLimits("2/minute;3/hour", "4/day")
    rates.take("1.1.1.1")
    clock[0] += 20
    rates.take("1.1.1.1")
    clock[0] += 10
    with pytest.raises(RateLimited) as refused:
        rates.take("1.1.1.1")
    assert str(refused.value) == "You have asked as often as is allowed here (2 per 1 minute). Ask again in 30 seconds."
    assert refused.value.retry_after == 30
    clock[0] += 30.5
    rates.take("1.1.1.1")
    with pytest.raises(RateLimited, match=r"here \(2 per 1 minute\)\. Ask again in 20 seconds\."):
        rates.take("1.1.1.1")
    clock[0] += 61
    with pytest.raises(RateLimited, match=r"here \(3 per 1 hour\)\. Ask again in 58 minutes\."):
        rates.take("1.1.1.1")
    rates.take("2.2.2.2")
    with pytest.raises(RateLimited) as refused:
        rates.take("3.3.3.3")
    assert str(refused.value) == "Too many people are asking just now. Ask again in 24 hours."


def test_nobody_is_told_to_wait_for_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [time.time()]
    monkeypatch.setattr(time, "time", lambda: clock[0])
    rates = RateLimits("1/second", "")
    rates.take("1.1.1.1")
    clock[0] += 0.99
    with pytest.raises(RateLimited, match=r"Ask again in 1 second\.") as refused:
        rates.take("1.1.1.1")
    assert refused.value.retry_after == 1


@pytest.mark.parametrize("value", ["often", "10", "10/fortnight", ";"])
def test_a_limit_that_cannot_be_read_is_a_setting_that_is_not_allowed(value: str) -> None:
    with pytest.raises(ConfigError, match="10/minute"):
        load_settings(client_limit=value)


def test_the_budget_of_a_day_ends_and_begins_anew_at_midnight() -> None:
    clock = [datetime(2026, 3, 1, 21, 30, tzinfo=UTC)]
    budget = Budget(100, lambda: clock[0])
    budget.take(80)
    budget.give_back(50)
    budget.take(70)
    with pytest.raises(BudgetSpent, match="in 3 hours") as spent:
        budget.take(1)
    assert spent.value.retry_after == 2.5 * 3600
    assert_is_for_people(spent.value)
    clock[0] += timedelta(hours=2.5)
    budget.take(1)
    budget.give_back(70)  # an answer that was asked for yesterday
    budget.take(100)
    with pytest.raises(BudgetSpent):
        budget.take(1)


def test_the_budget_is_spent_to_the_last_token_and_no_further() -> None:
    clock = [datetime(2026, 3, 1, 21, 30, tzinfo=UTC)]
    budget = Budget(10, lambda: clock[0])
    for _ in range(2):
        budget.take(1)
        budget.give_back(5)  # more than was taken
        for tokens in (9, 1):
            budget.take(tokens)
        with pytest.raises(BudgetSpent):
            budget.take(1)
        clock[0] += timedelta(days=1)
    for tokens in (9, 1):
        budget.take(tokens)
    with pytest.raises(BudgetSpent):
        budget.take(1)
    endless = Budget(0, lambda: clock[0])
    for _ in range(3):
        endless.take(1_000_000)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (1, "1 second"),
        (59, "59 seconds"),
        (60, "1 minute"),
        (61, "2 minutes"),
        (3599, "60 minutes"),
        (3600, "1 hour"),
        (3601, "2 hours"),
        (86399, "24 hours"),
    ],
)
def test_a_spent_budget_says_how_long_midnight_is_away(seconds: int, words: str) -> None:
    budget = Budget(1, lambda: datetime(2026, 3, 1, tzinfo=UTC) - timedelta(seconds=seconds))
    budget.take(1)
    with pytest.raises(BudgetSpent) as spent:
        budget.take(1)
    assert str(spent.value) == (
        f"All that this page can spend on answers today has been used up. Please come back after midnight UTC, in {words}."
    )
    assert spent.value.retry_after == seconds


def test_midnight_is_that_of_utc_wherever_clock_and_machine_stand(monkeypatch: pytest.MonkeyPatch) -> None:
    tokyo = timezone(timedelta(hours=9))
    clock = [datetime(2026, 3, 2, 8, 59, tzinfo=tokyo)]  # 23:59 UTC of the day before
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        budget = Budget(1, lambda: clock[0])
        budget.take(1)
        with pytest.raises(BudgetSpent, match="in 1 minute"):
            budget.take(1)
        clock[0] += timedelta(minutes=1)
        budget.take(1)
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.fixture
def limited(loaded: LoadedModel, hooked: Steer, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    hooked.reset()
    monkeypatch.setattr(chat, "Budget", partial(Budget, now=lambda: datetime(2026, 3, 1, 12, tzinfo=UTC)))  # no midnight in between
    generator = LocalGenerator(lambda name: loaded, loaded.name)
    generator.wait_until_ready(PATIENCE)
    with running(load_settings(adapter=loaded.name, **request.param), generator) as url:
        yield Served(url, generator, hooked)


@pytest.mark.parametrize("limited", [{"client_limit": "2/hour", "trusted_hops": 1}], indirect=True)
def test_page_and_api_share_a_clients_limit_and_nobody_else_is_kept_out(limited: Served) -> None:
    def post(forwarded: str) -> object:
        return HTTP.post(f"{limited.url}/v1/chat/completions", json=ask(), headers={"X-Forwarded-For": forwarded})

    assert post("1.1.1.1").status_code == 200
    visitor = PageClient(limited.url, **{"X-Forwarded-For": "9.9.9.9, 1.1.1.1"})
    assert "Ask again in" not in visitor.ask("What is asthma?")
    told = visitor.ask("What is asthma?")
    assert re.search(r"You have asked as often as is allowed here \(2 per 1 hour\)\. Ask again in (1 hour|60 minutes)\.", told)
    refused = post("8.8.8.8, 1.1.1.1")
    assert check_error(refused, 429, "rate_limit_error")["code"] == "rate_limited"
    assert 3000 < int(refused.headers["retry-after"]) <= 3600
    assert post("2.2.2.2").status_code == 200


@pytest.mark.parametrize("limited", [{"daily_tokens": 20, "max_new_tokens": 30}], indirect=True)
def test_a_spent_budget_is_said_kindly_on_page_and_api(limited: Served) -> None:
    assert limited.post(ask(max_tokens=30)).status_code == 200  # 12 tokens were needed
    assert limited.post(ask(max_tokens=30)).status_code == 200
    refused = limited.post(ask())
    assert check_error(refused, 429, "rate_limit_error")["code"] == "budget_spent"
    assert 0 < int(refused.headers["retry-after"]) <= 86400
    assert "Please come back after midnight UTC" in PageClient(limited.url).ask("What is asthma?")
