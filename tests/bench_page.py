"""Measures how long after its making an answer is on the screen: `python -m tests.bench_page`. Needs Chromium.

The server, the page and the browser are real; the tokens come at a set pace, 500 at 200 a second, because what is measured is the way
from the generation thread to the screen, in a conversation that has 20 messages at the end. Not a test: it asserts nothing.
"""

import argparse
import itertools
import logging
import os
import shutil
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from playwright.sync_api import Page, expect, sync_playwright

from app.engine.answer import Answer
from app.engine.generation import LocalGenerator
from app.engine.model import load
from app.settings import DEMO_ADAPTER, load_settings
from tests.servers import running

log = logging.getLogger(__name__)

QUESTION = "What are the common symptoms of diabetes?"
# Notes when the text of the last answer changes for the last time, in milliseconds since 1970.
WATCH = """
window.changed = 0; window.seen = '';
new MutationObserver(() => {
    const rows = document.querySelectorAll('#conversation .bot-row .message-content');
    const text = rows.length ? rows[rows.length - 1].textContent : '';
    if (text !== seen) { seen = text; changed = Date.now(); }
}).observe(document.body, {subtree: true, childList: true, characterData: true});
"""


class Pace:
    """Stands in for a decoder's passes: words of the vocabulary at `seconds` each, the `length`-th token ending the answer."""

    def __init__(self, tokenizer: Any, eos: int, vocabulary: int) -> None:
        words = [" heart", " rate", " fever", ",", " cough", ".", " sleep", " rest"]
        self.words = itertools.cycle([tokenizer.encode(word, add_special_tokens=False)[0] for word in words])
        self.eos, self.vocabulary = eos, vocabulary
        self.seconds, self.length = 0.0, 30
        self.begun, self.step = 0.0, 0

    def __call__(self, ids: torch.Tensor, start: int) -> torch.Tensor:
        if start == 0:
            self.begun, self.step = time.monotonic(), 0
        self.step += 1
        time.sleep(max(0.0, self.begun + self.step * self.seconds - time.monotonic()))
        logits = torch.zeros(1, self.vocabulary)
        logits[0, self.eos if self.step > self.length else next(self.words)] = 1.0
        return logits


@contextmanager
def chromium() -> Iterator[Page]:
    """A page in the system's Chromium."""
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        raise SystemExit("No Chromium here: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"] if os.geteuid() == 0 else [])
        yield browser.new_page(viewport={"width": 1440, "height": 900})
        browser.close()


def ask(page: Page) -> float:
    """Sends the question and waits for the end of the answer; gives the time of the click, in seconds since 1970."""
    page.locator("#question textarea").fill(QUESTION)
    clicked = time.time()
    page.locator("#send").click()
    expect(page.locator("#stop")).to_be_visible(timeout=60_000)
    expect(page.locator("#send")).to_be_visible(timeout=120_000)
    return clicked


def main() -> None:
    """Command line; see the top of the file."""
    parser = argparse.ArgumentParser(description="Measure how long after its making an answer is on the screen.")
    parser.add_argument("--tokens", type=int, default=500)
    parser.add_argument("--speed", type=float, default=200.0, help="tokens a second")
    parser.add_argument("--messages", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("app").setLevel(logging.WARNING)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    torch.set_num_threads(1)
    loaded = load(DEMO_ADAPTER, "cpu")
    limits = loaded.contract.generation.model_copy(update={"max_new_tokens": args.tokens + 1})
    loaded = replace(loaded, contract=loaded.contract.model_copy(update={"generation": limits}))
    settings = load_settings(max_new_tokens=args.tokens + 1)
    generator = LocalGenerator(lambda name: loaded, loaded.name)
    generator.wait_until_ready(120)
    pace = Pace(loaded.tokenizer, loaded.contract.eos_token_ids[0], loaded.model.config.vocab_size)
    made: list[Answer] = []
    submit: Callable[..., Answer] = generator.submit

    def noted(request: Any) -> Answer:
        made.append(submit(request))
        return made[-1]

    generator.submit = noted  # type: ignore[method-assign]
    loaded.decoder.logits = pace  # type: ignore[union-attr,method-assign,assignment]
    ratios = []
    log.info("%d tokens at %.0f a second, message %d of a conversation", args.tokens, args.speed, args.messages)
    with running(settings, generator) as url, chromium() as page:
        for _ in range(args.repeats):
            page.goto(url)
            expect(page.locator("#line code").first).to_be_visible(timeout=60_000)
            page.evaluate(WATCH)
            pace.seconds, pace.length = 0.0, 30
            for _ in range(args.messages // 2 - 1):
                ask(page)
            pace.seconds, pace.length = 1 / args.speed, args.tokens
            clicked = ask(page)
            answer = made[-1]
            took = (answer.finished_at or 0.0) - (answer.started_at or 0.0)
            shown = page.evaluate("changed") / 1000 - clicked
            ratios.append(shown / took)
            log.info(
                "%d tokens made in %.2f s, on the screen %.2f s after the click: %.2f times",
                answer.completion_tokens,
                took,
                shown,
                shown / took,
            )
    log.info("median of %d: %.2f times", len(ratios), statistics.median(ratios))
    generator.close()


if __name__ == "__main__":
    main()
