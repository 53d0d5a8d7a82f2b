"""A Chromium and a server for all browser tests, pages that remember what they asked for, and what the tests do on them."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from app.engine.generation import LocalGenerator
from app.engine.model import LoadedModel
from app.settings import load_settings
from tests.answers import PATIENCE, Steer
from tests.servers import Served, running

DESKTOP: dict[str, Any] = {"viewport": {"width": 1440, "height": 900}, "color_scheme": "light"}
PHONE: dict[str, Any] = {"viewport": {"width": 390, "height": 844}, "color_scheme": "dark", "has_touch": True, "is_mobile": True}

NEAR = "What are the common symptoms of diabetes?"
FAR = "Who won the football championship in Brazil last summer?"

MILLISECONDS = PATIENCE * 1000  # Playwright counts in them
expect.set_options(timeout=MILLISECONDS)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """The system's Chromium, or the one that `playwright install chromium` fetched."""
    with sync_playwright() as playwright:
        names = ("chromium", "chromium-browser", "google-chrome")
        path = next(filter(None, map(shutil.which, names)), playwright.chromium.executable_path)
        if not Path(path).is_file():
            pytest.skip("no Chromium here: apt-get install chromium")
        # Chromium's sandbox does not start for root.
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"] if os.geteuid() == 0 else [])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def contexts(chromium: Browser) -> Iterator[dict[str, BrowserContext]]:
    """One window for each kind of screen, so that Gradio's scripts come out of its cache after the first page."""
    made: dict[str, BrowserContext] = {}
    yield made
    for context in made.values():
        context.close()


@pytest.fixture
def open_page(chromium: Browser, contexts: dict[str, BrowserContext], hooked: Steer) -> Iterator[Callable[..., Page]]:
    """Opens tabs; `page.hosts` and `page.errors` are filled as they live, and `page.steer` steers their answers."""
    pages = []

    def opened(url: str, ready: bool = True, **screen: Any) -> Page:
        screen = screen or DESKTOP
        if str(screen) not in contexts:
            contexts[str(screen)] = chromium.new_context(**screen)
            contexts[str(screen)].set_default_timeout(MILLISECONDS)
        page = contexts[str(screen)].new_page()
        pages.append(page)
        page.hosts, page.errors, page.steer = set(), [], hooked
        page.on("request", lambda request: page.hosts.add(request.url.split("/")[2] if "://" in request.url else "data"))
        page.on("console", lambda message: page.errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: page.errors.append(str(error)))
        page.goto(url)
        expect(page.locator("#line code" if ready else "#line p").first).to_be_visible()
        return page

    yield opened
    for page in pages:
        page.close()


@pytest.fixture(scope="module")
def shared(loaded: LoadedModel, hooked: Steer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("outputs")
    settings = load_settings(
        show_withheld=True,
        adapter=loaded.name,
        adapters_folder=folder,
        max_queue=1,
        max_body_bytes=300_000,
        feedback_folder=folder / "feedback",
    )
    generator = LocalGenerator(lambda name: loaded, loaded.name, max_queue=settings.max_queue)
    generator.wait_until_ready(PATIENCE)
    with running(settings, generator) as url:
        yield Served(url, generator, hooked, folder)


@pytest.fixture
def served(shared: Served) -> Iterator[Served]:
    shared.steer.reset()
    yield shared
    for answer in [*shared.generator._waiting, shared.generator._running]:
        if answer:
            answer.stop()
    shared.rested()


def ask(page: Page, question: str) -> None:
    page.locator("#question textarea").fill(question)
    page.locator("#send").click()


def at_work(page: Page, act: Callable[[], object]) -> None:
    """Does what has the page answer, and returns when it shows that; the answer stands still until then.

    Without it a test that asks a second time would find the signs of the first answer's end.
    """
    page.steer.hold.at(1)
    act()
    expect(page.locator("#stop")).to_be_visible()
    page.steer.hold.release()


def answered(page: Page, question: str) -> None:
    """Asks, and waits for the answer's end."""
    at_work(page, lambda: ask(page, question))
    finished(page)


def finished(page: Page) -> None:
    """Waits until the page shows that an answer has ended; of the second answer on that is so only after `at_work`."""
    expect(page.locator("#send")).to_be_visible()
    expect(page.locator("#retry")).to_be_visible()


def answer(page: Page) -> Any:
    return page.locator("#conversation .bot-row").last
