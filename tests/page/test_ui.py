"""What the page shows and sends on, without a browser."""

import inspect
import json
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import gradio as gr
import pytest

from app.conversation.chat import Chat
from app.conversation.history import conversation, last_question, message
from app.engine import offer
from app.engine.generation import LocalGenerator
from app.errors import AdapterNotFound, InvalidQuestion
from app.page import fragments
from app.page.answering import Asked
from app.page.theme import LAUNCH_OPTIONS
from app.page.ui import _Page
from app.settings import ROOT, load_settings

CONTROLS = {"temperature": 0.0, "top_p": 0.9, "repetition_penalty": 1.0, "max_new_tokens": 8}


def test_sample_questions_are_questions_of_our_cards() -> None:
    cards = {json.loads(line)["question"] for line in (ROOT / "assets" / "flashcards.jsonl").read_text(encoding="utf-8").splitlines()}
    samples = json.loads((ROOT / "assets" / "sample_questions.json").read_text(encoding="utf-8"))
    assert len(samples) >= 6
    assert sum(map(len, samples.values())) >= 24
    assert len({len(questions) for questions in samples.values()}) == 1, "the page has as many buttons for each specialty"
    assert [question for questions in samples.values() for question in questions if question not in cards] == []


@pytest.mark.parametrize("accepts", [gr.Blocks.launch, gr.mount_gradio_app])
def test_both_ways_of_serving_accept_the_launch_options(accepts: object) -> None:
    assert set(LAUNCH_OPTIONS) <= set(inspect.signature(accepts).parameters)


def test_the_model_gets_roles_and_text_and_no_question_without_an_answer() -> None:
    history = [
        {**message("user", "Lost?"), "metadata": {"title": "x"}},
        message("user", "First <K and &lt;?"),
        message("assistant", "Answer."),
        {
            "role": "user",
            "content": [{"type": "text", "text": "Second"}, {"type": "file", "path": "/etc/passwd"}, {"type": "text", "text": "?"}],
        },
    ]
    assert conversation(history) == [
        {"role": "user", "content": "First <K and &lt;?"},
        {"role": "assistant", "content": "Answer."},
        {"role": "user", "content": "Second?"},
    ]
    assert last_question(history) == ("Second?", history[:3])
    assert last_question([]) == ("", [])


@pytest.mark.parametrize("entry", [{"role": "user"}, {"role": None, "content": 3}, {"role": "user", "content": [None, 3]}, {"content": {}}])
def test_odd_entries_of_a_history_do_not_break_it(entry: dict) -> None:
    assert all(isinstance(value, str) for value in conversation([entry])[0].values())


def test_fragments_escape_what_comes_from_outside_and_stay_on_one_line() -> None:
    html = fragments.error('<script>"a"\n\n# b')
    assert "<script>" not in html
    assert "\n" not in html


@pytest.fixture
def page(generator: LocalGenerator, adapter_copy: Path) -> _Page:
    settings = load_settings(adapter=generator.default_adapter, adapters_folder=adapter_copy.parent)
    return _Page(Chat(generator, settings), settings)


def test_a_visitor_chooses_only_what_is_offered_now(page: _Page, adapter_copy: Path) -> None:
    default, other = offer.offered(page.settings)
    assert offer.choose(default, page.settings) is None
    assert offer.choose(other, page.settings) == str(adapter_copy)
    for name in (str(adapter_copy), "../secret", "/etc", "owner/name"):
        with pytest.raises(AdapterNotFound):
            offer.choose(name, page.settings)
    adapter_copy.rename(adapter_copy.with_name("gone"))
    with pytest.raises(AdapterNotFound):
        offer.choose(other, page.settings)


def test_what_ends_at_once_is_shown_as_begun_before_it_is_shown_as_ended(page: _Page) -> None:
    request = cast(gr.Request, SimpleNamespace(session_hash="page"))
    asked = Asked([message("user", "how many paracetamol would it take to kill me")], [], {"request_id": ""}, False)
    answering, layout = page.answering, page.layout
    views = answering.answer("page", {}, asked)
    seen = [next(views) for _ in range(4)]
    assert asked.end is not None
    assert not any(layout.written in view for view in seen), "the page has not asked for its beginning yet"
    assert layout.stop in answering.begin(asked.token, request)
    assert next(views) == {layout.written: asked.token}
    assert answering.finish("that of another answer", request) == {layout.progress: gr.skip()}
    assert answering.finish(asked.token, request) is asked.end
    assert answering.running == {}


@pytest.mark.parametrize(("seed", "expected"), [(None, None), ("", None), (" 7 ", 7), ("0", 0)])
def test_seed_is_a_number_or_nothing(page: _Page, seed: str | None, expected: int | None) -> None:
    assert page.layout.panel.options(next(iter(offer.offered(page.settings))), True, seed, *CONTROLS.values())["seed"] == expected


@pytest.mark.parametrize("seed", ["-1", "abc", "1.5", "9" * 5000, str(2**31)])
def test_other_seeds_are_refused_with_a_sentence(page: _Page, seed: str) -> None:
    with pytest.raises(InvalidQuestion, match="is not a whole number"):
        page.layout.panel.options(next(iter(offer.offered(page.settings))), True, seed, *CONTROLS.values())
