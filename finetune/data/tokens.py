"""Conversations as tokens: how long they are, and which tokens carry loss. Opens tokenizers and templates, never a model."""

from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from app.adapter.hub import fetch, resolve_base
from app.errors import ConfigError
from finetune.config import TEMPLATES
from finetune.data.sources import Example, Message

TOKENIZER_FILES = ["tokenizer*.json", "special_tokens_map.json", "config.json"]
CHUNK = 512  # conversations tokenised at once


def open_tokenizer(base: str, revision: str | None, template: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a base model with one of our chat templates; nothing else of the model is fetched.

    Args:
        base: A folder or a hub id.
        revision: Commit, branch or tag on the Hub.
        template: Name of a file in finetune/templates.

    Raises:
        ConfigError: The folder holds no tokenizer.
        UserError: The Hub does not answer.
    """
    folder = resolve_base(base, Path.cwd())
    if folder is None and (base.startswith((".", "/", "~")) or base.count("/") > 1 or Path(base).exists()):
        raise ConfigError(f"There is no base model in the folder {base}. Give a folder with a config.json, or a hub id, with --base.")
    folder = folder or fetch(base, revision, TOKENIZER_FILES)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except Exception as error:  # of a file that is cut off the library tells by `Exception` itself
        raise ConfigError(f"The base model {base} has no tokenizer that can be opened. Restore its tokenizer.json.") from error
    tokenizer.chat_template = (TEMPLATES / f"{template}.jinja").read_text(encoding="utf-8")
    return tokenizer


def tokenize(tokenizer: PreTrainedTokenizerBase, messages: list[Message]) -> dict[str, list[int]]:
    """Token ids of a whole conversation, and labels that are -100 everywhere but on answers and their end-of-sequence token.

    Returns:
        `input_ids`, `labels` and `attention_mask`, each a list of T ints.
    """
    encoded = tokenizer.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
    ids, mask = list(encoded["input_ids"]), encoded["assistant_masks"]
    labels = [token if marked else -100 for token, marked in zip(ids, mask, strict=True)]
    return {"input_ids": ids, "labels": labels, "attention_mask": [1] * len(ids)}


def measure(tokenizer: PreTrainedTokenizerBase, examples: list[Example]) -> list[tuple[int, int]]:
    """For each conversation its length in tokens, prompt and all, and how many of them carry loss."""
    sizes = []
    for start in range(0, len(examples), CHUNK):
        part = [example.messages for example in examples[start : start + CHUNK]]
        encoded = tokenizer.apply_chat_template(part, return_dict=True, return_assistant_tokens_mask=True)
        sizes += [(len(ids), sum(mask)) for ids, mask in zip(encoded["input_ids"], encoded["assistant_masks"], strict=True)]
    return sizes
