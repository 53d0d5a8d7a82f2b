"""What happens here, in numbers: Prometheus metrics for `/metrics`, and a line a minute for the owner.

Knows no HTTP and no page. A label is always one of a few words of ours, never anything that a visitor sent.
Format and naming: https://prometheus.io/docs/practices/naming/
"""

import logging
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from app.adapter.directory import public_name
from app.engine.answer import Answer
from app.engine.generation import gpu_memory
from app.engine.remote import Generator
from app.errors import UserError
from app.logs import EACH

each = logging.getLogger(EACH)

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
SPEEDS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)  # tokens a second
METHODS = {"GET", "HEAD", "POST", "OPTIONS"}
ROUTES = {"/", "/healthz", "/readyz", "/metrics", "/v1/models", "/v1/chat/completions", "/gradio_api/queue/join", "/gradio_api/queue/data"}


def known_method(method: str) -> str:
    """A method as it may be counted and logged: one that is not ours may be any word of anybody's."""
    return method if method in METHODS else "other"


@dataclass
class _Minute:
    """Sums since the last line for the owner."""

    answers: int = 0
    tokens: int = 0
    errors: int = 0
    longest_wait: float = 0.0


class Metrics:
    """Counts requests, answers and errors of one application.

    Args:
        generator: Asked for its queue and its model whenever somebody reads the metrics.
    """

    def __init__(self, generator: Generator) -> None:
        self._registry = CollectorRegistry()
        self._generator = generator
        self._minute, self._lock = _Minute(), threading.Lock()
        registry = self._registry
        self._requests = Counter("app_http_requests", "Requests answered.", ["method", "route", "status"], registry=registry)
        self._answers = Counter("app_answers", "Answers that ended, by model and by how they ended.", ["model", "end"], registry=registry)
        self._tokens = Counter("app_tokens", "Tokens read and written.", ["kind"], registry=registry)
        self._errors = Counter("app_errors", "Questions refused and answers failed, by kind.", ["kind"], registry=registry)
        self._wait = Histogram(
            "app_queue_wait_seconds", "From the question to the beginning of its answer.", buckets=SECONDS, registry=registry
        )
        self._first = Histogram("app_first_token_seconds", "From the question to the first token.", buckets=SECONDS, registry=registry)
        self._speed = Histogram("app_tokens_per_second", "Speed of each answer after its first token.", buckets=SPEEDS, registry=registry)
        self._registry.register(_State(generator))

    def request(self, method: str, path: str, status: int) -> None:
        """Counts a request; methods and paths that are not ours are counted together."""
        route = path if path in ROUTES else "page" if status < 400 else "other"
        self._requests.labels(known_method(method), route, str(status)).inc()

    def error(self, error: BaseException) -> None:
        """Counts a refused question or a failure by its class."""
        self._errors.labels(type(error).__name__).inc()
        with self._lock:
            self._minute.errors += 1

    @contextmanager
    def refusals(self) -> Iterator[None]:
        """Counts a `UserError` that leaves the block."""
        try:
            yield
        except UserError as error:
            self.error(error)
            raise

    def answer(self, answer: Answer) -> None:
        """Counts an answer that has ended, and logs a line with its numbers."""
        model, end = "adapter" if answer.request.use_adapter else "base", "error" if answer.error else answer.finish_reason or "stop"
        self._answers.labels(model, end).inc()
        self._tokens.labels("prompt").inc(answer.prompt_tokens)
        self._tokens.labels("completion").inc(answer.completion_tokens)
        wait = answer.started_at - answer.created_at if answer.started_at else None
        first = answer.first_token_at - answer.created_at if answer.first_token_at else None
        for histogram, value in ((self._wait, wait), (self._first, first), (self._speed, answer.tokens_per_second)):
            if value is not None:
                histogram.observe(value)
        if answer.error:
            self.error(answer.error)
        with self._lock:
            self._minute.answers += 1
            self._minute.tokens += answer.completion_tokens
            self._minute.longest_wait = max(self._minute.longest_wait, wait or 0.0)
        numbers = {"wait_seconds": wait, "first_token_seconds": first, "tokens_per_second": answer.tokens_per_second}
        facts: dict[str, object] = {key: round(value, 3) for key, value in numbers.items() if value is not None}
        facts |= {"model": model, "end": end, "prompt_tokens": answer.prompt_tokens, "completion_tokens": answer.completion_tokens}
        each.info("answer", extra={"request_id": answer.request.request_id, "facts": facts})

    def minute(self) -> str | None:
        """A sentence on what has happened since the last call; None when nothing has."""
        with self._lock:
            past, self._minute = self._minute, _Minute()
        if not (past.answers or past.errors):
            return None
        return (
            f"In the last minute: {past.answers} answers, {past.tokens:,} tokens, {past.errors} refused or failed, "
            f"longest wait {past.longest_wait:.1f} s; {self._generator.queue_length} under way now."
        )

    def text(self) -> bytes:
        """The metrics in Prometheus' text format."""
        return generate_latest(self._registry)


class _State(Collector):
    """What is true at the moment of reading."""

    def __init__(self, generator: Generator) -> None:
        self._generator = generator

    def collect(self) -> Iterable[Metric]:
        """Queue, memory, and which adapter answers."""
        loaded = self._generator.loaded
        yield GaugeMetricFamily("app_queue_length", "Answers waiting or running.", value=self._generator.queue_length)
        yield GaugeMetricFamily("app_ready", "1 when questions are answered.", value=float(self._generator.status == "ready"))
        memory = GaugeMetricFamily("app_gpu_memory_bytes", "GPU memory of this process, by kind.", labels=["kind"])
        for kind, value in gpu_memory().items():
            memory.add_metric([kind], value)
        yield memory
        if loaded is not None:
            facts = {"adapter": public_name(loaded.name), "base": public_name(loaded.base), "device": loaded.device, "dtype": loaded.dtype}
            facts |= {"adapter_commit": loaded.adapter_revision or "", "base_commit": loaded.base_revision or ""}
            yield InfoMetricFamily("app_adapter", "Which adapter answers.", facts)
