"""Measures the chat on this machine: opening, time to the first token, tokens a second, switching, and what the usual way makes of it.

    make bench                                            # the demo adapter
    make bench ARGS="--adapter outputs/mine"
    make bench ARGS="generation --base FOLDER"            # a base of any size in FOLDER, with random adapters of rank 64
    make bench ARGS="generation --base 16BIT --base 4BIT --fp16 --profile"

The usual way - `Thread(target=model.generate)` with a new streamer per question - is measured in the same run. `generation` makes
two adapters in a folder that is deleted at the end, asks with a prompt of 512 tokens for 256, and writes a table in Markdown. Not a
test: it asserts nothing.
"""

import argparse
import gc
import json
import logging
import platform
import shutil
import statistics
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock
from weakref import WeakValueDictionary

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, TextIteratorStreamer

from app.adapter import contract as contracts
from app.adapter.behaviour import golden_nll
from app.adapter.contract import prompt_ids
from app.engine.answer import GenerationRequest
from app.engine.decoder import Decoder
from app.engine.generation import LocalGenerator
from app.engine.model import LoadedModel, default_device, load
from app.settings import DEMO_ADAPTER, ROOT
from finetune.data.tokens import open_tokenizer

log = logging.getLogger(__name__)

Figures = tuple[float, float]  # seconds to the first piece of text, tokens per second
PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
NEVER = -1  # an end-of-sequence id that no token has: random weights end an answer anywhere


def stock(loaded: LoadedModel, question: str, new_tokens: int) -> Figures:
    """One answer the usual way."""
    ids = torch.tensor([prompt_ids(loaded.tokenizer, [{"role": "user", "content": question}])], device=loaded.device)
    streamer = TextIteratorStreamer(loaded.tokenizer, skip_prompt=True, skip_special_tokens=True)
    options = {
        "max_new_tokens": new_tokens,
        "min_new_tokens": new_tokens,
        "do_sample": False,
        "pad_token_id": loaded.tokenizer.pad_token_id,
        "attention_mask": torch.ones_like(ids),
    }
    started = time.perf_counter()
    thread = threading.Thread(target=loaded.model.generate, kwargs={"input_ids": ids, "streamer": streamer, **options})
    thread.start()
    first = None
    for piece in streamer:
        if piece and first is None:
            first = time.perf_counter() - started
    thread.join()
    return first or 0.0, new_tokens / (time.perf_counter() - started)


def ours(generator: LocalGenerator, question: str, new_tokens: int, **options: Any) -> tuple[Figures, int]:
    """One answer through the generation thread, and how many tokens it has."""
    started = time.perf_counter()
    answer = generator.submit(GenerationRequest([{"role": "user", "content": question}], max_new_tokens=new_tokens, **options))
    first = None
    for _ in answer:
        first = first or time.perf_counter() - started
    return (first or 0.0, answer.completion_tokens / (time.perf_counter() - started)), answer.completion_tokens


def chat(args: argparse.Namespace) -> None:
    """An adapter as it is, on sample questions."""
    samples = json.loads((ROOT / "assets" / "sample_questions.json").read_text(encoding="utf-8"))
    questions = [question for group in zip(*samples.values(), strict=False) for question in group][: args.questions]
    log.info("%s, torch %s, %d questions, medians", machine(), torch.__version__, len(questions))
    log.info("%-24s %8s %14s %10s", "way", "threads", "first text, s", "tokens/s")
    for threads in args.threads if not torch.cuda.is_available() else args.threads[:1]:
        torch.set_num_threads(threads)
        generator = LocalGenerator(load, str(Path(args.adapter)))
        generator.wait_until_ready()
        loaded = generator.loaded
        if loaded is None:
            raise SystemExit("The adapter could not be opened.")
        rows: dict[str, list[Figures]] = {"ours, adapter on": [], "ours, adapter off": [], "stock, adapter on": []}
        for question in questions:
            figures, tokens = ours(generator, question, 128)
            rows["ours, adapter on"].append(figures)
            rows["ours, adapter off"].append(ours(generator, question, tokens, use_adapter=False)[0])
            rows["stock, adapter on"].append(stock(loaded, question, tokens))
        for name, values in rows.items():
            first, speed = (statistics.median(column) for column in zip(*values, strict=True))
            log.info("%-24s %8d %14.3f %10.1f", name, threads, first, speed)
        log.info("%-24s %8d %14s", "opened in, s", threads, f"{loaded.load_seconds:.2f}")
        generator.close()


def machine() -> str:
    """What this runs on."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU ({platform.machine()})"


@torch.inference_mode()
def make_adapters(base: Path, folder: Path, rank: int, length: int) -> list[str]:
    """Two adapter directories with random weights for a base: they change its answers, and nobody should read them."""
    tokenizer = open_tokenizer(str(base), None, "medical")
    dtype = torch.bfloat16 if torch.cuda.is_available() else torch.float32
    model = AutoModelForCausalLM.from_pretrained(base, dtype=dtype, device_map={"": default_device()})
    lora = LoraConfig(r=rank, lora_alpha=rank, use_rslora=True, target_modules=PROJECTIONS, task_type="CAUSAL_LM")
    peft_model = get_peft_model(model, lora, autocast_adapter_dtype=False).eval()
    names = []
    for number in (1, 2):
        torch.manual_seed(number)
        for name, parameter in peft_model.named_parameters():
            if "lora_" in name:
                parameter.data = torch.randn_like(parameter, dtype=dtype) * (0.02 if "lora_A" in name else 0.002)
        adapter = folder / f"{base.name}-{number}"
        peft_model.save_pretrained(adapter)
        tokenizer.save_pretrained(adapter)
        path = adapter / "adapter_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "base_model_name_or_path": str(base.resolve())}))
        (adapter / "README.md").unlink(missing_ok=True)
        contracts.write(
            adapter,
            tokenizer,
            contracts.BaseIdentity(id=str(base.resolve()), revision=None, architecture=contracts.architecture(model.config)),
            golden_nll=golden_nll(peft_model, tokenizer),
            trained_dtype="4bit" if getattr(model, "is_loaded_in_4bit", False) else str(model.dtype).removeprefix("torch."),
            eos_token_ids=[NEVER],
            context_length=length,
        )
        names.append(str(adapter))
    return names


def prompt_of(tokenizer: Any, tokens: int) -> str:
    """A question whose prompt has a given number of tokens, or one fewer."""
    question = "What is asthma?"
    while len(prompt_ids(tokenizer, [{"role": "user", "content": question + " why"}])) <= tokens:
        question += " why"
    return question


def measure(base: Path, folder: Path, args: argparse.Namespace, label: str) -> list[list[str]]:
    """Rows of the table for one base."""
    adapters = make_adapters(base, folder, args.rank, args.prompt_tokens + args.new_tokens)
    free_memory()
    before = allocated()
    captures: list[int] = []
    capture = Decoder._capture

    def counted(decoder: Decoder, tokens: int, *rest: Any) -> Any:
        captures.append(tokens)
        return capture(decoder, tokens, *rest)

    with mock.patch.object(Decoder, "_capture", counted):
        figures, way, facts = talk(adapters, args, captures, label)
    free_memory()
    facts.append(f"{(allocated() - before) / 2**30:.2f} GiB stay after closing")
    log.info("%s: %s", label, "; ".join(facts))
    return [
        [label, name if name.startswith("stock") else f"{name} ({way})", f"{1000 * first:.0f} ms", f"{speed:.1f}"]
        for name, (first, speed) in figures.items()
    ]


def talk(adapters: list[str], args: argparse.Namespace, captures: list[int], label: str) -> tuple[dict[str, Figures], str, list[str]]:
    """Figures of each way, how ours makes tokens, and what else there is to say."""
    before = allocated()
    generator = LocalGenerator(partial(load, decoders=WeakValueDictionary()), adapters[0])
    generator.wait_until_ready()
    loaded = generator.loaded
    if loaded is None:
        raise SystemExit("The adapter could not be opened.")
    ask = partial(ours, generator, prompt_of(loaded.tokenizer, args.prompt_tokens))
    facts = [
        f"opened in {loaded.load_seconds:.1f} s, {loaded.warm_up_seconds:.1f} s of it warming up",
        f"{(allocated() - before) / 2**30:.2f} GiB",
    ]
    at_warm_up = len(captures)
    first, speed = ask(args.new_tokens)[0]
    facts.append(f"first question {1000 * first:.0f} ms to the first text and {speed:.1f} tokens/s")
    ways: dict[str, dict[str, Any]] = {
        "ours, adapter on": {},
        "ours, adapter off": {"use_adapter": False},
        "ours, adapter on, sampled": {"temperature": 0.7, "seed": 1},
        "ours, second adapter": {"adapter": adapters[1]},
    }
    figures = {}
    for name, options in ways.items():
        ask(2, **options)  # opens the adapter, where it is the second
        figures[name] = median([ask(args.new_tokens, **options)[0] for _ in range(args.repeats)])
    switched, steady = [], []
    for options in [{}, {"use_adapter": False}, {"adapter": adapters[1]}] * 3:
        switched.append(ask(2, **options)[0][0])
        steady.append(ask(2, **options)[0][0])
    usual = statistics.median(steady)
    middle, slowest = (1000 * (value - usual) for value in (statistics.median(switched), max(switched)))
    facts.append(f"a switch adds {middle:.0f} ms, the slowest of {len(switched)} {slowest:.0f} ms")
    facts.append(f"{at_warm_up} graphs captured at warm-up, {len(captures) - at_warm_up} later")
    question = prompt_of(loaded.tokenizer, args.prompt_tokens)
    stock(loaded, question, 4)
    figures["stock, adapter on"] = stock(loaded, question, args.new_tokens)
    facts.append(f"{figures['ours, adapter on'][1] / figures['stock, adapter on'][1]:.1f} times the stock way")
    if args.profile and torch.cuda.is_available():
        profile(ask, label)
    generator.close()
    return figures, loaded.way, facts


def median(values: list[Figures]) -> Figures:
    """Medians of several answers."""
    first, speed = (statistics.median(column) for column in zip(*values, strict=True))
    return first, speed


def profile(ask: Callable[..., Any], label: str) -> None:
    """Says which kernels the time of 64 tokens goes to."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiler

    with profiler(activities=[ProfilerActivity.CUDA]) as found:
        ask(64)
    rows = sorted(found.key_averages(), key=lambda row: -row.self_device_time_total)
    log.info("%s: %.2f ms of kernels a token", label, sum(row.self_device_time_total for row in rows) / 64e3)
    for row in rows[:10]:
        log.info("  %8.1f us a token in %6.1f launches: %s", row.self_device_time_total / 64, row.count / 64, row.key[:90])


def allocated() -> int:
    """Bytes on the card."""
    return torch.cuda.memory_allocated() if torch.cuda.is_available() else 0


def free_memory() -> None:
    """Gives back what nothing refers to."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def generation(args: argparse.Namespace) -> None:
    """Bases of any size with random adapters."""
    log.info(
        "%s, torch %s: prompt %d tokens, answer %d, rank %d", machine(), torch.__version__, args.prompt_tokens, args.new_tokens, args.rank
    )
    rows: list[list[str]] = []
    folder = Path(tempfile.mkdtemp())
    try:
        for base in args.base:
            for half in (False, True) if args.fp16 and "4bit" not in base else (False,):
                label = Path(base).name + (", fp16 (not run on a T4)" if half else "")
                with mock.patch("torch.cuda.is_bf16_supported", lambda **_: False) if half else mock.MagicMock():
                    try:
                        rows += measure(Path(base), folder, args, label)
                    except Exception:  # the next base is measured none the less
                        log.error("%s failed: %s", label, traceback.format_exc(limit=-4))
                free_memory()
    finally:
        shutil.rmtree(folder)
    table = [["base", "way", "first text", "tokens/s"], ["---"] * 4, *rows]
    log.info("\n%s", "\n".join(f"| {' | '.join(row)} |" for row in table))


def main() -> None:
    """Command line; see the top of the file."""
    parser = argparse.ArgumentParser(description="Measure the chat on this machine.")
    parser.add_argument("what", nargs="?", choices=["chat", "generation"], default="chat")
    parser.add_argument("--adapter", default=DEMO_ADAPTER)
    parser.add_argument("--questions", type=int, default=10)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="CPU threads to try")
    parser.add_argument("--base", action="append", default=[], help="folder of a base model; may be given several times")
    parser.add_argument("--rank", type=int, default=64)
    parser.add_argument("--prompt-tokens", type=int, default=512)
    parser.add_argument("--new-tokens", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--fp16", action="store_true", help="also as on a card without bfloat16")
    parser.add_argument("--profile", action="store_true", help="also where the time goes, on a CUDA card")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("app").setLevel(logging.INFO if args.what == "generation" else logging.WARNING)
    if args.what == "generation":
        generation(args)
    else:
        chat(args)


if __name__ == "__main__":
    main()
