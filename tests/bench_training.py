"""Measures training on this machine: the original script against ours, one table.

    python -m tests.bench_training --base BF16_FOLDER --base-4bit NF4_FOLDER --data CARDS

Without a GPU it measures the demo base, which only shows that the benchmark works. Speed counts real tokens (no padding) of the
steps after the warm-up; memory is the peak that PyTorch allocated. `original` is the script of the original README as it would
be written today: text rows, 6 x 2 of them a step, 4-bit base, Unsloth's checkpointing, 8-bit AdamW, everything else by default.
Each base is opened once, in a process of its own. The speed-up of several GPUs:

    torchrun --nproc-per-node 2 -m tests.bench_training --worker BF16_FOLDER --data CARDS --variants fast

Not a test: it asserts nothing.
"""

import argparse
import gc
import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

# name -> (preset, overrides, which base)
VARIANTS: dict[str, tuple[str, dict[str, Any], str]] = {
    "original": ("seed", {}, "4bit"),
    "seed": ("seed", {}, "4bit"),
    "t4": ("t4", {}, "4bit"),
    "same 12 cards": ("fast", {"per_device_train_batch_size": 12}, "16bit"),
    "fast": ("fast", {}, "16bit"),
    "fast, 64 cards": ("fast", {"per_device_train_batch_size": 64}, "16bit"),
    "fast, 96 cards": ("fast", {"per_device_train_batch_size": 96}, "16bit"),
    "fast, padded": ("fast", {"padding_free": False, "group_by_length": True}, "16bit"),
}
DEFAULT = ["original", "t4", "same 12 cards", "fast"]


def newer_attention() -> None:
    """Lets Unsloth use PyTorch's flash kernel for rows of several conversations on PyTorch 2.11, as it does by itself from 2.12 on.

    Unsloth recognises the kernel by an argument that came with 2.12; the kernel below it is the same.
    """
    import torch

    if not torch.cuda.is_available():
        return
    from unsloth.utils import attention_dispatch as dispatch

    if dispatch._TORCH_VARLEN_ATTN is None:
        dispatch._TORCH_VARLEN_ATTN = "present"  # only compared with None
        dispatch._LEAN_VARLEN = True
        dispatch._varlen_can_use_cudnn = lambda *_, **__: False


def timed(trainer: Any, warm_up: int) -> dict[str, Any]:
    """Runs a trainer and times its steps.

    Returns:
        Median seconds and real tokens of a step, tokens per second over all timed steps, peak memory in GiB, seconds of the warm-up.
    """
    import torch
    from transformers import TrainerCallback

    ends: list[float] = []
    counts: list[int] = [0]
    original = trainer.training_step

    def training_step(model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        mask = inputs.get("attention_mask")
        counts[-1] += int(inputs["input_ids"].numel() if mask is None else mask.sum()) * trainer.args.world_size
        return original(model, inputs, *args, **kwargs)

    class Clock(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            ends.append(time.perf_counter())
            counts.append(0)

    trainer.training_step = training_step
    trainer.add_callback(Clock())
    trainer.args.save_strategy = "no"
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    started = time.perf_counter()
    trainer.train()
    steps = [after - before for before, after in zip(ends[warm_up - 1 :], ends[warm_up:], strict=False)]
    tokens = counts[warm_up : warm_up + len(steps)]
    return {
        "tokens_per_second": round(sum(tokens) / sum(steps)),
        "step_seconds": round(statistics.median(steps), 3),
        "tokens_per_step": round(statistics.mean(tokens)),
        "steps": len(steps),
        "memory_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2) if torch.cuda.is_available() else 0.0,
        "warm_up_seconds": round(ends[warm_up - 1] - started, 1),
    }


def original_trainer(training: Any, config: Any, model: Any, tokenizer: Any, steps: int) -> Any:
    """The trainer as the original README's script makes it."""
    import datasets

    from finetune.data.sources import load_source

    prompt = (
        "You are an expert doctor in the field of medicine.\nAnswer the following medical question professionally and accurately.\n\n"
        "### Question:\n{}\n\n### Medical Answer:\n{}"
    )
    pairs = [[message["content"] for message in example.messages[:2]] for example in load_source(config.data).examples]
    texts = [prompt.format(*pair) + tokenizer.eos_token for pair in pairs]
    return training.unsloth.UnslothTrainer(
        model=model,
        processing_class=tokenizer,
        train_dataset=datasets.Dataset.from_dict({"text": texts}),
        args=training.unsloth.UnslothTrainingArguments(
            dataset_text_field="text",
            max_length=1024,
            per_device_train_batch_size=config.per_device_train_batch_size,
            gradient_accumulation_steps=config.gradient_accumulation_steps,
            learning_rate=config.learning_rate,
            warmup_steps=config.warmup_steps,
            lr_scheduler_type=config.lr_scheduler_type,
            optim=config.optim if training.torch.cuda.is_available() else "adamw_torch",
            max_steps=steps,
            output_dir=config.output,
            report_to="none",
            disable_tqdm=True,
        ),
    )


def worker(args: argparse.Namespace) -> None:
    """Opens one base and measures the variants on it, each with its result on a line of its own."""
    from finetune.config import load_config
    from finetune.data.sources import load_source
    from finetune.training import checkpoints
    from finetune.training import train as training
    from finetune.training.encode import build_rows, select

    model = base = trainer = opened_for = None
    for name in args.variants:
        preset, overrides, _ = VARIANTS[name]
        extra = dict(assignment.split("=", 1) for assignment in args.set)
        steps = args.warm_up + args.steps
        common = {"base": args.worker, "data": args.data, "output": tempfile.mkdtemp(), "max_steps": steps, "report_to": "none"}
        if not training.torch.cuda.is_available():
            common |= {"precision": "fp32"}
        config = load_config(preset, {**overrides, **{k: json.loads(v) for k, v in extra.items()}, **common, "validation_size": 0})
        started = time.perf_counter()
        log.info("%s begins", name)
        try:
            training.adapter.base_name = lambda base, folder, output: base  # no adapter is written here
            way = (config.precision, config.max_length, config.gradient_checkpointing)
            if way != opened_for:
                model = base = trainer = None  # the memory of the one before goes first
                gc.collect()
                training.torch.cuda.empty_cache()
                opened_for = way
                base, tokenizer, _, _ = training.open_base(config)
                model = training.add_lora(base, config)
                newer_attention()
            opened = time.perf_counter() - started
            if name == "original":
                trainer = original_trainer(training, config, model, tokenizer, steps)
            else:
                examples = select(load_source(config.data).examples, 1.0, config.seed)
                trainer = training.build_trainer(model, tokenizer, build_rows(examples, tokenizer, config)[0], config)
            log.info("%s trains: %s", name, trainer.data_collator)
            result = timed(trainer, args.warm_up)
        except Exception as error:
            log.exception("%s failed", name)
            result, opened = {"error": f"{type(error).__name__}: {error}"[:300]}, 0.0
        cards = config.per_device_train_batch_size * config.gradient_accumulation_steps
        if os.environ.get("RANK", "0") == "0":
            facts = {"name": name, "cards": cards, "processes": checkpoints.processes(), "opened_seconds": round(opened, 1)}
            sys.stdout.write(json.dumps(facts | result) + "\n")
            sys.stdout.flush()
        trainer = None
        gc.collect()
        training.torch.cuda.empty_cache()


def main() -> None:
    """Command line; see the top of the file."""
    parser = argparse.ArgumentParser(description="Measure training on this machine.")
    parser.add_argument("--base", default="assets/demo/base", help="the base in 16 bits")
    parser.add_argument("--base-4bit", help="the same base in NF4 [--base]")
    parser.add_argument("--data", default="assets/flashcards.jsonl")
    parser.add_argument("--variants", nargs="+", default=DEFAULT, choices=list(VARIANTS))
    parser.add_argument("--steps", type=int, default=8, help="timed optimizer steps [%(default)s]")
    parser.add_argument("--warm-up", type=int, default=4, help="steps before them [%(default)s]")
    parser.add_argument("--limit", type=int, default=240, help="seconds a base may take [%(default)s]")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=JSON", help="override one key of every configuration")
    parser.add_argument("--output", type=Path, help="where to write the results as JSON lines")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(relativeCreated)7d ms  %(message)s" if args.worker else "%(message)s")
    if args.worker:
        worker(args)
        return
    results = []
    for kind, base in (("4bit", args.base_4bit or args.base), ("16bit", args.base)):
        variants = [name for name in args.variants if VARIANTS[name][2] == kind]
        if not variants:
            continue
        command = [sys.executable, "-m", "tests.bench_training", "--worker", base, "--data", args.data, "--steps", str(args.steps)]
        command += ["--warm-up", str(args.warm_up), *(part for each in args.set for part in ("--set", each)), "--variants", *variants]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ) as process:
            deadline = time.monotonic() + args.limit
            for line in process.stdout or []:
                log.info("%4.0f s  %s", args.limit - deadline + time.monotonic(), line.rstrip())
                if line.startswith('{"name"'):
                    results.append(json.loads(line))
                if time.monotonic() > deadline:
                    process.kill()
    if args.output:
        args.output.write_text("".join(json.dumps(result) + "\n" for result in results), encoding="utf-8")
    report(results)


def report(results: list[dict[str, Any]]) -> None:
    """Logs the table."""
    baseline = next((result["tokens_per_second"] for result in results if result["name"] == "original" and "error" not in result), None)
    log.info("%-16s %6s %10s %8s %8s %10s %8s", "way", "cards", "tokens/s", "times", "s/step", "tok/step", "GiB")
    for result in results:
        if "error" in result:
            log.info("%-16s %s", result["name"], result["error"])
            continue
        times = f"{result['tokens_per_second'] / baseline:.1f}" if baseline else "-"
        values = (result["name"], result["cards"], result["tokens_per_second"], times, result["step_seconds"], result["tokens_per_step"])
        log.info("%-16s %6d %10d %8s %8.3f %10d %8.2f", *values, result["memory_gib"])


if __name__ == "__main__":
    main()
