"""Conversations as tokens: how long they are, and which tokens carry loss. Opens tokenizers and templates, never a model."""

from itertools import pairwise
from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from app.adapter import prompts
from app.adapter.hub import fetch, resolve_base
from app.errors import ConfigError
from finetune.data.sources import Example, Message
from finetune.data.templates import Facts, fit, read_facts
from finetune.data.turns import has_loss

# What is fetched of a base to know how it reads and writes, and under which licence.
SMALL_FILES = ["tokenizer*", "special_tokens_map.json", "added_tokens.json", "*config.json", "chat_template*", "*.md", "LICEN[CS]E*"]
CHUNK = 512  # conversations tokenised at once

Row = dict[str, list[int]]


def find_base_files(base: str, revision: str | None) -> Path:
    """The folder of a base model, or of its small files alone where it lies on the Hub.

    Raises:
        ConfigError: There is no such folder.
        UserError: The Hub does not answer.
    """
    folder = resolve_base(base, Path.cwd())
    if folder is None and (base.startswith((".", "/", "~")) or base.count("/") > 1 or Path(base).exists()):
        raise ConfigError(f"There is no base model in the folder {base}. Give a folder with a config.json, or a hub id, with --base.")
    return folder or fetch(base, revision, SMALL_FILES)


def open_tokenizer(base: str, revision: str | None, template: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a base model with one of our prompt formats; nothing large of the model is fetched.

    Args:
        base: A folder or a hub id.
        revision: Commit, branch or tag on the Hub.
        template: Name of a file in finetune/templates.

    Raises:
        ConfigError: The folder holds no tokenizer, or one that the format does not go with.
        UserError: The Hub does not answer.
    """
    folder = find_base_files(base, revision)
    tokenizer, _ = open_fitted(folder, base, template)
    return tokenizer


def open_fitted(folder: Path, base: str, template: str) -> tuple[PreTrainedTokenizerBase, Facts]:
    """As `open_tokenizer`, of a folder, with what else its files say; `base` is its name for people."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # of a file that is cut off the library tells by `Exception` itself
        raise ConfigError(f"The base model {base} has no tokenizer that can be opened. Restore its tokenizer.json.") from error
    if not tokenizer.is_fast:
        raise ConfigError(f"The base model {base} has no tokenizer.json. Take a repository of it that has one.")
    facts = read_facts(folder)
    fit(tokenizer, template, facts)
    return tokenizer, facts


def tokenize(tokenizer: PreTrainedTokenizerBase, messages: list[Message]) -> Row:
    """Token ids of a whole conversation, and labels that are -100 everywhere but on answers and the token that ends each.

    Returns:
        `input_ids`, `labels` and `attention_mask`, each a list of T ints.
    """
    ids, mask = prompts.encode(tokenizer, messages)
    return _row(ids, _learned(messages, mask))


def tokenize_answers(tokenizer: PreTrainedTokenizerBase, messages: list[Message]) -> list[Row]:
    """As `tokenize`, in as many rows as it takes for every answer to carry loss: one, but where the template cuts earlier turns short."""
    return [_row(ids, mask) for ids, mask in _rows(tokenizer, messages)]


def _rows(tokenizer: PreTrainedTokenizerBase, messages: list[Message]) -> list[tuple[list[int], list[int]]]:
    found = prompts.rows(tokenizer, messages)
    if len(found) == 1:
        return [(found[0][0], _learned(messages, found[0][1]))]
    answers = [message for message in messages if message["role"] == "assistant"]
    return [row for row, answer in zip(found, answers, strict=True) if has_loss(answer)]


def _learned(messages: list[Message], mask: list[int]) -> list[int]:
    """The mask of a conversation without the answers that are not to be learned (`weight` 0): of its runs of ones, theirs are cleared."""
    answers = [message for message in messages if message["role"] == "assistant"]
    if all(map(has_loss, answers)):
        return mask
    starts = [place for place, (before, here) in enumerate(pairwise([0, *mask])) if here > before]
    ends = [place for place, (here, after) in enumerate(pairwise([*mask, 0])) if here > after]
    left = [0] * len(mask)
    for start, end, answer in zip(starts, ends, answers, strict=True):
        left[start : end + 1] = [int(has_loss(answer))] * (end + 1 - start)
    return left


def _row(ids: list[int], mask: list[int]) -> Row:
    labels = [token if marked else -100 for token, marked in zip(ids, mask, strict=True)]
    return {"input_ids": ids, "labels": labels, "attention_mask": [1] * len(ids)}


def measure(tokenizer: PreTrainedTokenizerBase, examples: list[Example]) -> list[tuple[int, int]]:
    """For each conversation its length in tokens, prompt and all, and how many of them carry loss."""
    if not prompts.has_marks(tokenizer):
        found = [_rows(tokenizer, example.messages) for example in examples]
        return [(max(len(ids) for ids, _ in rows), sum(sum(mask) for _, mask in rows)) for rows in found]
    sizes = []
    for start in range(0, len(examples), CHUNK):
        given = [example.messages for example in examples[start : start + CHUNK]]
        part = [prompts.cleaned(messages) for messages in given]
        encoded = tokenizer.apply_chat_template(part, return_dict=True, return_assistant_tokens_mask=True)
        made = zip(encoded["input_ids"], encoded["assistant_masks"], given, strict=True)
        sizes += [(len(ids), sum(_learned(messages, mask))) for ids, mask, messages in made]
    return sizes
