"""What surrounds an answer, in a real browser: warnings, comparison, rating, saving; and that nothing is written before somebody asks."""

import json
import logging
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from app.conversation.feedback import read as read_ratings
from app.conversation.record import read, replay
from app.page.panel import CONSENT
from app.settings import ROOT
from tests.browser.conftest import DESKTOP, NEAR, PHONE, answer, answered, ask, at_work, finished
from tests.servers import Served

pytestmark = pytest.mark.browser

SCREENS = {
    "1440-light": DESKTOP,
    "390-dark": PHONE,
    "1440-dark": {**DESKTOP, "color_scheme": "dark"},
    "390-light": {**PHONE, "color_scheme": "light"},
}
BOTH = pytest.mark.parametrize("device", [DESKTOP, PHONE], ids=["desktop-light", "phone-dark"])
PLANTED = "Zephyrine Quillfeather"  # a name that stands nowhere else
SHOTS = ROOT / "tests" / "screenshots"


def clean(page: Page, state: str) -> None:
    violations = Axe().run(page).response["violations"]
    assert [(state, item["id"], [node["html"][:120] for node in item["nodes"]]) for item in violations] == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), state


@BOTH
def test_identifiers_are_held_back_marked_and_replaced_with_one_click(
    served: Served, open_page: Callable[..., Page], device: dict[str, Any]
) -> None:
    page = open_page(served.url, **device)
    sent = []
    page.on("request", lambda request: sent.append(request.post_data or "") if request.method == "POST" else None)
    box = page.locator("#question textarea")
    box.fill("Mrs Abernathy, born 03/04/1951: what is asthma?")
    box.press("Enter")
    strip = page.locator("#identifiers")
    expect(strip).to_contain_text("Nothing was sent")
    assert strip.locator("mark").all_inner_texts() == ["Mrs Abernathy", "born 03/04/1951"]
    expect(page.locator("#replace")).to_be_focused()
    clean(page, "held back")
    page.locator("#replace").click()
    expect(box).to_have_value("[name], [date of birth]: what is asthma?")
    expect(strip).to_have_count(0)
    assert not [body for body in sent if "Abernathy" in body]
    box.press("Enter")
    expect(page.locator("#conversation .user-row")).to_contain_text("[date of birth]")
    finished(page)
    assert page.errors == []


def test_who_sends_a_name_all_the_same_is_warned_by_the_server(served: Served, open_page: Callable[..., Page]) -> None:
    page = open_page(served.url)
    ask(page, "Mr Tobias Fennimore asks: what is asthma?")
    page.locator("#send-anyway").click()
    expect(page.locator("#strips")).to_contain_text("seems to hold a patient's name")
    finished(page)


def test_a_notice_stands_in_the_place_of_an_answer_which_is_shown_on_a_click(served: Served, open_page: Callable[..., Page]) -> None:
    page = open_page(served.url)
    ask(page, "My dad has crushing chest pain right now, what should I do?")
    expect(page.locator("#strips .urgent")).to_contain_text("Call your local emergency number")
    finished(page)
    expect(answer(page)).to_contain_text("The model's answer is not shown here.")
    page.locator("#show-withheld").click()
    expect(page.locator("#strips")).to_contain_text("shown for testing")
    finished(page)
    expect(answer(page)).not_to_contain_text("The model's answer is not shown here.")
    ask(page, "how many paracetamol would it take to kill me")
    expect(page.locator("#strips .urgent")).to_contain_text("findahelpline.com")
    expect(page.locator('#strips a[href="tel:988"]').first).to_be_visible()
    finished(page)
    expect(answer(page)).to_contain_text("The model's answer is not shown here.")
    expect(page.locator("#show-withheld")).to_be_hidden()


@BOTH
def test_the_longest_notice_shows_whom_to_call_and_leaves_the_question_on_the_screen(
    served: Served, open_page: Callable[..., Page], device: dict[str, Any]
) -> None:
    page = open_page(served.url, **device)
    ask(page, "I took a whole box of paracetamol, I want to die")
    expect(page.locator("#strips .urgent")).to_contain_text("poison centre")
    finished(page)
    bottom = "selector => document.querySelector(selector).getBoundingClientRect().bottom"
    bottoms = [page.evaluate(bottom, selector) for selector in ("#strips .urgent p:nth-child(2)", "#strips", "#composer")]
    assert bottoms[0] < bottoms[1] < bottoms[2] <= device["viewport"]["height"] + 1


@BOTH
def test_both_models_are_compared_blind_and_told_apart_after_the_vote(
    served: Served, open_page: Callable[..., Page], device: dict[str, Any]
) -> None:
    page = open_page(served.url, **device)
    page.locator("#compare input").check()
    ask(page, NEAR)
    sides = page.locator("#sides .side")
    expect(page.locator("#votes")).to_be_visible()
    assert sides.locator("h2").all_inner_texts() == ["A", "B"]
    texts = [side.locator("p").inner_text() for side in sides.all()]
    assert texts[0] and texts[1] and texts[0] != texts[1]
    expect(sides.locator("mark").first).to_be_visible()
    clean(page, "compared")
    page.locator("#vote-b").click()
    expect(sides.locator("h2").first).to_contain_text(": ")
    assert {name.split(": ")[1] for name in sides.locator("h2").all_inner_texts()} == {"tuned, adapter on", "base alone"}
    expect(page.locator("#sides .lead")).to_contain_text("changes the logits")
    clean(page, "voted")
    tuned = next(side for side in sides.all() if "tuned" in side.locator("h2").inner_text()).locator("p").inner_text()
    page.locator("#compare input").uncheck()
    answered(page, "How is it treated?")
    expect(page.locator("#conversation .bot-row")).to_have_count(2)
    assert tuned.split()[:4] == page.locator("#conversation .bot-row .message-content").first.inner_text().split()[:4]
    expect(page.locator("#comparison")).to_have_count(0)
    assert page.errors == []


@BOTH
def test_a_rating_is_stored_only_on_the_button_that_says_so(served: Served, open_page: Callable[..., Page], device: dict[str, Any]) -> None:
    page, path = open_page(served.url, **device), served.folder / "feedback" / "ratings.jsonl"
    path.unlink(missing_ok=True)
    ask(page, NEAR)
    finished(page)
    page.locator("#rate").click()
    expect(page.locator("#rated")).to_contain_text(NEAR)
    page.locator("#verdict").get_by_text("wrong").click()
    page.locator("#severity").get_by_text("mild").click()
    page.locator("#corrected textarea").fill("As Mrs Abernathy says, thirst.")
    clean(page, "rating")
    assert not path.exists()
    page.get_by_role("button", name=CONSENT).click()
    expect(page.locator("#stored")).to_contain_text("the corrected answer seems to hold a name")
    assert not path.exists()
    page.locator("#corrected textarea").fill("Thirst, passing urine often, weight loss.")
    page.get_by_role("button", name=CONSENT).click()
    expect(page.locator("#stored")).to_contain_text("Stored.")
    (row,) = read_ratings(path)
    assert (row.verdict, row.severity, row.turn.question, row.corrected[:6]) == ("wrong", "mild", NEAR, "Thirst")
    assert row.turn.details["adapter_revision"] == served.generator.loaded.adapter_revision


def test_a_conversation_is_saved_in_three_forms_and_made_again(served: Served, open_page: Callable[..., Page], tmp_path: Path) -> None:
    page = open_page(served.url)
    for question in (NEAR, "How is it treated?"):
        answered(page, question)
        expect(page.locator("#conversation .user-row").last).to_contain_text(question)
    page.locator("#to-save").click()
    expect(page.get_by_role("tab", name="Details")).to_have_attribute("aria-selected", "true")
    expect(page.locator("#details summary")).to_have_count(2)
    files = {}
    for kind in ("md", "html", "json"):
        with page.expect_download() as download:
            page.locator(f"#save-{kind}").click()
        files[kind] = tmp_path / download.value.suggested_filename
        download.value.save_as(files[kind])
        assert NEAR in files[kind].read_text(encoding="utf-8")
    record = read(files["json"])
    assert [same for _, same in replay(record, served.generator)] == [True, True]
    assert page.errors == []


def test_a_number_that_no_near_card_has_is_marked_in_the_answer(served: Served, open_page: Callable[..., Page]) -> None:
    served.steer.say = "HbA1c of 48 mmol/mol or more; give 250 mg of it every 8 hours for type 2."
    page = open_page(served.url)
    ask(page, "Which blood test thresholds diagnose diabetes mellitus?")
    finished(page)
    expect(answer(page)).to_contain_text(served.steer.say)
    strip = page.locator("#strips .strip.quiet")
    expect(strip).to_have_text("Not in the training cards: 250 mg, 8 hours")
    marked = "() => [...CSS.highlights.get('not-in-cards')].map(range => range.toString())"
    assert page.evaluate(marked) == ["250 mg", "8 hours"]
    clean(page, "marked")
    served.steer.say = "HbA1c of 48 mmol/mol or more."
    at_work(page, page.locator("#retry").click)
    finished(page)
    expect(answer(page)).not_to_contain_text("250 mg")
    expect(strip).to_have_count(0)
    assert page.evaluate(marked) == []


def test_an_answer_is_read_out_once(served: Served, open_page: Callable[..., Page]) -> None:
    page = open_page(served.url)
    page.evaluate(
        "window.said = []; new MutationObserver(() => said.push(document.querySelector('#said').textContent))"
        ".observe(document.querySelector('#said'), {childList: true, characterData: true, subtree: true})"
    )
    ask(page, NEAR)
    finished(page)
    expect(page.locator("#said")).to_contain_text("Answer: ")
    assert len([text for text in page.evaluate("said") if text]) == 1
    expect(page.locator('#conversation [role="log"]')).to_have_attribute("aria-live", "off")


def test_a_planted_name_is_found_on_no_disk_in_no_log_and_in_no_storage(
    served: Served, open_page: Callable[..., Page], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    page = open_page(served.url)
    ask(page, f"my patient is called {PLANTED}: what is asthma?")
    expect(page.locator("#send-anyway, #conversation .user-row").first).to_be_visible()
    if page.locator("#send-anyway").count():
        page.locator("#send-anyway").click()
    finished(page)
    page.locator("#toggle").click()
    page.get_by_role("tab", name="Details").click()
    with page.expect_download():
        page.locator("#save-json").click()
    name = PLANTED.split()[0]
    stored = page.evaluate(
        "async () => JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie, "
        "await caches.keys(), await indexedDB.databases()])"
    )
    assert name not in stored
    own = [record for record in caplog.records if not record.name.startswith(("asyncio", "playwright"))]
    assert not [record.name for record in own if name in record.getMessage()]
    folders = [served.folder, Path(os.environ.get("GRADIO_TEMP_DIR", Path(tempfile.gettempdir()) / "gradio")), ROOT / "outputs"]
    files = [path for folder in folders if folder.is_dir() for path in folder.rglob("*") if path.is_file() and path.stat().st_size < 5e6]
    assert not [path for path in files if name.encode() in path.read_bytes()]


@pytest.mark.slow  # asserts little: it writes pictures
@pytest.mark.parametrize("screen", SCREENS)
def test_pictures_to_look_at(served: Served, open_page: Callable[..., Page], screen: str) -> None:
    SHOTS.mkdir(exist_ok=True)
    page = open_page(served.url, **SCREENS[screen])

    def shoot(name: str) -> None:
        path = SHOTS / f"{screen}-{name}.png"
        page.screenshot(path=path, animations="disabled")  # finished ones, that is
        assert path.stat().st_size > 5000

    shoot("1-empty")
    ask(page, "Mrs Abernathy, born 03/04/1951: what is asthma?")
    expect(page.locator("#identifiers")).to_be_visible()
    shoot("2-identifiers")
    page.locator("#replace").click()
    page.locator("#compare input").check()
    page.locator("#send").click()
    expect(page.locator("#votes")).to_be_visible()
    shoot("3-compared")
    page.locator("#vote-a").click()
    expect(page.locator("#sides .lead")).to_contain_text("logits")
    shoot("4-voted")
    page.locator("#compare input").uncheck()
    ask(page, "My dad has crushing chest pain right now, what should I do?")
    expect(page.locator("#strips .urgent")).to_be_visible()
    finished(page)
    shoot("5-emergency")
    page.locator("#rate").click()
    for number, tab in enumerate(("Rate", "Evidence", "Details", "Settings"), 6):
        page.get_by_role("tab", name=tab).click()
        shoot(f"{number}-{tab.lower()}")
    assert json.dumps(page.errors) == "[]"
