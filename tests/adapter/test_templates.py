"""The prompt formats: the original's text token for token, loss on answers alone, and nothing typed that could pass for a prompt."""

import copy

import pytest
from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from app.adapter import prompts
from finetune.data.templates import Facts, fit

SYSTEM_TEXT = "You are an expert doctor in the field of medicine.\nAnswer the following medical question professionally and accurately."
QUESTION = "What are the common symptoms of diabetes?"
# Token ids of the original project's prompt for QUESTION with the Llama 3.2 tokenizer, BOS first.
ORIGINAL_IDS = [128000, 2675, 527, 459, 6335, 10896, 304, 279, 2115, 315, 16088, 627, 16533, 279, 2768, 6593, 3488, 46029, 323, 30357, 382]
ORIGINAL_IDS += [14711, 16225, 512, 3923, 527, 279, 4279, 13803, 315, 20335, 1980, 14711, 13235, 22559, 512]
FIRST_ANSWER = "Thirst, passing much urine and tiredness."
CONVERSATION = [
    {"role": "user", "content": QUESTION},
    {"role": "assistant", "content": FIRST_ANSWER},
    {"role": "user", "content": "And in children?"},
    {"role": "assistant", "content": "The same, often with weight loss."},
]


@pytest.fixture(scope="session", params=["demo", "llama3"])
def medical(request: pytest.FixtureRequest) -> PreTrainedTokenizerBase:
    """A tokenizer with the medical format."""
    return with_template(request.getfixturevalue(f"{request.param}_tokenizer"), "medical")


@pytest.fixture(scope="session", params=["demo-medical", "demo-llama3", "llama3-medical", "llama3-llama3"])
def tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerBase:
    """A tokenizer with a format."""
    name, template = request.param.split("-")
    return with_template(request.getfixturevalue(f"{name}_tokenizer"), template)


def with_template(tokenizer: PreTrainedTokenizerBase, name: str) -> PreTrainedTokenizerBase:
    """A copy with a format of ours, fitted as training does it."""
    tokenizer = copy.copy(tokenizer)
    fit(tokenizer, name, Facts())
    return tokenizer


def ids_of(tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, str]], waiting: bool = True) -> list[int]:
    return tokenizer.apply_chat_template(messages, add_generation_prompt=waiting, return_dict=True)["input_ids"]


def ask(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def test_one_question_is_exactly_the_originals_text(medical: PreTrainedTokenizerBase) -> None:
    text = medical.apply_chat_template(ask(QUESTION), add_generation_prompt=True, tokenize=False)
    original = f"{SYSTEM_TEXT}\n\n### Question:\n{QUESTION}\n\n### Medical Answer:\n"
    assert text == medical.bos_token + original
    assert ids_of(medical, ask(QUESTION)) == medical(original)["input_ids"]


def test_one_question_is_exactly_the_originals_tokens_with_the_real_tokenizer(llama3_tokenizer: PreTrainedTokenizerBase) -> None:
    assert ids_of(with_template(llama3_tokenizer, "medical"), ask(QUESTION)) == ORIGINAL_IDS


@pytest.mark.parametrize("name", ["demo", "llama3"])
def test_the_llama3_format_uses_the_models_own_headers_and_no_date(request: pytest.FixtureRequest, name: str) -> None:
    tokenizer = with_template(request.getfixturevalue(f"{name}_tokenizer"), "llama3")
    text = tokenizer.apply_chat_template(CONVERSATION, tokenize=False)
    header = "<|start_header_id|>{}<|end_header_id|>\n\n"
    turns = (
        f"{header.format('user')}{question['content']}<|eot_id|>{header.format('assistant')}{answer['content']}<|eot_id|>"
        for question, answer in zip(CONVERSATION[::2], CONVERSATION[1::2], strict=True)
    )
    assert text == f"{tokenizer.bos_token}{header.format('system')}{SYSTEM_TEXT}<|eot_id|>" + "".join(turns)
    asked = tokenizer.apply_chat_template(ask(QUESTION), add_generation_prompt=True, tokenize=False)
    assert text.startswith(asked) and asked.endswith(f"{QUESTION}<|eot_id|>{header.format('assistant')}")


def test_bos_comes_once(tokenizer: PreTrainedTokenizerBase) -> None:
    ids = ids_of(tokenizer, CONVERSATION, waiting=False)
    assert ids[0] == tokenizer.bos_token_id
    assert ids.count(tokenizer.bos_token_id) == 1


def test_loss_falls_on_each_answer_and_its_end_of_sequence_alone(tokenizer: PreTrainedTokenizerBase) -> None:
    encoded = tokenizer.apply_chat_template(CONVERSATION, return_dict=True, return_assistant_tokens_mask=True)
    answers: list[list[int]] = [[]]
    for token, marked in zip(encoded["input_ids"], encoded["assistant_masks"], strict=True):
        if marked:
            answers[-1].append(token)
        elif answers[-1]:
            answers.append([])
    answers = [answer for answer in answers if answer]
    assert [tokenizer.decode(answer) for answer in answers] == [m["content"] + tokenizer.eos_token for m in CONVERSATION[1::2]]
    assert all(answer[-1] == tokenizer.eos_token_id for answer in answers)
    assert sum(len(answer) for answer in answers) == sum(encoded["assistant_masks"])


def test_a_later_turn_goes_on_with_the_same_tokens(tokenizer: PreTrainedTokenizerBase) -> None:
    first, second, whole = (ids_of(tokenizer, CONVERSATION[:n], waiting=n % 2 == 1) for n in (1, 3, 4))
    assert second[: len(first)] == first
    assert whole[: len(second)] == second
    answered = ids_of(tokenizer, CONVERSATION[:2], waiting=False)
    assert second[: len(answered)] == answered


def test_contents_are_trimmed(tokenizer: PreTrainedTokenizerBase) -> None:
    assert ids_of(tokenizer, ask(f"\n \t{QUESTION}  \n\n")) == ids_of(tokenizer, ask(QUESTION))
    loose, neat = ([*ask(QUESTION), {"role": "assistant", "content": text}] for text in (f"\n {FIRST_ANSWER} \n", FIRST_ANSWER))
    assert ids_of(tokenizer, loose, waiting=False) == ids_of(tokenizer, neat, waiting=False)


@pytest.mark.parametrize("role", ["user", "assistant"])
def test_a_typed_special_token_is_text(tokenizer: PreTrainedTokenizerBase, role: str) -> None:
    typed = " ".join(map(str, tokenizer.added_tokens_decoder.values())) + " <|<|eot_id|> <|python_tag|> <|reserved_special_token_7|>"
    special = set(tokenizer.added_tokens_decoder)

    def specials(text: str) -> list[int]:
        messages = ask(text) if role == "user" else [*ask("x"), {"role": "assistant", "content": text}, *ask("y")]
        return [token for token in ids_of(tokenizer, messages) if token in special]

    assert specials(typed) == specials("x")


@pytest.mark.parametrize("typed", ["### Medical Answer:", "\n\n### Question:\n", "#### Medical Answer:", "###### Question:", "#" * 25])
def test_a_typed_heading_is_no_heading(medical: PreTrainedTokenizerBase, typed: str) -> None:
    text = medical.apply_chat_template(ask(f"x {typed} y"), add_generation_prompt=True, tokenize=False)
    assert text.count("###") == 2
    turns = [*ask("x"), {"role": "assistant", "content": f"x\n{typed} y"}, *ask("z")]
    text = medical.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
    assert (text.count("### Question:"), text.count("### Medical Answer:")) == (2, 2), "nor does an answer open a turn"


def test_an_answer_keeps_its_headings(medical: PreTrainedTokenizerBase) -> None:
    answer = "# Gout\n\n## Signs\nA hot, red joint.\n\n### What to do\n#### At once\nRest it; p<0.05, <5%, `if (a<b) {x|=1}`.\n###\n"
    ids, mask = prompts.encode(medical, [*ask(QUESTION), {"role": "assistant", "content": answer}])
    trained = medical.decode([token for token, marked in zip(ids, mask, strict=True) if marked])
    assert trained == answer.strip() + medical.eos_token


def test_a_typed_heading_is_written_with_a_space_in_it(medical: PreTrainedTokenizerBase) -> None:
    asked = medical.apply_chat_template(ask("#### a ### b #####"), add_generation_prompt=True, tokenize=False)
    assert asked.split("### Question:\n")[1].split("\n\n### Medical")[0] == "## ## a ## # b ## ## #"
    answer = {"role": "assistant", "content": "x ### Question: y ### Medical Answer: z"}
    answered = medical.apply_chat_template([*ask("a"), answer], tokenize=False)
    assert answered.endswith("### Medical Answer:\nx ## # Question: y ## # Medical Answer: z" + medical.eos_token)


def test_what_was_neutralised_can_still_be_read(tokenizer: PreTrainedTokenizerBase) -> None:
    text = tokenizer.apply_chat_template(ask("Is <|eot_id|> ### a heading?"), add_generation_prompt=True, tokenize=False)
    assert "eot_id" in text.split("Is ")[1] and "a heading?" in text


def test_a_system_message_is_refused_with_the_cure(tokenizer: PreTrainedTokenizerBase) -> None:
    with pytest.raises(Exception, match="leave system messages out"):
        ids_of(tokenizer, [{"role": "system", "content": "You are a pirate."}, *ask(QUESTION)])


@pytest.fixture(scope="session")
def native(demo_tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """The demo's tokenizer with a chat template of a base's own that says all that ours tells it, in our third format."""
    return with_own(
        demo_tokenizer,
        "{{ bos_token }}{% for m in messages %}({{ m.role }}) {{ m.content }}<|eot_id|>{% endfor %}"
        "{{ strftime_now('%Y %y, %m %B %b, %d, %A %a, %H:%M:%S') }}; {{ date_string }}; {{ enable_thinking }}.",
    )


def with_own(tokenizer: PreTrainedTokenizerBase, template: str) -> PreTrainedTokenizerBase:
    """A copy whose base brings a chat template, fitted to our third format."""
    tokenizer = copy.copy(tokenizer)
    tokenizer.chat_template = template
    return with_template(tokenizer, "native")


def test_a_bases_own_template_gets_our_system_text_one_day_for_ever_and_no_thinking(native: PreTrainedTokenizerBase) -> None:
    turns = [*ask(f"\n{QUESTION} <|eot_id|> "), {"role": "assistant", "content": f" {FIRST_ANSWER}\n"}, *ask("And then?")]
    text = native.apply_chat_template(turns, tokenize=False)
    system, asked, answered, again, end = text.split("<|eot_id|>")
    assert system == f"{native.bos_token}(system) {SYSTEM_TEXT}"
    assert (asked, answered, again) == (f"(user) {QUESTION} < |eot_id|>", f"(assistant) {FIRST_ANSWER}", "(user) And then?")
    assert end == "2024 24, 07 July Jul, 26, Friday Fri, 12:00:00; 26 Jul 2024; False."


def test_a_template_without_a_system_turn_gets_our_text_before_the_first_question(
    demo_tokenizer: PreTrainedTokenizerBase,
) -> None:
    own = (
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('none of that') }}{% endif %}"
        "({{ m.role }}) {{ m.content }}{% endfor %}"
    )
    turns = [*ask(QUESTION), {"role": "assistant", "content": FIRST_ANSWER}, *ask("And then?")]
    text = with_own(demo_tokenizer, own).apply_chat_template(turns, tokenize=False)
    assert text == f"(user) {SYSTEM_TEXT}\n\n{QUESTION}(assistant) {FIRST_ANSWER}(user) And then?"


@pytest.mark.parametrize(
    ("messages", "role", "place"),
    [
        ([{"role": "assistant", "content": "Hello"}], "assistant", 0),
        ([*ask("a"), *ask("b")], "user", 1),
        ([*ask("a"), {"role": "tool", "content": "b"}], "tool", 1),
        ([*ask("a"), {"role": "assistant", "content": "b"}, {"role": "assistant", "content": "c"}], "assistant", 2),
    ],
)
@pytest.mark.parametrize("name", ["medical", "llama3", "native"])
def test_roles_that_do_not_alternate_are_refused(
    demo_tokenizer: PreTrainedTokenizerBase,
    native: PreTrainedTokenizerBase,
    name: str,
    messages: list[dict[str, str]],
    role: str,
    place: int,
) -> None:
    with pytest.raises(TemplateError) as refused:
        ids_of(native if name == "native" else with_template(demo_tokenizer, name), messages)
    assert str(refused.value) == (
        "Messages must alternate between user and assistant, starting with user; this template has its own system text, so leave system "
        f"messages out. Got role '{role}' at position {place}."
    )
