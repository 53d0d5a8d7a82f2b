"""How a conversation becomes tokens, in one way for training, evaluation and chat. Knows tokenizers and no model.

What the prompt looks like is the business of the chat template that the tokenizer carries; here is what lies below any template.
"""

import re
from functools import lru_cache
from itertools import pairwise
from typing import Any

from transformers import AddedToken, PreTrainedTokenizerBase

Message = dict[str, str]

_LINE_ENDS = re.compile("\r\n|[\r\x85\u2028\u2029]")
_SPACES = re.compile("[\x0b\x0c]")
# What shows as nothing and confuses readers and tokenizers: control characters, directions forced on what follows, word joiners. Not
# the joiners and marks of U+200C to U+200F, without which Persian, Indic, Hebrew and Arabic texts and many emoji are others.
_UNSEEN = re.compile("[\x00-\x08\x0e-\x1f\x7f\u200b\u202a-\u202e\u2060-\u206f\ufeff]")
_HALVES = re.compile("[\ud800-\udfff]")  # halves of a sign that JSON can write and no tokenizer reads
_MARKS = re.compile(r"\{%-?\s*generation\s*-?%\}")
_MARKUP = re.compile(r"</?[a-z]+[1-6]?>")
_WHITESPACE = "\u2581 \t\n\r"  # the first is how sentencepiece writes a space


def clean_text(text: str) -> str:
    """A text as every prompt holds it: one kind of line break, whole and seen characters, trimmed; doing it twice changes nothing."""
    return _UNSEEN.sub("", _SPACES.sub(" ", _LINE_ENDS.sub("\n", _HALVES.sub("\ufffd", text)))).strip()


def cleaned(messages: list[Message]) -> list[Message]:
    """A conversation with its texts cleaned."""
    return [message | {"content": clean_text(message["content"])} for message in messages]


def prompt_ids(tokenizer: PreTrainedTokenizerBase, messages: list[Message]) -> list[int]:
    """Token ids of a conversation that waits for the assistant: a list of T ints, BOS first where the base has one."""
    return _ids(tokenizer, messages, waiting=True)


def has_marks(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the chat template itself says which part of a conversation is an answer."""
    return bool(_MARKS.search(str(tokenizer.get_chat_template())))


def encode(tokenizer: PreTrainedTokenizerBase, messages: list[Message]) -> tuple[list[int], list[int]]:
    """A whole conversation as tokens, and which of them a model is to learn.

    The template's `{% generation %}` marks tell, where it has any. Otherwise an answer is what the conversation has more than the prompt
    before it, up to the token that ends it. Where a template writes earlier turns in another way than the last one, so that a prompt is
    no beginning of the conversation, that answer is not marked: `rows` makes a row of its own of it.

    Returns:
        Two lists of T ints: token ids, and 1 for each token of an answer and the token that ends it, else 0.
    """
    if has_marks(tokenizer):
        encoded = tokenizer.apply_chat_template(cleaned(messages), return_dict=True, return_assistant_tokens_mask=True)
        return list(encoded["input_ids"]), list(encoded["assistant_masks"])
    ids = _ids(tokenizer, messages)
    mask = [0] * len(ids)
    for index in (index for index, message in enumerate(messages) if message["role"] == "assistant"):
        prompt = _ids(tokenizer, messages[:index], waiting=True)
        answered = ids if index == len(messages) - 1 else _ids(tokenizer, messages[: index + 1])
        if answered[: len(prompt)] == prompt and ids[: len(answered)] == answered:
            ends = [place for place in range(len(prompt), len(answered)) if answered[place] in controls(tokenizer)]
            end = ends[-1] + 1 if ends else len(answered)
            mask[len(prompt) : end] = [1] * (end - len(prompt))
    return ids, mask


def rows(tokenizer: PreTrainedTokenizerBase, messages: list[Message]) -> list[tuple[list[int], list[int]]]:
    """What `encode` returns, so often that each answer is marked once: in one row where that can be, else in a row for each answer.

    An answer that no prompt leads up to, even where it is the last one, is marked nowhere.
    """
    ids, mask = encode(tokenizer, messages)
    answers = [index for index, message in enumerate(messages) if message["role"] == "assistant"]
    marked = sum(here > before for before, here in pairwise([0, *mask]))
    if marked == len(answers) or len(answers) == 1:
        return [(ids, mask)]
    found = []
    for index in answers:
        start = len(prompt_ids(tokenizer, messages[:index]))
        ids, mask = encode(tokenizer, messages[: index + 1])
        found.append((ids, [0] * start + mask[start:]))
    return found


def stop_token(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The token that ends an answer in this tokenizer's template; None where answers end in nothing that could stop a model."""
    ids, mask = encode(tokenizer, [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}])
    trained = [token for token, marked in zip(ids, mask, strict=True) if marked]
    return trained[-1] if trained and trained[-1] in controls(tokenizer) else None


def controls(tokenizer: PreTrainedTokenizerBase) -> dict[int, str]:
    """The tokens that steer a model and that nobody may type, by id.

    Every added token is one but white space, and markup such as `<table>` that the tokenizer does not call special: a person who
    writes HTML means it.
    """
    return _controls(tokenizer, len(tokenizer), frozenset(tokenizer.all_special_tokens))


@lru_cache(maxsize=8)
def _controls(tokenizer: PreTrainedTokenizerBase, size: int, named: frozenset[str]) -> dict[int, str]:
    return {number: str(token) for number, token in tokenizer.added_tokens_decoder.items() if _steers(token, named)}


def _steers(token: AddedToken, named: frozenset[str]) -> bool:
    text = str(token)
    return bool(text.strip(_WHITESPACE)) and (token.special or text in named or not _MARKUP.fullmatch(text))


def _ids(tokenizer: PreTrainedTokenizerBase, messages: list[Message], waiting: bool = False) -> list[int]:
    quiet = {"verbose": False}  # whether a prompt is too long is said elsewhere
    encoded: Any = tokenizer.apply_chat_template(cleaned(messages), add_generation_prompt=waiting, return_dict=True, tokenizer_kwargs=quiet)
    return list(encoded["input_ids"])
