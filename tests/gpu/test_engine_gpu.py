"""The engine on a CUDA card, with the demo adapter: what the graphs say, what switching costs, what closing gives back."""

import gc
from functools import partial
from pathlib import Path
from weakref import WeakValueDictionary

import pytest
import torch

from app.engine.decoder import Decoder
from app.engine.generation import LocalGenerator
from app.engine.model import AGREEMENT, LoadedModel, load
from tests.answers import QUESTIONS, ask, text_of

pytestmark = pytest.mark.gpu

if not torch.cuda.is_available():
    pytest.skip("no CUDA card here", allow_module_level=True)


@pytest.fixture(scope="module")
def on_card(adapter: str) -> LoadedModel:
    loaded = load(adapter, "cuda")
    loaded.warm_up()
    return loaded


def test_the_decoder_is_used_with_kernels_of_our_own(on_card: LoadedModel) -> None:
    assert on_card.decoder is not None and on_card.decoder.with_kernels


@pytest.mark.parametrize("use_adapter", [True, False])
def test_each_step_says_what_the_model_says(on_card: LoadedModel, use_adapter: bool) -> None:
    ids = torch.tensor(on_card.contract.golden[1].prompt_ids * 6, device="cuda")[:300]
    on_card.model.set_adapter(on_card.adapter_name)
    with torch.inference_mode():
        if use_adapter:
            expected = on_card.model(input_ids=ids[None]).logits[0].float()
        else:
            with on_card.model.disable_adapter():
                expected = on_card.model(input_ids=ids[None]).logits[0].float()
    decoder = on_card.decoder
    decoder.use(on_card.adapter_name if use_adapter else None)
    for start in (5, 63, 64, 200):
        decoder.logits(ids[:start], 0)
        for place in range(start, start + 3):
            found = decoder.logits(ids[place : place + 1], place)[0].float()
            assert float((found - expected[place]).norm() / expected[place].norm()) < AGREEMENT["bfloat16"]


def test_switching_captures_nothing(adapter: str, adapter_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    captured = []
    capture = Decoder._capture
    monkeypatch.setattr(Decoder, "_capture", lambda *arguments: captured.append(arguments[1]) or capture(*arguments))
    generator = LocalGenerator(partial(load, decoders=WeakValueDictionary()), adapter)
    generator.wait_until_ready(120)
    warm = len(captured)
    assert warm >= 2
    options = [{}, {"use_adapter": False}, {"adapter": str(adapter_copy)}]
    first, second = ([text_of(generator.submit(ask(QUESTIONS[0], **option))) for option in options] for _ in range(2))
    assert first == second and first[0] == first[2] != first[1]
    assert len(captured) == warm
    generator.close()


def test_closing_gives_the_memory_back(adapter: str) -> None:
    """All but the work space that cuBLAS keeps for each stream: so the second time is measured against the first."""
    left = []
    for _ in range(3):
        generator = LocalGenerator(partial(load, decoders=WeakValueDictionary()), adapter)
        generator.wait_until_ready(120)
        text_of(generator.submit(ask(QUESTIONS[0])))
        generator.close()
        del generator
        gc.collect()
        torch.cuda.empty_cache()
        left.append(torch.cuda.memory_allocated())
    assert left[2] - left[0] < 2**20


def test_a_seed_repeats_a_sampled_answer_on_the_card(on_card: LoadedModel) -> None:
    generator = LocalGenerator(lambda name: on_card, on_card.name)
    generator.wait_until_ready(60)
    texts = [text_of(generator.submit(ask(temperature=2.0, top_p=1.0, seed=seed))) for seed in (7, 7, 8)]
    generator.close()
    assert texts[0] == texts[1] != texts[2]
