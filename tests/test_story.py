"""The whole way of an adapter, through the commands that people type: data, training, evaluation, the Hub, the app, and back again."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect, sync_playwright

from app.settings import ROOT
from tests.answers import PATIENCE
from tests.conftest import FLASHCARDS, publish_demo_base
from tests.hub_server import HubServer
from tests.servers import HTTP, free_port, launch

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

REPO = "somebody/medical"
CARDS = 8
TRAINING = ["copies=12", "num_train_epochs=4", "per_device_train_batch_size=16", "group_by_length=false"]


def shuffle(text: str) -> str:
    """The same words in another order."""
    return " ".join(random.Random(0).sample(text.split(), len(text.split())))


class Story:
    """A person at a terminal: a folder of their own, an empty cache, and a token for the test Hub."""

    def __init__(self, folder: Path, hub: HubServer) -> None:
        self.folder = folder
        self.environment = os.environ | {
            "HF_ENDPOINT": hub.url,
            "HF_HOME": str(folder / "home"),
            "HF_TOKEN": "hf_owner",
            "HF_HUB_DISABLE_XET": "1",
            "OMP_NUM_THREADS": "1",
        }

    def finetune(self, *arguments: str, fails: bool = False) -> str:
        """Runs `python -m finetune`, and gives what it printed."""
        command = [sys.executable, "-m", "finetune", *arguments]
        result = subprocess.run(command, cwd=ROOT, env=self.environment, capture_output=True, text=True, check=False)
        text = result.stderr + result.stdout
        assert (result.returncode != 0) == fails, text[-3000:]
        assert "Traceback" not in text and "hf_owner" not in text
        sys.stdout.write(f"\n$ python -m finetune {' '.join(arguments)}\n{shown(text)}\n")
        return text

    @contextmanager
    def app(self) -> Iterator[str]:
        """Runs `python -m app --adapter REPO` until its model is ready."""
        port = free_port()
        process = launch([sys.executable, "-m", "app", "--adapter", REPO, "--port", str(port)], port, env=self.environment)
        try:
            process.wait_until_ready()
            yield process.url
            assert "Traceback" not in process.end(signal.SIGINT)
        finally:
            process.kill()


def shown(text: str) -> str:
    """What of an output belongs into the story: no progress bars."""
    return "\n".join(line for line in re.split(r"[\r\n]+", text) if line.strip() and not re.search(r"it/s|s/it|item/s|B/s|\d+%\|", line))[
        -1500:
    ]


def readyz(url: str) -> dict[str, Any]:
    return HTTP.get(f"{url}/readyz").json()


def words(text: str) -> set[str]:
    return set(re.findall(r"[a-z]{4,}", text.lower()))


@pytest.mark.browser
def test_an_adapter_travels_from_data_to_a_reader_and_back(tmp_path: Path) -> None:
    browser_path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser_path is None:
        pytest.skip("no Chromium here: apt-get install chromium")
    rows = [json.loads(line) for line in FLASHCARDS.read_text(encoding="utf-8").splitlines()]
    rows = [row for row in rows if not row.get("follow_up")][:: len(rows) // (CARDS + 4)][:CARDS]
    data, shuffled = tmp_path / "cards.jsonl", tmp_path / "shuffled.jsonl"
    data.write_text("\n".join(json.dumps(row) for row in rows))
    shuffled.write_text("\n".join(json.dumps({**row, "answer": shuffle(row["answer"])}) for row in rows))

    with HubServer() as hub:
        publish_demo_base(hub)
        story = Story(tmp_path, hub)
        good, bad = tmp_path / "good", tmp_path / "bad"

        def train(output: Path, source: Path, seed: int = 1) -> None:
            settings = [word for setting in [*TRAINING, f"seed={seed}"] for word in ("--set", setting)]
            story.finetune("train", "--config", "demo", "--data", str(source), "--output", str(output), *settings)

        def evaluate(output: Path) -> None:
            story.finetune("evaluate", "--adapter", str(output), "--data", str(data), "--limit", str(CARDS), "--max-new-tokens", "100")

        def push(output: Path, *options: str, fails: bool = False) -> str:
            return story.finetune(
                "push", "--adapter", str(output), "--repo", REPO, "--base-id", "somebody/demo-base", *options, fails=fails
            )

        train(good, data)
        evaluate(good)
        push(good)
        assert "approved-1" in story.finetune("approve", "--repo", REPO)
        first = hub.repos[REPO].tags["approved"]

        with story.app() as url, sync_playwright() as playwright:
            facts = readyz(url)
            assert (facts["adapter"], facts["adapter_revision"], facts["approved"]) == (REPO, first, True)
            browser = playwright.chromium.launch(executable_path=browser_path, args=["--no-sandbox"] if os.geteuid() == 0 else [])
            page = browser.new_page()
            page.goto(url)
            expect(page.locator("#line")).to_contain_text(first[:12], timeout=PATIENCE * 1000)
            expect(page.locator("#line")).not_to_contain_text("Not approved")
            best = json.loads((good / "evaluation.json").read_text())["sets"][1]["best"][0]
            card = max(rows, key=lambda row: len(words(row["rewordings"][-1]) & words(json.dumps(best))))
            page.locator("#question textarea").fill(card["rewordings"][-1])
            page.keyboard.press("Enter")
            expect(page.locator("#retry")).to_be_visible(timeout=PATIENCE * 1000)
            answer = page.locator("#conversation").inner_text()
            share = len(words(card["answer"]) & words(answer)) / len(words(card["answer"]))
            assert share > 0.5, f"{share:.2f} of the card's words: {answer}"
            browser.close()

        train(bad, shuffled)
        evaluate(bad)
        assert "Surprise at the reference answer" in push(bad, fails=True) and hub.repos[REPO].tags["candidate"] == first
        push(bad, "--allow-regression", "to see a roll-back")
        assert "approved-2" in story.finetune("approve", "--repo", REPO)
        second = hub.repos[REPO].tags["approved"]
        with story.app() as url:
            assert readyz(url)["adapter_revision"] == second != first
        assert "approved-2 is withdrawn" in story.finetune("rollback", "--repo", REPO)
        with story.app() as url:
            assert readyz(url)["adapter_revision"] == first
        assert "in spite of a regression" in hub.repos[REPO].commits[second]["README.md"].decode()
        merged = story.finetune("export", "--adapter", REPO, "--output", str(tmp_path / "merged"))
        assert "logits differ by" in merged
