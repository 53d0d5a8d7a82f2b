"""Small random base models with the kinds of tokenizer, special tokens and chat template that well-known families have.

    python -m tests.bases FOLDER    # writes one folder for each

Shapes and weights mean nothing. What is like the real ones: which tokens are special and which are only added, where padding is the end of
sequence, missing or beyond the embedding, which files name the end of sequence, and what the chat templates do with a system text.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoModelForCausalLM, Gemma3TextConfig, LlamaConfig, MistralConfig, PretrainedConfig, Qwen3Config

from app.settings import ROOT

TEXTS = ROOT / "assets" / "general_text.jsonl"
SIZES = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
SIZES |= {"head_dim": 16, "max_position_embeddings": 512}
SIGNS = "\n .,:;!?#<>[]|/\\()'\"-_=%*{}`~@&+0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"

# ChatML whose earlier answers lose their thoughts, and whose prompt holds empty ones when thinking is switched off.
THINKING = """{%- if messages[0].role == 'system' %}{{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}{%- endif %}
{%- for message in messages %}
{%- if message.role == 'user' %}{{- '<|im_start|>user\\n' + message.content + '<|im_end|>\\n' }}
{%- elif message.role == 'assistant' %}
{%- set said = message.content.split('</think>')[-1].lstrip('\\n') %}
{{- '<|im_start|>assistant\\n' + ('<think>\\n\\n</think>\\n\\n' if loop.last else '') + said + '<|im_end|>\\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}
{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}
{%- endif %}"""
# No role of its own for a system text, which goes before the first question; a date in it, as some families have.
TURNS = """{{ bos_token }}
{%- set first = '' %}
{%- if messages[0]['role'] == 'system' %}{%- set first = messages[0]['content'] + '\\n\\n' %}{%- set messages = messages[1:] %}{%- endif %}
{%- for message in messages %}
{%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{%- endif %}
{{- '<start_of_turn>' + ('model' if message['role'] == 'assistant' else message['role']) + '\\n' + (first if loop.first else '') }}
{{- message['content'] | trim + '<end_of_turn>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{%- endif %}"""
# Refuses a system text.
INSTRUCTIONS = """{{- bos_token }}{%- for message in messages %}
{%- if message['role'] == 'system' %}{{- raise_exception('only user and assistant roles are supported') }}
{%- elif message['role'] == 'user' %}{{- '[INST] ' + message['content'] + '[/INST]' }}
{%- else %}{{- ' ' + message['content'] + eos_token }}{%- endif %}
{%- endfor %}"""
# Turns told apart by text alone; the generation prompt has no line break at its end, and there is the date of the day.
ZEPHYR = """{% for message in messages %}
{% if message['role'] == 'system' %}
{{ '<|system|>\\nToday is ' + strftime_now('%d %B %Y') + '.\\n' + message['content'] + eos_token }}
{% elif message['role'] == 'user' %}
{{ '<|user|>\\n' + message['content'] + eos_token }}
{% else %}
{{ '<|assistant|>\\n' + message['content'] + eos_token }}
{% endif %}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}"""


def qwen3(folder: Path) -> None:
    """No BOS; padding is one of the ends of sequence; tokens such as <think> and <tool_call> that are added and not special."""
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|vision_pad|>", "<|image_pad|>"]
    plain = ["<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_pad|>", "<|repo_name|>", "<think>", "</think>"]
    tokenizer = _byte_level(normalizers.NFC())
    _add(tokenizer, special, plain)
    end, text_end = tokenizer.token_to_id("<|im_end|>"), tokenizer.token_to_id("<|endoftext|>")
    config = Qwen3Config(**SIZES, vocab_size=_round(tokenizer), bos_token_id=text_end, eos_token_id=end, tie_word_embeddings=True)
    names = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "tokenizer_class": "Qwen2Tokenizer"}
    _write(folder, tokenizer, config, {"eos_token_id": [end, text_end], "pad_token_id": text_end}, names, THINKING)


def gemma3(folder: Path) -> None:
    """Turns end with another token than texts; thousands of unused tokens, markup and line breaks as tokens, one beyond the embedding."""
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *[f"<unused{number}>" for number in range(300)]]
    plain = ["<start_of_turn>", "<end_of_turn>", "\n\n", "\n\n\n", "<table>", "</table>", "<b>", "</b>"]
    tokenizer = _sentencepiece(special, plain, normalizers.Replace(" ", "\u2581"))
    tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 2)])
    rows = tokenizer.get_vocab_size()
    tokenizer.add_special_tokens([AddedToken("<image_soft_token>", normalized=False, special=True)])
    turn = tokenizer.token_to_id("<end_of_turn>")
    config = Gemma3TextConfig(**SIZES, vocab_size=rows, bos_token_id=2, eos_token_id=1, pad_token_id=0, sliding_window=128)
    names = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>", "tokenizer_class": "GemmaTokenizer"}
    _write(folder, tokenizer, config, {"eos_token_id": [1, turn]}, names, TURNS)


def mistral(folder: Path) -> None:
    """No padding; [INST] is a token; hundreds of control tokens that differ by a number."""
    special = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[TOOL_CALLS]", *[f"[control_{number}]" for number in range(8, 200)]]
    tokenizer = _sentencepiece(special, [], _prefixed())
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    config = MistralConfig(**SIZES, vocab_size=_round(tokenizer), bos_token_id=1, eos_token_id=2, sliding_window=None)
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "tokenizer_class": "LlamaTokenizer"}
    _write(folder, tokenizer, config, {"eos_token_id": 2}, names, INSTRUCTIONS)


def tinyllama(folder: Path) -> None:
    """Padding is the end of sequence; three special tokens in all; no generation configuration."""
    tokenizer = _sentencepiece(["<unk>", "<s>", "</s>"], [], _prefixed())
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    config = LlamaConfig(**SIZES, vocab_size=_round(tokenizer), bos_token_id=1, eos_token_id=2, tie_word_embeddings=False)
    names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>", "unk_token": "<unk>", "tokenizer_class": "LlamaTokenizer"}
    _write(folder, tokenizer, config, {}, names, ZEPHYR)


FAMILIES: dict[str, Callable[[Path], None]] = {"qwen3": qwen3, "gemma3": gemma3, "mistral": mistral, "tinyllama": tinyllama}


def _texts() -> list[str]:
    return [json.loads(line)["text"] for line in TEXTS.read_text(encoding="utf-8").splitlines()]


def _byte_level(normalizer: Any) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=600, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    tokenizer.train_from_iterator(_texts(), trainer)
    return tokenizer


def _sentencepiece(special: list[str], plain: list[str], normalizer: Any) -> Tokenizer:
    """BPE over characters with bytes for the rest, the first tokens of the vocabulary special, as converted sentencepiece models are."""
    tokens = [*special, *plain, *[f"<0x{byte:02X}>" for byte in range(256)]]
    sizes = {"vocab_size": len(tokens) + 400, "initial_alphabet": ["\u2581", *SIGNS], "show_progress": False}
    trainer = trainers.BpeTrainer(special_tokens=[AddedToken(token) for token in tokens], **sizes)
    draft = Tokenizer(models.BPE())
    draft.normalizer = normalizers.Replace(" ", "\u2581")
    draft.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    draft.train_from_iterator(_texts(), trainer)
    trained = json.loads(draft.to_str())["model"]
    merges = [tuple(merge) if isinstance(merge, list) else tuple(merge.split(" ")) for merge in trained["merges"]]
    tokenizer = Tokenizer(models.BPE(vocab=trained["vocab"], merges=merges, byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    tokenizer.normalizer = normalizer
    steps = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if normalizer is not None else steps)
    _add(tokenizer, special, plain)
    return tokenizer


def _prefixed() -> Any:
    return normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])


def _add(tokenizer: Tokenizer, special: list[str], plain: list[str]) -> None:
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in special])
    tokenizer.add_tokens([AddedToken(token, normalized=False, special=False) for token in plain])


def _round(tokenizer: Tokenizer) -> int:
    return -(-tokenizer.get_vocab_size() // 64) * 64


def _write(
    folder: Path, tokenizer: Tokenizer, config: PretrainedConfig, generation: dict[str, Any], names: dict[str, Any], template: str
) -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    if generation:
        (folder / "generation_config.json").write_text(json.dumps(generation))
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(names | {"chat_template": template, "model_max_length": 512}))


if __name__ == "__main__":
    for name, write in FAMILIES.items():
        write(Path(sys.argv[1]) / name)
