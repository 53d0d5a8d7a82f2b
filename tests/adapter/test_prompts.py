"""How a conversation becomes tokens below any template: texts cleaned, answers marked, and what nobody may type."""

import copy
import logging

import pytest
from transformers import PreTrainedTokenizerBase

from app.adapter import prompts
from tests.adapter.test_templates import with_own, with_template

ASKED = [{"role": "user", "content": "What is gout?"}]
ONCE = [*ASKED, {"role": "assistant", "content": "Crystals of urate."}]
TWICE = [*ONCE, {"role": "user", "content": "And its cure?"}, {"role": "assistant", "content": "Rest."}]
# A line break after the end of each answer, as in ChatML; and a prompt that says that the assistant is next.
LINES = (
    "{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>{{ m.content }}<|eot_id|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>{% endif %}"
)
# An earlier answer is cut short, so that no prompt of a second question is the beginning of the whole.
FORGETFUL = (
    "{% for m in messages %}{% if m.role == 'assistant' %}{{ m.content if loop.last else '...' }}<|eot_id|>"
    "{% else %}({{ m.role }}) {{ m.content }}{% endif %}{% endfor %}"
)


def marked(tokenizer: PreTrainedTokenizerBase, row: tuple[list[int], list[int]]) -> str:
    """What of a row is to be learned."""
    ids, mask = row
    assert len(ids) == len(mask) and set(mask) <= {0, 1}
    return tokenizer.decode([token for token, learned in zip(ids, mask, strict=True) if learned])


@pytest.fixture(scope="module")
def medical(demo_tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    return with_template(demo_tokenizer, "medical")


@pytest.fixture(scope="module")
def lines(demo_tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    return with_own(demo_tokenizer, LINES)


@pytest.mark.parametrize(
    ("typed", "held"),
    [
        ("a\r\nb\rc\x85d\u2028e\u2029f\n\ng", "a\nb\nc\nd\ne\nf\n\ng"),
        ("a\x0bb\x0cc\td", "a b c\td"),
        ("\ufeffa\x00b\x1fc\x7fd\u200be\u202ef\u2066g\u2060h", "abcdefgh"),
        ("\u0645\u06cc\u200c\u062e \U0001f468\u200d\u2695", "\u0645\u06cc\u200c\u062e \U0001f468\u200d\u2695"),  # joiners join
        (" \n\u200b a \x00\n", "a"),
    ],
)
def test_a_text_is_held_without_what_nobody_sees(typed: str, held: str) -> None:
    assert prompts.clean_text(typed) == held == prompts.clean_text(held)
    said = {"role": "user", "content": typed, "weight": 0}
    assert prompts.cleaned([said]) == [{"role": "user", "content": held, "weight": 0}]
    assert said["content"] == typed, "the conversation itself stays as it is"


def test_a_template_that_says_itself_what_an_answer_is_has_marks(
    demo_tokenizer: PreTrainedTokenizerBase, medical: PreTrainedTokenizerBase, lines: PreTrainedTokenizerBase
) -> None:
    assert prompts.has_marks(medical) and not prompts.has_marks(lines)
    other = copy.copy(demo_tokenizer)
    for template, has in (("{%-generation-%}", True), ("{% generation %}", True), ("{% generations %}", False), ("generation", False)):
        other.chat_template = template
        assert prompts.has_marks(other) is has


def test_a_prompt_waits_for_the_assistant_and_a_conversation_does_not(lines: PreTrainedTokenizerBase) -> None:
    next_one = "<|start_header_id|>assistant<|end_header_id|>"
    assert lines.decode(prompts.prompt_ids(lines, ASKED)).endswith(f"<|eot_id|>\n{next_one}")
    assert lines.decode(prompts.encode(lines, ONCE)[0]).endswith("Crystals of urate.<|eot_id|>\n")


def test_an_answer_is_marked_up_to_the_token_that_ends_it_and_no_further(lines: PreTrainedTokenizerBase) -> None:
    for messages, learned in ((ONCE, "Crystals of urate.<|eot_id|>"), (TWICE, "Crystals of urate.<|eot_id|>Rest.<|eot_id|>")):
        ids, mask = prompts.encode(lines, messages)
        assert marked(lines, (ids, mask)) == learned
        assert prompts.rows(lines, messages) == [(ids, mask)]
        prompt = prompts.prompt_ids(lines, messages[:-1])
        assert ids[: len(prompt)] == prompt and mask[len(prompt)] == 1


def test_the_templates_own_marks_are_taken(medical: PreTrainedTokenizerBase) -> None:
    loose = [{**message, "content": f"\ufeff {message['content']}\r\n"} for message in TWICE]
    ids, mask = prompts.encode(medical, loose)
    end = medical.eos_token
    assert marked(medical, (ids, mask)) == f"Crystals of urate.{end}Rest.{end}"
    assert prompts.rows(medical, TWICE) == [prompts.encode(medical, TWICE)] == [(ids, mask)]


def test_an_answer_without_an_end_is_marked_whole_and_stops_nothing(demo_tokenizer: PreTrainedTokenizerBase) -> None:
    plain = with_own(demo_tokenizer, "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}")
    assert marked(plain, prompts.encode(plain, ONCE)) == "[assistant] Crystals of urate.\n"
    assert prompts.stop_token(plain) is None


def test_answers_that_no_row_can_hold_together_have_a_row_each(demo_tokenizer: PreTrainedTokenizerBase) -> None:
    forgetful = with_own(demo_tokenizer, FORGETFUL)
    assert marked(forgetful, prompts.encode(forgetful, TWICE)) == "Rest.<|eot_id|>"
    rows = prompts.rows(forgetful, TWICE)
    assert [marked(forgetful, row) for row in rows] == ["Crystals of urate.<|eot_id|>", "Rest.<|eot_id|>"]
    assert rows[0] == prompts.encode(forgetful, ONCE)
    assert len(prompts.rows(forgetful, ONCE)) == 1


def test_the_token_that_ends_an_answer_is_the_templates(
    demo_tokenizer: PreTrainedTokenizerBase, medical: PreTrainedTokenizerBase, lines: PreTrainedTokenizerBase
) -> None:
    assert prompts.stop_token(medical) == medical.eos_token_id
    assert prompts.stop_token(lines) == lines.convert_tokens_to_ids("<|eot_id|>")
    twice = with_own(demo_tokenizer, LINES.replace("<|eot_id|>\n", "<|eot_id|><|end_of_text|>\n"))
    assert prompts.stop_token(twice) == twice.convert_tokens_to_ids("<|end_of_text|>"), "of several the last"


def test_nobody_may_type_a_token_that_steers_and_everybody_white_space_and_markup(demo_tokenizer: PreTrainedTokenizerBase) -> None:
    own = set(map(str, demo_tokenizer.added_tokens_decoder.values()))
    assert set(prompts.controls(demo_tokenizer).values()) == own
    more = copy.deepcopy(demo_tokenizer)
    more.add_tokens(["   ", "\u2581\u2581", "<table>", "</h2>", "[control]", "<Table>"])
    more.add_tokens(["<b>"], special_tokens=True)
    more.add_tokens(["<i>"])
    found = prompts.controls(more)
    assert set(found.values()) == own | {"[control]", "<Table>", "<b>"}
    assert all(more.convert_ids_to_tokens(number) == text for number, text in found.items())
    more.pad_token = "<i>"
    assert set(prompts.controls(more).values()) == own | {"[control]", "<Table>", "<b>", "<i>"}, "padding is one whatever it looks like"


def test_how_long_a_prompt_may_be_is_said_elsewhere(lines: PreTrainedTokenizerBase) -> None:
    short, said = copy.deepcopy(lines), []
    short.model_max_length = 5
    handler = logging.Handler()
    handler.emit = said.append
    logging.getLogger("transformers").addHandler(handler)
    try:
        prompts.encode(short, TWICE)
        prompts.prompt_ids(short, ASKED)
    finally:
        logging.getLogger("transformers").removeHandler(handler)
    assert said == []
