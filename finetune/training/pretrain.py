"""Trains the demo base model from scratch on our own flashcards: a small Llama with a Llama-3-style tokenizer.

    python -m finetune.training.pretrain --cards assets/flashcards.jsonl --output assets/demo/base

It reads wordings and answers as SEPARATE documents, so that it learns the language of the cards but not which answer
belongs to which question: that is left to the adapter, and it is what the side-by-side of base and tuned model shows.
The last rewording of each card is held out and never seen here. Knows nothing of adapters, templates or the app.
"""

import argparse
import json
import logging
import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch.optim.lr_scheduler import LambdaLR
from tqdm import tqdm
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from finetune.data.sources import Card, read_cards
from finetune.training.compiling import WORTH_COMPILING, can_compile

log = logging.getLogger(__name__)

BOS, END_OF_TEXT, PAD, EOT = "<|begin_of_text|>", "<|end_of_text|>", "<|finetune_right_pad_id|>", "<|eot_id|>"
SPECIAL_TOKENS = [BOS, END_OF_TEXT, PAD, "<|start_header_id|>", "<|end_header_id|>", EOT]
# Llama 3's own split pattern: https://github.com/meta-llama/llama-models/blob/main/models/llama3/tokenizer.py
LLAMA3_SPLIT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
# The prompt's own words, often enough that the vocabulary holds them whole and the template costs few tokens.
PROMPT_TEXTS = 300 * [
    "You are an expert doctor in the field of medicine.\nAnswer the following medical question professionally and accurately.",
    "### Question:\n",
    "\n\n### Medical Answer:\n",
]


def documents(cards: list[Card], rng: random.Random) -> Iterator[str]:
    """One epoch of documents in random order: each card's trained wordings as one list, and each answer on its own."""
    texts = []
    for card in cards:
        wordings = card.trained_wordings()
        texts.append("\n".join(rng.sample(wordings, len(wordings))))
        texts.append(card.answer)
        if card.follow_up:
            texts.append("\n".join(card.follow_up.trained_wordings()))
            texts.append(card.follow_up.answer)
    rng.shuffle(texts)
    yield from texts


def train_tokenizer(texts: list[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE with Llama 3's split pattern and special-token names.

    Args:
        texts: Training texts.
        vocab_size: Entries in all, special tokens included.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(LLAMA3_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=SPECIAL_TOKENS,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    bos_id = tokenizer.token_to_id(BOS)
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, bos_id)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=BOS, eos_token=EOT, pad_token=PAD, model_max_length=1024)


def build_model(tokenizer: PreTrainedTokenizerFast, hidden_size: int = 320, layers: int = 4, feed_forward: int = 864) -> LlamaForCausalLM:
    """A Llama with random weights, float32; 6.3 million parameters with the defaults and 4,096 tokens."""
    eos = [tokenizer.convert_tokens_to_ids(token) for token in (EOT, END_OF_TEXT)]
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        intermediate_size=feed_forward,
        num_hidden_layers=layers,
        num_attention_heads=hidden_size // 64,
        num_key_value_heads=hidden_size // 64,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=eos,
        pad_token_id=tokenizer.pad_token_id,
        attn_implementation="eager",  # on a CPU its backward is faster than SDPA's
    )
    model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=eos, pad_token_id=tokenizer.pad_token_id, do_sample=False
    )
    return model


def batches(cards: list[Card], tokenizer: PreTrainedTokenizerFast, rng: random.Random, rows: int, length: int) -> Iterator[torch.Tensor]:
    """Endless batches of packed documents, (rows, length) int64; a document is BOS, text, end-of-text."""
    end = tokenizer.convert_tokens_to_ids(END_OF_TEXT)
    stream: list[int] = []
    while True:
        for text in documents(cards, rng):
            stream += [*tokenizer(text)["input_ids"], end]
            while len(stream) >= rows * length:
                yield torch.tensor(stream[: rows * length]).view(rows, length)
                stream = stream[rows * length :]


def rate(step: int, steps: int) -> float:
    """The learning rate of a step as a share of its peak: up in the first twentieth of the steps, then a half cosine down to 2%."""
    warm_up = max(1, steps // 20)
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up)))


class NextTokenLoss(torch.nn.Module):
    """A model as a function from `ids: (B, T) int64` to its mean next-token loss, a scalar in nats."""

    def __init__(self, model: LlamaForCausalLM) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Cross entropy of each token given those before it."""
        logits = self.model(input_ids=ids, use_cache=False).logits
        return torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1).float(), ids[:, 1:].flatten())


def make_optimizers(model: LlamaForCausalLM, learning_rate: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the layers, AdamW for embeddings and norms.

    Muon (https://kellerjordan.github.io/posts/muon) needs about a quarter fewer steps here than AdamW alone.
    """
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    return [
        torch.optim.Muon(matrices, lr=learning_rate, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=learning_rate, weight_decay=0.05, betas=(0.9, 0.95)),
    ]


def _step(model: LlamaForCausalLM, optimizers: list[torch.optim.Optimizer], schedules: list[LambdaLR]) -> None:
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimizer, schedule in zip(optimizers, schedules, strict=True):
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)


def _quick(loss: NextTokenLoss, stream: Iterator[torch.Tensor], steps: int, device: str) -> Any:
    """The same function, captured on a GPU and compiled on a CPU where that pays; a capture takes one batch of the stream."""
    if device == "cuda":
        torch.set_float32_matmul_precision("high")  # TF32
        loss.model.set_attn_implementation("sdpa")  # eager attention copies its mask from the CPU, which no capture may do
        # So small a model keeps a GPU waiting for kernel launches: one captured graph for forward and backward.
        return torch.cuda.make_graphed_callables(loss, (next(stream).to(device),))
    # On a CPU a quarter faster.
    return torch.compile(loss) if steps >= WORTH_COMPILING and can_compile() else loss


def pretrain(
    cards: list[Card],
    *,
    steps: int = 4000,
    rows: int = 16,
    length: int = 256,
    learning_rate: float = 2e-3,
    vocab_size: int = 4096,
    seed: int = 0,
    device: str | None = None,
    **shape: int,
) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast, list[float]]:
    """Trains tokenizer and model.

    Args:
        cards: The flashcards; held-out wordings are left out here.
        steps: Optimizer steps.
        rows: Rows a step.
        length: Tokens a row.
        learning_rate: Peak of the schedule; see `rate`.
        vocab_size: Tokens in the vocabulary.
        seed: Seed of weights and of the order of documents.
        device: "cuda" or "cpu"; the best there is when None.
        shape: `hidden_size`, `layers`, `feed_forward` of `build_model`.

    Returns:
        The model (float32, on CPU), its tokenizer, and the loss at each step (nats per token).
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(seed)
    tokenizer = train_tokenizer([*documents(cards, random.Random(seed)), *PROMPT_TEXTS], vocab_size)
    model = build_model(tokenizer, **shape).to(device)
    optimizers = make_optimizers(model, learning_rate)
    schedules = [LambdaLR(optimizer, lambda step: rate(step, steps)) for optimizer in optimizers]
    stream = batches(cards, tokenizer, random.Random(seed), rows, length)
    forward = _quick(NextTokenLoss(model), stream, steps, device)
    losses = []
    for _ in (bar := tqdm(range(steps), desc="base model", unit="step")):
        with torch.autocast("cpu", torch.bfloat16, enabled=device == "cpu"):
            loss = forward(next(stream).to(device))
        loss.backward()
        _step(model, optimizers, schedules)
        losses.append(loss.item())
        bar.set_postfix(loss=f"{losses[-1]:.3f}")
    return model.cpu(), tokenizer, losses


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, run: dict[str, Any], output: Path) -> None:
    """Writes bf16 safetensors, the tokenizer and `run.json` into `output`."""
    model.to(torch.bfloat16).save_pretrained(output)
    tokenizer.save_pretrained(output)
    (output / "run.json").write_text(json.dumps(run, indent=1) + "\n")


def main() -> None:
    """Command line; see the top of the file."""
    parser = argparse.ArgumentParser(description="Train the demo base model from scratch on flashcards.")
    parser.add_argument("--cards", type=Path, default=Path("assets/flashcards.jsonl"))
    parser.add_argument("--output", type=Path, default=Path("assets/demo/base"))
    parser.add_argument("--steps", type=int, default=4000, help="optimizer steps of 16 x 256 tokens")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    cards = read_cards(args.cards)
    model, tokenizer, losses = pretrain(cards, steps=args.steps, seed=args.seed)
    save(model, tokenizer, {"cards": len(cards), "steps": args.steps, "seed": args.seed, "final_loss": round(losses[-1], 4)}, args.output)
    log.info("%s: %.2f M parameters, final loss %.3f", args.output, model.num_parameters() / 1e6, losses[-1])


if __name__ == "__main__":
    main()
