"""Measures how long base and tuned answers take: many cards, one process, one model in memory, the adapter switched on and off.

    python -m tests.bench_evaluation                          # the demo adapter
    python -m tests.bench_evaluation --base FOLDER            # any base, with a fresh adapter of rank 64 on all its layers

Every answer gets all its tokens, so that random weights time like trained ones. Not a test: it asserts nothing.
"""

import argparse
import logging
import platform
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from app.adapter.behaviour import Probe
from app.adapter.contract import BaseIdentity, Contract, architecture
from app.engine.model import LoadedModel, default_device, load
from app.settings import DEMO_ADAPTER, ROOT
from finetune.data.sources import read_cards
from finetune.data.tokens import open_tokenizer
from finetune.evaluation.questions import held_out_items
from finetune.evaluation.scoring import default_batch_size, predict

log = logging.getLogger(__name__)

PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def with_fresh_adapter(base: Path) -> LoadedModel:
    """A base with an untrained adapter, as the evaluation holds an opened one; nothing is verified, because nothing was trained."""
    device = default_device()
    tokenizer = open_tokenizer(str(base), None, "medical")
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    model = AutoModelForCausalLM.from_pretrained(base, dtype=dtype, device_map={"": device})
    peft = get_peft_model(
        model, LoraConfig(r=64, lora_alpha=128, use_rslora=True, target_modules=PROJECTIONS), autocast_adapter_dtype=False
    )
    identity = BaseIdentity(id=base.name, revision=None, architecture=architecture(model.config))
    contract = Contract(
        base=identity, template_sha256="", tokenizer_sha256="", golden=[], golden_answer="", golden_nll=0.0, trained_dtype="bfloat16",
        eos_token_ids=[tokenizer.eos_token_id], context_length=model.config.max_position_embeddings,
    )  # fmt: skip
    probe = Probe(logit_change=0, threshold=0, nll=0, trained_nll=0, expected_nll=0, tolerance=0)
    return LoadedModel(base.name, peft.eval(), tokenizer, contract, probe, base.name, None, None, device, str(dtype).removeprefix("torch."))


def endless(loaded: LoadedModel) -> LoadedModel:
    """The same model, but no token ends its answers."""
    never: Any = loaded.contract.model_copy(update={"eos_token_ids": [loaded.tokenizer.pad_token_id]})
    return replace(loaded, contract=never)


def main() -> None:
    """Command line; see the top of the file."""
    parser = argparse.ArgumentParser(description="Measure the evaluation's batched answers on this machine.")
    parser.add_argument("--adapter", default=DEMO_ADAPTER)
    parser.add_argument("--base", type=Path, help="folder of a base model, random weights will do")
    parser.add_argument("--cards", type=int, default=400)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--batch-size", type=int)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    loaded = endless(with_fresh_adapter(args.base) if args.base else load(args.adapter))
    if loaded.device == "cpu":
        torch.set_num_threads(1)
    items = held_out_items(read_cards(ROOT / "assets" / "flashcards.jsonl"))[: args.cards]
    predict(loaded, items[:2], max_new_tokens=2, name="warm-up")
    device = torch.cuda.get_device_name() if loaded.device == "cuda" else f"CPU ({platform.machine()})"
    parameters = sum(p.numel() for p in loaded.model.parameters()) / 1e9
    total = 0.0
    for use_adapter in (True, False):
        started = time.perf_counter()
        predict(loaded, items, use_adapter, args.batch_size, max_new_tokens=args.tokens)
        seconds = time.perf_counter() - started
        total += seconds
        log.info("%-6s %7.1f s, %8.0f tokens/s", "tuned" if use_adapter else "base", seconds, len(items) * args.tokens / seconds)
    log.info(
        "%d cards x 2 x %d tokens in %.1f s: %s, torch %s, %.2f B parameters with the adapter, %s, batches of %d",
        len(items), args.tokens, total, device, torch.__version__, parameters, loaded.dtype, args.batch_size or default_batch_size(loaded),
    )  # fmt: skip
    if loaded.device == "cuda":
        log.info("most memory at once: %.1f GiB", torch.cuda.max_memory_allocated() / 2**30)


if __name__ == "__main__":
    main()
