"""Measures the chat on this machine: opening the adapter, time to the first piece of text, tokens per second.

    make bench                                  # the demo adapter
    make bench ARGS="--adapter outputs/mine"

The usual way - `Thread(target=model.generate)` with a new streamer per question - is measured in the same run, question by
question in turn with ours, so that a noisy machine disturbs both alike. Not a test: it asserts nothing.
"""

import argparse
import json
import logging
import platform
import statistics
import threading
import time
from pathlib import Path

import torch
from transformers import TextIteratorStreamer

from app.contract import prompt_ids
from app.generation import GenerationRequest, LocalGenerator
from app.model import LoadedModel, load
from app.settings import DEMO_ADAPTER, ROOT

log = logging.getLogger(__name__)

Figures = tuple[float, float]  # seconds to the first piece of text, tokens per second


def stock(loaded: LoadedModel, question: str, new_tokens: int) -> Figures:
    """One answer the usual way."""
    ids = torch.tensor([prompt_ids(loaded.tokenizer, [{"role": "user", "content": question}])], device=loaded.device)
    streamer = TextIteratorStreamer(loaded.tokenizer, skip_prompt=True, skip_special_tokens=True)
    options = {
        "max_new_tokens": new_tokens,
        "min_new_tokens": new_tokens,
        "do_sample": False,
        "pad_token_id": loaded.tokenizer.pad_token_id,
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


def ours(generator: LocalGenerator, question: str, new_tokens: int, use_adapter: bool) -> tuple[Figures, int]:
    """One answer through the generation thread, and how many tokens it has."""
    started = time.perf_counter()
    request = GenerationRequest([{"role": "user", "content": question}], use_adapter=use_adapter, max_new_tokens=new_tokens)
    answer = generator.submit(request)
    first = None
    for _ in answer:
        first = first or time.perf_counter() - started
    return (first or 0.0, answer.completion_tokens / (time.perf_counter() - started)), answer.completion_tokens


def main() -> None:
    """Command line; see the top of the file."""
    parser = argparse.ArgumentParser(description="Measure the chat on this machine.")
    parser.add_argument("--adapter", default=DEMO_ADAPTER)
    parser.add_argument("--questions", type=int, default=10)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="CPU threads to try")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("app").setLevel(logging.WARNING)
    samples = json.loads((ROOT / "assets" / "sample_questions.json").read_text(encoding="utf-8"))
    questions = [question for group in zip(*samples.values(), strict=False) for question in group][: args.questions]
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU ({platform.machine()})"
    log.info("%s, torch %s, %d questions, medians", device, torch.__version__, len(questions))
    log.info("%-24s %8s %14s %10s", "way", "threads", "first text, s", "tokens/s")
    for threads in args.threads if not torch.cuda.is_available() else args.threads[:1]:
        torch.set_num_threads(threads)
        generator = LocalGenerator(load, str(Path(args.adapter)))
        generator.wait_until_ready()
        loaded = generator.loaded
        if loaded is None:
            raise SystemExit("The adapter could not be opened.")
        ours(generator, questions[0], 16, True)  # warm-up
        rows: dict[str, list[Figures]] = {"ours, adapter on": [], "ours, adapter off": [], "stock, adapter on": []}
        for question in questions:
            figures, tokens = ours(generator, question, 128, True)
            rows["ours, adapter on"].append(figures)
            rows["ours, adapter off"].append(ours(generator, question, tokens, False)[0])
            rows["stock, adapter on"].append(stock(loaded, question, tokens))
        for name, values in rows.items():
            first, speed = (statistics.median(column) for column in zip(*values, strict=True))
            log.info("%-24s %8d %14.3f %10.1f", name, threads, first, speed)
        log.info("%-24s %8d %14s", "opened in, s", threads, f"{loaded.load_seconds:.2f}")
        generator.close()


if __name__ == "__main__":
    main()
