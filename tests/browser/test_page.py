"""The page in a real browser against a real server and model; a hook on the model sets its pace, its end and its failures."""

import re
import shutil
import socket
import threading
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from app.adapter.directory import public_name
from app.engine.answer import GenerationRequest
from app.engine.generation import LocalGenerator
from app.engine.model import LoadedModel
from app.page import fragments
from app.page.ui import DISCLAIMER
from app.settings import ROOT, load_settings
from tests.answers import wait_until
from tests.browser.conftest import DESKTOP, FAR, NEAR, PHONE, answer, answered, ask, at_work, finished
from tests.conftest import QUICK_AND_LONG
from tests.servers import Served, running

pytestmark = pytest.mark.browser

SECRET = "Zanzibarine"  # stands for what somebody types: it may be on the page and nowhere else


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text)


def test_an_answer_arrives_in_pieces_and_nothing_leaves_the_page(served: Served, open_page: Callable[..., Page]) -> None:
    served.steer.end_at = 40
    served.steer.hold.at(8)
    page = open_page(served.url)
    box = page.locator("#question textarea")
    expect(box).to_be_focused()
    box.press_sequentially(f"{SECRET}: what are the common")
    box.press("Shift+Enter")
    box.press_sequentially("symptoms of diabetes?")
    box.press("Enter")
    expect(page.locator("#stop")).to_be_visible()
    expect(page.locator("#send")).to_be_hidden()
    shown = answer(page).locator(".message-content")
    expect(shown).to_contain_text(re.compile(r"\w"))
    for token in (16, 24, 32):
        before = len(shown.inner_text())
        served.steer.hold.at(token)
        wait_until(lambda before=before: len(shown.inner_text()) > before)
    served.steer.hold.release()
    finished(page)
    expect(page.locator("#conversation .user-row")).to_contain_text("symptoms of diabetes?")
    expect(box).to_have_value("")
    expect(box).to_be_focused()
    expect(answer(page).get_by_role("button", name="Copy")).to_be_visible()
    stored = page.evaluate(
        "async () => JSON.stringify("
        "[{...localStorage}, {...sessionStorage}, document.cookie, await caches.keys(), await indexedDB.databases()])"
    )
    assert SECRET not in stored
    assert stored.endswith(",[],[]]")
    assert page.hosts <= {served.url.split("/")[2], "data"}
    assert page.errors == []


def test_stop_keeps_the_text_and_retry_edit_and_clear_go_on_from_it(served: Served, open_page: Callable[..., Page]) -> None:
    page = open_page(served.url)
    served.steer.hold.at(12)
    users = page.locator("#conversation .user-row")
    ask(page, NEAR)
    expect(answer(page)).to_contain_text(re.compile(r"\w+ \w+"))
    page.keyboard.press("Escape")
    finished(page)
    wait_until(lambda: served.generator.queue_length == 0)
    expect(page.locator("#progress")).to_have_text("Stopped.")
    expect(answer(page)).to_contain_text(re.compile(r"\w+ \w+"))
    served.steer.hold.at(12)
    page.locator("#retry").click()
    expect(page.locator("#stop")).to_be_visible()
    expect(users).to_have_count(1)
    page.locator("#stop").click()
    finished(page)
    served.steer.end_at = 8
    answered(page, "How is it treated?")
    expect(users).to_have_count(2)
    page.locator("#edit").click()
    expect(page.locator("#question textarea")).to_have_value("How is it treated?")
    expect(users).to_have_count(1)
    page.locator("#question textarea").fill("How is it prevented?")
    at_work(page, lambda: page.keyboard.press("Enter"))
    expect(users.last).to_contain_text("How is it prevented?")
    finished(page)
    page.locator("#clear").click()
    expect(page.locator("#start")).to_be_visible()
    expect(users).to_have_count(0)
    assert page.errors == []


def test_question_and_answer_stand_there_character_by_character(served: Served, open_page: Callable[..., Page]) -> None:
    written = "Na<K and pH>7, WBC 11*10^9/L or 4*10^9/L; R&amp;D <b>x</b>\n1. <img src=x>\n  ![](http://example.org/x.png) T_max_ `a` ~5~"
    served.steer.say = written
    page = open_page(served.url)
    ask(page, written)
    finished(page)
    for row in (page.locator("#conversation .user-row .message-content"), answer(page).locator(".message-content")):
        assert row.inner_text().replace("\u2060", "") == written
    page.locator("#edit").click()
    expect(page.locator("#question textarea")).to_have_value(written)
    assert page.hosts <= {served.url.split("/")[2], "data"}
    assert page.errors == []


def test_sample_questions_change_with_the_specialty_and_are_asked_at_once(served: Served, open_page: Callable[..., Page]) -> None:
    page = open_page(served.url)
    first = page.locator(".sample").all_inner_texts()
    page.get_by_role("radio", name="Neurology").check(force=True)
    expect(page.locator(".sample").first).not_to_have_text(first[0])
    chosen = page.locator(".sample").nth(1)
    question = chosen.inner_text().strip()
    chosen.click()
    expect(page.locator("#conversation .user-row")).to_contain_text(question)
    finished(page)
    expect(page.locator("#start")).to_be_hidden()


def test_the_drawer_shows_evidence_details_and_settings(
    served: Served, loaded: LoadedModel, adapter: str, open_page: Callable[..., Page]
) -> None:
    page = open_page(served.url)
    line, drawer = page.locator("#line"), page.locator("#drawer")
    expect(line).to_contain_text(public_name(loaded.base))
    expect(page.get_by_text(DISCLAIMER)).to_have_count(1)
    expect(drawer).to_be_hidden()
    ask(page, NEAR)
    finished(page)
    page.locator("#toggle").click()
    expect(drawer).to_contain_text("Training cards, not a source")
    expect(drawer.get_by_role("heading", name=NEAR)).to_be_visible()
    page.get_by_role("tab", name="Details").click()
    expect(drawer).to_contain_text("logits changed by the adapter")
    expect(drawer).to_contain_text("tokens per second")
    page.get_by_role("tab", name="Settings").click()
    expect(drawer.get_by_label("Temperature").first).to_be_visible()
    page.locator("#close").click()
    expect(drawer).to_be_hidden()
    # An adapter that was trained meanwhile is there without a restart.
    shutil.copytree(ROOT / adapter, served.folder / "newest", ignore=shutil.ignore_patterns("checkpoints", "assets"))
    page.locator("#toggle").click()
    page.locator("#adapter input").click()
    page.get_by_role("option", name="newest").click()
    expect(line).to_contain_text("newest")
    page.locator("#use-adapter input").uncheck()
    expect(line).to_contain_text("adapter off")
    assert page.errors == []


def test_a_question_far_from_the_cards_gets_a_notice_and_a_near_one_none(served: Served, open_page: Callable[..., Page]) -> None:
    page = open_page(served.url)
    ask(page, FAR)
    expect(page.locator(".strip.notice")).to_contain_text("far from every card")
    finished(page)
    expect(page.locator(".strip.notice")).to_be_visible()
    at_work(page, lambda: ask(page, NEAR))
    expect(page.locator("#strips .strip")).to_have_count(0)
    finished(page)


def test_two_tabs_never_mix(served: Served, open_page: Callable[..., Page], loaded: LoadedModel) -> None:
    questions = [NEAR, "How does metformin lower blood glucose?"]
    served.steer.end_at = 25
    alone = []
    for question in questions:
        request = GenerationRequest([{"role": "user", "content": question}], **loaded.contract.generation.model_dump())
        alone.append("".join(served.generator.submit(request)))
    assert alone[0] != alone[1]
    pages = [open_page(served.url), open_page(served.url)]
    served.steer.hold.at(5)
    for page, question in zip(pages, questions, strict=True):
        ask(page, question)
        served.steer.hold.wait()
    expect(pages[1].locator("#progress")).to_contain_text("Waiting: 1")
    served.steer.hold.release()
    for page, text in zip(pages, alone, strict=True):
        finished(page)
        assert words(answer(page).locator(".message-content").inner_text()) == words(text)


@pytest.mark.parametrize("long", QUICK_AND_LONG)
def test_a_closed_tab_stops_its_answer(served: Served, open_page: Callable[..., Page], long: bool) -> None:
    for _ in range(100 if long else 1):
        page = open_page(served.url)
        served.steer.end_at, served.steer.delay = None, 0.3  # it is noticed with the next piece of text; all pieces take minutes
        ask(page, NEAR)
        expect(answer(page)).to_be_visible()
        running = served.generator._running
        page.close()
        wait_until(running.done.is_set)
        assert running.finish_reason == "stopped"


def test_a_question_that_cannot_be_asked_stays_in_the_box(served: Served, open_page: Callable[..., Page]) -> None:
    page = open_page(served.url)
    box, strip = page.locator("#question textarea"), page.locator("#strips .strip.error")
    ask(page, "   ")
    expect(strip).to_have_text("The question is empty. Type a question first.")
    ask(page, "a" * 100_000)
    expect(strip).to_contain_text("The question has 100,000 characters")
    assert len(box.input_value()) == 100_000
    ask(page, "a" * 400_000)  # more than the server reads
    expect(page.locator("#not-taken")).to_have_text(fragments.NOT_TAKEN)
    assert len(box.input_value()) == 400_000
    ask(page, NEAR)
    finished(page)
    expect(page.locator(".strip.error:visible")).to_have_count(0)


def test_a_failure_in_the_middle_keeps_the_text_and_says_one_sentence(served: Served, open_page: Callable[..., Page]) -> None:
    served.steer.fail_at = 12
    page = open_page(served.url)
    ask(page, NEAR)
    expect(page.locator("#strips .strip.error")).to_contain_text("The model failed in the middle of this answer.")
    expect(answer(page)).to_contain_text(re.compile(r"\w+"))
    served.steer.fail_at = None
    at_work(page, page.locator("#retry").click)
    expect(page.locator("#strips .strip")).to_have_count(0)
    finished(page)


def test_a_full_queue_is_said_and_a_place_in_it_is_shown(served: Served, open_page: Callable[..., Page]) -> None:
    request = GenerationRequest([{"role": "user", "content": NEAR}], max_new_tokens=400)
    served.steer.hold.at(3)
    first = served.generator.submit(request)
    served.steer.hold.wait()
    second = served.generator.submit(request)
    page = open_page(served.url)
    ask(page, FAR)
    expect(page.locator("#strips .strip.error")).to_contain_text("Try again in a moment.")
    expect(page.locator("#question textarea")).to_have_value(FAR)
    second.stop()
    page.locator("#send").click()
    expect(page.locator("#progress")).to_contain_text("Waiting: 1")
    first.stop()
    finished(page)
    expect(answer(page)).to_be_visible()


def test_while_the_model_loads_the_page_is_there_and_keeps_the_question(loaded: LoadedModel, open_page: Callable[..., Page]) -> None:
    opened = threading.Event()

    def load(name: str) -> LoadedModel:
        opened.wait()
        return loaded

    with running(load_settings(adapter=loaded.name), LocalGenerator(load, loaded.name)) as url, ExitStack() as afterwards:
        afterwards.callback(opened.set)
        page = open_page(url, ready=False)
        expect(page.locator("#line")).to_have_text("The model is loading.")
        ask(page, NEAR)
        expect(page.locator(".strip.notice")).to_contain_text("The model is loading.")
        expect(page.locator("#question textarea")).to_have_value(NEAR)
        opened.set()
        expect(page.locator("#line code").first).to_be_visible()
        expect(page.locator("#strips .strip")).to_have_count(0)
        page.locator("#send").click()
        finished(page)
        page.close()


def test_text_on_the_page_runs_nothing_and_fetches_nothing(served: Served, open_page: Callable[..., Page]) -> None:
    page = open_page(served.url)
    asked = []
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        stranger.setblocking(False)
        url = f"http://127.0.0.1:{stranger.getsockname()[1]}"
        page.on("dialog", lambda dialog: asked.append(dialog.message))
        ask(
            page,
            f"![a]({url}/a.png) <img src={url}/b.png onerror=alert(1)> <script>alert(2)</script> <iframe src={url}></iframe> ${{alert(3)}}",
        )
        finished(page)
        with pytest.raises(BlockingIOError):
            stranger.accept()
    assert page.hosts <= {served.url.split("/")[2], "data"}
    assert asked == []


@pytest.mark.parametrize("device", [DESKTOP, PHONE], ids=["desktop-light", "phone-dark"])
def test_axe_finds_nothing_and_nothing_overflows(served: Served, open_page: Callable[..., Page], device: dict[str, Any]) -> None:
    page = open_page(served.url, **device)
    served.steer.hold.at(12)

    def check(state: str) -> None:
        violations = Axe().run(page).response["violations"]
        assert [(state, item["id"], [node["html"][:120] for node in item["nodes"]]) for item in violations] == []
        assert page.evaluate(
            "document.documentElement.scrollWidth <= innerWidth && document.documentElement.scrollHeight <= innerHeight"
        ), state
        width = device["viewport"]["width"]
        for button in page.locator("button:visible").all():
            box = button.bounding_box()
            assert box is None or (box["x"] >= 0 and box["x"] + box["width"] <= width), (state, button.inner_text())

    check("empty")
    ask(page, FAR)
    expect(answer(page)).to_be_visible()
    check("streaming")
    page.locator("#stop").click()
    finished(page)
    check("finished")
    page.locator("#toggle").click()
    for tab in ("Evidence", "Details", "Rate", "Settings"):
        page.get_by_role("tab", name=tab).click()
        expect(page.get_by_role("tab", name=tab)).to_have_attribute("aria-selected", "true")
        check(tab)
