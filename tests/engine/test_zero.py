"""The generator for ZeroGPU, off the platform: with the real package `spaces`, and with a call that pickles as the platform does."""

import inspect
import pickle
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import spaces as platform

from app.engine import zero
from app.engine.answer import GenerationRequest
from app.engine.model import LoadedModel, load
from app.engine.zero import End, ZeroGenerator, duration, spaces
from app.errors import AdapterError, AdapterNotFound, Busy, NotReady
from tests.answers import wait_until

QUESTION = [{"role": "user", "content": "What is asthma?"}]


@pytest.fixture(scope="module")
def own(adapter: str) -> LoadedModel:
    """A model of these tests' own: it is cast to bfloat16."""
    return load(adapter, "cpu")


def pickling_gpu(**options: Any) -> Callable[..., Any]:
    """Like the platform's wrapper: arguments and results travel as pickles, and a closed caller closes the worker's generator."""

    def wrap(task: Callable[..., Any]) -> Callable[..., Any]:
        def call(request: GenerationRequest) -> Iterator[Any]:
            assert options["duration"](request) > 0
            steps = task(pickle.loads(pickle.dumps(request)))
            try:
                for step in steps:
                    yield pickle.loads(pickle.dumps(step))
            finally:
                steps.close()

        return call

    return wrap


@pytest.fixture(params=[platform.GPU, pickling_gpu], ids=["spaces", "pickles"])
def generator(request: pytest.FixtureRequest, own: LoadedModel) -> Iterator[ZeroGenerator]:
    made = ZeroGenerator(lambda name: own, own.name, request.param, device="cpu")
    yield made
    made.close()
    if made._worker:
        made._worker.close()


def test_an_answer_comes_in_pieces_and_with_its_numbers(generator: ZeroGenerator) -> None:
    ended = []
    generator.on_finish = ended.append
    answer = generator.submit(GenerationRequest(QUESTION, max_new_tokens=12))
    pieces = list(answer)
    assert len(pieces) > 1
    assert "".join(pieces) == answer.text
    assert (answer.completion_tokens, answer.finish_reason) == (12, "length")
    assert answer.prompt_tokens > 10
    assert ended == [answer]
    assert generator.queue_length == 0
    assert generator.loaded.dtype == "bfloat16"
    base = generator.submit(GenerationRequest(QUESTION, use_adapter=False, max_new_tokens=12))
    assert "".join(base) != answer.text


def test_stop_ends_the_worker_and_the_next_answer_comes(generator: ZeroGenerator) -> None:
    answer = generator.submit(GenerationRequest(QUESTION, use_adapter=False, temperature=2.0, max_new_tokens=400))
    next(iter(answer))
    answer.stop()
    list(answer)
    assert answer.finish_reason == "stopped"
    wait_until(lambda: generator._worker.queue_length == 0)
    assert "".join(generator.submit(GenerationRequest(QUESTION, max_new_tokens=4)))


def test_a_platform_that_refuses_is_one_sentence_and_keeps_nobody_out(own: LoadedModel) -> None:
    def refusing(**_: Any) -> Callable[..., Any]:
        def call(request: GenerationRequest) -> Iterator[str]:
            raise RuntimeError("<a href='https://example.org'>subscribe</a>")
            yield ""

        return lambda task: call

    generator = ZeroGenerator(lambda name: own, own.name, refusing, device="cpu")
    with pytest.raises(Busy, match="No GPU could be had"):
        list(generator.submit(GenerationRequest(QUESTION)))
    assert generator.queue_length == 0


def test_a_full_queue_another_adapter_and_a_server_that_ends_are_refused(own: LoadedModel) -> None:
    hold = threading.Event()

    def holding(**_: Any) -> Callable[..., Any]:
        def call(request: GenerationRequest) -> Iterator[End]:
            hold.wait()
            yield End("stop", 1, 1, None)

        return lambda task: call

    generator = ZeroGenerator(lambda name: own, own.name, holding, device="cpu", max_queue=0)
    with pytest.raises(AdapterError, match="restart"):
        generator.submit(GenerationRequest(QUESTION, adapter="other"))
    first = generator.submit(GenerationRequest(QUESTION))
    with pytest.raises(Busy):
        generator.submit(GenerationRequest(QUESTION))
    generator.refuse()
    with pytest.raises(NotReady, match="shutting down"):
        generator.submit(GenerationRequest(QUESTION))
    hold.set()
    assert list(first) == []
    assert first.finish_reason == "stop"


def test_a_model_that_cannot_be_opened_says_why() -> None:
    def load(name: str) -> LoadedModel:
        raise AdapterNotFound("There is no adapter there.")

    generator = ZeroGenerator(load, "nowhere", platform.GPU, device="cpu")
    assert (generator.status, generator.loaded) == ("failed", None)
    with pytest.raises(NotReady, match="no adapter"):
        generator.wait_until_ready()


def test_the_duration_grows_with_the_tokens_asked_for_and_stays_within_the_deadline() -> None:
    short, long = GenerationRequest(QUESTION, max_new_tokens=50), GenerationRequest(QUESTION, max_new_tokens=500)
    assert duration(short) < duration(long)
    assert duration(replace(long, deadline=1.0)) == zero.START_SECONDS + 1


def test_the_package_is_used_on_the_platform_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SPACES_ZERO_GPU", raising=False)
    assert spaces() is None
    monkeypatch.setenv("SPACES_ZERO_GPU", "true")
    assert spaces() is platform


def test_what_is_wrapped_is_a_synchronous_generator_as_the_platform_wants() -> None:
    assert inspect.isgeneratorfunction(ZeroGenerator._steps)
