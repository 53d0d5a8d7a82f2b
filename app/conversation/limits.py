"""How often and how much may be asked: questions per client and for all, and tokens per day. Kept in memory; knows no HTTP."""

import ipaddress
import math
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from limits import RateLimitItem, parse_many
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter

from app.errors import BudgetSpent, RateLimited


class RateLimits:
    """Questions per client and for all.

    Args:
        client: Such as "10/minute;100/day"; empty sets no limit.
        everybody: The same for all clients together.
    """

    def __init__(self, client: str, everybody: str) -> None:
        self._client = parse_many(client) if client else []
        self._everybody = parse_many(everybody) if everybody else []
        self._limiter = MovingWindowRateLimiter(MemoryStorage())
        self._lock = threading.Lock()

    def take(self, address: str) -> None:
        """Counts one question.

        Args:
            address: Who asks; an IPv6 client counts with its /64, since it owns all of that.

        Raises:
            RateLimited: A limit is reached; nothing is counted then.
        """
        client = _network(address)
        windows = [(item, (client,)) for item in self._client] + [(item, ()) for item in self._everybody]
        with self._lock:
            for item, keys in windows:
                if not self._limiter.test(item, *keys):
                    raise self._refusal(item, keys)
            for item, keys in windows:
                self._limiter.hit(item, *keys)

    def _refusal(self, item: RateLimitItem, keys: tuple[str, ...]) -> RateLimited:
        wait = max(1, math.ceil(self._limiter.get_window_stats(item, *keys).reset_time - time.time()))
        why = f"You have asked as often as is allowed here ({item})" if keys else "Too many people are asking just now"
        return RateLimited(f"{why}. Ask again in {_duration(wait)}.", wait)


class Budget:
    """Tokens that may be generated in a day, which begins at midnight UTC.

    An answer takes as many as it may have when it is asked for, and gives back those that it did not need.

    Args:
        tokens: Per day; 0 sets no limit.
        now: The time, with its zone.
    """

    def __init__(self, tokens: int, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self.tokens = tokens
        self._now = now
        self._day, self._taken = now().date(), 0
        self._lock = threading.Lock()

    def take(self, tokens: int) -> None:
        """Takes tokens for an answer; the last one of a day may pass the budget by what it takes.

        Raises:
            BudgetSpent: None are left.
        """
        now = self._now().astimezone(UTC)
        with self._lock:
            if now.date() != self._day:
                self._day, self._taken = now.date(), 0
            if self.tokens and self._taken >= self.tokens:
                midnight = datetime.combine(now.date() + timedelta(days=1), datetime.min.time(), UTC)
                wait = math.ceil((midnight - now).total_seconds())
                raise BudgetSpent(
                    "All that this page can spend on answers today has been used up. "
                    f"Please come back after midnight UTC, in {_duration(wait)}.",
                    wait,
                )
            self._taken += tokens

    def give_back(self, tokens: int) -> None:
        """Returns tokens that were taken and not needed; those of yesterday are forgotten."""
        with self._lock:
            self._taken = max(0, self._taken - tokens)


def _network(address: str) -> str:
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv4Address):
        return address
    return str(found.ipv4_mapped or ipaddress.IPv6Interface((found, 64)).network)


def _duration(seconds: int) -> str:
    size, name = (3600, "hour") if seconds >= 3600 else (60, "minute") if seconds >= 60 else (1, "second")
    count = math.ceil(seconds / size)
    return f"{count} {name}{'' if count == 1 else 's'}"
