"""Fits a prompt format to the tokenizer of a base model: which token ends an answer, which fills up a batch, what nobody may type.

All of it is asked of the tokenizer and of the base's own files. The fitted format is one Jinja template that needs nothing else: it
travels in the adapter directory, and vLLM or llama.cpp write the same prompts with it. Knows tokenizers and files, but no model.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from app.adapter import prompts
from app.errors import ConfigError
from finetune.config import TEMPLATES

NATIVE = "native"
_TOKEN = re.compile(r"<\|\w+\|>")
_NUMBERED = re.compile(r"(\D+)(0|[1-9]\d*)(\D*)")
_BRACKETED = re.compile(r"[<\[]+[^\s<>\[\]]{1,40}[>\]]+")
_HEADING = re.compile(r"\S[^\n]*:$", re.MULTILINE)
# Words of names that tokenizers give to tokens which no text holds, the likeliest first.
_SPARE = ("pad", "reserved", "unused", "placeholder", "dummy", "control", "special", "unk", "endoftext", "end_of_text")
_MARKS = ("firstquestionxyz", "firstanswerxyz", "secondquestionxyz")  # stand for what people write while a template is read


@dataclass(frozen=True)
class Facts:
    """What the files of a base say beside its tokenizer.

    Attributes:
        end_ids: Tokens at which the base's generation configuration ends an answer.
        rows: Rows of the embedding; a token id must be below it. None where the configuration does not say.
    """

    end_ids: tuple[int, ...] = ()
    rows: int | None = None


def read_facts(folder: Path) -> Facts:
    """Reads a base's config.json and generation_config.json, of which the second one counts for the end of an answer."""
    config, generation = (_read(folder / name) for name in ("config.json", "generation_config.json"))
    text = config.get("text_config") or {}
    found: Any = next((part["eos_token_id"] for part in (generation, config, text) if part.get("eos_token_id") is not None), [])
    ends: list[int] = found if isinstance(found, list) else [found]
    rows: int | None = text.get("vocab_size", config.get("vocab_size"))
    return Facts(tuple(end for end in ends if rows is None or end < rows), rows)


def _read(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):  # opening the base says what is wrong with it
        return {}


def fit(tokenizer: PreTrainedTokenizerBase, template: str, facts: Facts) -> None:
    """Puts a prompt format on a base's tokenizer, and gives the tokenizer an end of sequence and padding where it lacks them.

    Args:
        tokenizer: As the base brings it, changed in place.
        template: Name of a file in finetune/templates.
        facts: What the base's files say.

    Raises:
        ConfigError: The format cannot be had with this tokenizer; the message says which one can.
    """
    own = _own_template(tokenizer)
    if tokenizer.eos_token is None:
        if not facts.end_ids:
            raise ConfigError(
                "The base names no end of sequence, neither in its tokenizer nor in generation_config.json, so a tuned model would "
                "never stop. Set eos_token in its tokenizer_config.json."
            )
        tokenizer.eos_token = tokenizer.convert_ids_to_tokens(facts.end_ids[0])
    source = (TEMPLATES / f"{template}.jinja").read_text(encoding="utf-8")
    lacking = sorted({token for token in _TOKEN.findall(source) if token not in prompts.controls(tokenizer).values()})
    if lacking:
        raise ConfigError(
            f"The template {template} is written with {', '.join(lacking)}, and the base's tokenizer has no such tokens. "
            f"Take --set template=medical{f', or {NATIVE} for the chat template of the base itself' if own else ''}."
        )
    added = map(str, tokenizer.added_tokens_decoder.values())
    typed = {*prompts.controls(tokenizer).values(), *(token for token in added if token.strip() and token in own)}  # <think>, say
    if template == NATIVE:
        if not own:
            raise ConfigError(f"The base has no chat template of its own, as --set template={NATIVE} asks. Take --set template=medical.")
        source, markers = _native(tokenizer, own, source)
        typed |= markers
    else:  # said in the template, so that it needs no tokenizer to say it
        facts_of = (("bos_token", tokenizer.bos_token or ""), ("eos_token", tokenizer.eos_token))
        source = "".join(f"{{%- set {name} = {_quoted(str(token))} -%}}\n" for name, token in facts_of) + source
    tokenizer.chat_template = _plain(typed) + source
    _set_padding(tokenizer, facts)


def end_ids(tokenizer: PreTrainedTokenizerBase, facts: Facts) -> list[int]:
    """Tokens that end an answer: the one that the fitted template trains on first, then those of the base's generation configuration.

    Raises:
        ConfigError: The template ends an answer with nothing that could stop the model.
    """
    trained = prompts.stop_token(tokenizer)
    if trained is None:
        raise ConfigError(
            "In this chat template no special token ends an answer, or the prompt is not how the conversation begins, so a tuned model "
            "would never stop. Take --set template=medical."
        )
    return [trained, *(end for end in facts.end_ids if end != trained)]


def _own_template(tokenizer: PreTrainedTokenizerBase) -> str:
    try:
        return str(tokenizer.get_chat_template())
    except ValueError:  # none, or several of which none is the default
        return ""


def _plain(typed: set[str]) -> str:
    """A Jinja macro `plain(text)`: the text with a space in each special token's string, so that it is read as text.

    Tokens that differ by a number are counted through, and only where their common beginning occurs: Gemma has 6,242 of one kind.
    """
    families: dict[tuple[str, str], list[int]] = {}
    for token in typed:
        if match := _NUMBERED.fullmatch(token):
            families.setdefault((match[1], match[3]), []).append(int(match[2]))
    counted = {key: numbers for key, numbers in families.items() if len(key[0]) > 1 and 2 < len(numbers) > max(numbers) // 10}
    single = {token for token in typed if not ((m := _NUMBERED.fullmatch(token)) and (m[1], m[3]) in counted)}
    pairs = [[token, f"{token[0]} {token[1:]}"] for token in sorted(single, key=lambda token: (-len(token), token)) if len(token) > 1]
    lines = [
        "{%- macro plain(text) -%}",
        "{#- A space in each special token of the tokenizer makes it text. -#}",
        "{%- set ns = namespace(text=text) -%}",
        f"{{%- for token, written in {json.dumps(pairs, ensure_ascii=False)} -%}}",
        "{%- set ns.text = ns.text | replace(token, written) -%}",
        "{%- endfor -%}",
    ]
    for (before, after), numbers in sorted(counted.items()):
        token = f"{_quoted(before)} ~ number ~ {_quoted(after)}"
        lines += [
            f"{{%- if {_quoted(before)} in ns.text -%}}",
            f"{{%- for number in range({min(numbers)}, {max(numbers) + 1}) -%}}",
            f"{{%- set ns.text = ns.text | replace({token}, {_quoted(f'{before[0]} {before[1:]}')} ~ number ~ {_quoted(after)}) -%}}",
            "{%- endfor -%}",
            "{%- endif -%}",
        ]
    return "\n".join([*lines, "{{- ns.text -}}", "{%- endmacro -%}", ""])


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)  # Jinja reads strings with the same escapes


def _native(tokenizer: PreTrainedTokenizerBase, own: str, source: str) -> tuple[str, set[str]]:
    """The base's own template behind ours, and the texts by which it tells turns apart where those are no tokens.

    Raises:
        ConfigError: It cannot write a conversation.
    """
    question, answer, second = ({"role": role, "content": text} for role, text in zip(("user", "assistant", "user"), _MARKS, strict=True))

    def render(*messages: dict[str, str]) -> str:
        return str(tokenizer.apply_chat_template(list(messages), chat_template=own, add_generation_prompt=True, tokenize=False))

    try:
        text = render({"role": "system", "content": "systemtextxyz"}, question)
        takes_system = "systemtextxyz" in text
    except (TemplateError, ValueError, TypeError):
        takes_system = False
    try:
        between = "\n".join(re.split("|".join(_MARKS), render(question, answer, second))[1:])
    except (TemplateError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split())[:150].rstrip(".")
        raise ConfigError(f"The base's own chat template cannot be used ({reason}). Take --set template=medical.") from error
    markers = set(_BRACKETED.findall(between)) | {line.strip() for line in _HEADING.findall(_BRACKETED.sub("\n", between))}
    return f"{{%- set takes_system = {'true' if takes_system else 'false'} -%}}\n{source}{own}", markers


def _set_padding(tokenizer: PreTrainedTokenizerBase, facts: Facts) -> None:
    """Chooses the token that fills up a batch: never the one that ends an answer, which padding would take out of the loss."""

    def fits(number: int | None) -> bool:
        return number is not None and number not in ends and (facts.rows is None or number < facts.rows)

    ends = {tokenizer.eos_token_id, prompts.stop_token(tokenizer)}
    if fits(tokenizer.pad_token_id):
        return
    spare = []
    for number, token in prompts.controls(tokenizer).items():
        rank = next((place for place, word in enumerate(_SPARE) if word in token.lower()), None)
        rank = _SPARE.index("unk") if number == tokenizer.unk_token_id else rank
        if rank is not None and fits(number) and number != tokenizer.bos_token_id:
            spare.append((number in facts.end_ids, rank, number, token))
    if not spare:
        raise ConfigError(
            "The base's tokenizer has no token beside its end of sequence that could fill up a batch. Name one of its tokens as pad_token "
            "in its tokenizer_config.json."
        )
    tokenizer.pad_token = min(spare)[-1]
