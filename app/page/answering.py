"""An answer on the page, from the question until the page shows how it ended.

Three events do it: `ask` streams the text with few outputs, because for each piece Gradio makes anew every output that it leaves as it
is; it wakes `begin`, which shows the page at work, and in the end `finish`, which shows how the answer ended.
"""

import logging
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import gradio as gr

from app.adapter.contract import Message
from app.conversation.chat import Chat, Finished, Notice, Text, Waiting
from app.conversation.history import Entry, answers, conversation, last_question, message
from app.conversation.record import Side, Turn
from app.errors import Busy, NotReady, UserError
from app.logs import ID_HEADER
from app.notices.evidence import unsupported
from app.page import fragments
from app.page.layout import LOOK_SECONDS, Layout, View

log = logging.getLogger(__name__)

Turns = list[dict[str, Any]]  # `app.record.Turn`s as plain values

# Seconds after which a page that did not ask how its answer ended is helped by Stop, and after which it has gone.
LATE_SECONDS, GONE_SECONDS = 3.0, 60.0


@dataclass
class Asked:
    """A question of a page, from the moment that it is asked until the page shows how it ended.

    Args:
        shown: The conversation up to the question.
        turns: What made the answers before it.
        options: Of `Chat.turn`.
        compare: Whether both models answer.
    """

    shown: list[Entry]
    turns: Turns
    options: dict[str, Any]
    compare: bool
    token: str = field(default_factory=partial(secrets.token_hex, 4))
    stop: threading.Event = field(default_factory=threading.Event)
    begun: threading.Event = field(default_factory=threading.Event)  # the page shows that it is at work
    end: View | None = None  # what the page shows then
    ended_at: float = 0.0

    def ends_with(self, view: View) -> None:
        """The answer has ended."""
        self.ended_at, self.end = time.monotonic(), view

    def ended_before(self, seconds: float) -> bool:
        """Whether the answer ended longer ago than this."""
        return self.end is not None and time.monotonic() - self.ended_at > seconds


class Answering:
    """The events of answers; one object serves all visitors, and remembers of them what is being answered and nothing else.

    Args:
        page: The components that the answers are shown in.
        chat: Makes the answers.
        max_queue: Answers that may wait; one more is refused before the page changes for it.
    """

    def __init__(self, page: Layout, chat: Chat, max_queue: int) -> None:
        self.page, self.chat, self._max_queue = page, chat, max_queue
        self.running: dict[str, Asked] = {}  # by visitor

    def ask(
        self,
        event: gr.EventData,
        request: gr.Request,
        question: str | None,
        history: list[Entry],
        turns: Turns,
        compare: bool,
        *values: Any,
    ) -> Iterator[View]:
        """Answers what was typed, a sample question, or the last question again; closing the iterator stops the answer."""
        page = self.page
        texts, controls = values[: len(page.samples)], values[len(page.samples) :]
        samples = {button.elem_id: text for button, text in zip(page.samples, texts, strict=True)}
        # By elem_id: what Gradio hands over here is a copy of the component, with another number, once it has been updated.
        source, typed = getattr(event.target, "elem_id", None), question or ""
        question = samples.get(source, typed)
        history = _settled(history, turns)
        if source in (page.retry.elem_id, page.show.elem_id):
            question, history = last_question(history)
        turns = turns[: answers(history)]
        shown = [*history, message("user", question.strip())]
        try:
            options = {**page.panel.options(*controls), "request_id": request.headers.get(ID_HEADER, "")}
            wanted = {"show_withheld": True} if source == page.show.elem_id else {}
            self._check(conversation(shown), options)
        except UserError as error:
            strip = fragments.notice if self.chat.generator.status == "loading" else fragments.error
            yield {page.strips: strip(str(error)), page.progress: "", page.question: question if source in samples else typed}
            return
        begun = {
            page.conversation: shown,
            page.sides: fragments.sides(["", ""]) if compare else "",
            page.question: typed if source in samples or source in (page.retry.elem_id, page.show.elem_id) else "",
            page.strips: "",
            page.progress: fragments.waiting(0),
            page.send: gr.Button(visible=False),
            page.stop: gr.Button(visible=True),
        }
        options |= {"address": request.client.host if request.client else "", **wanted}
        yield from self.answer(str(request.session_hash), begun, Asked(shown, turns, options, compare))

    def answer(self, visitor: str, begun: View, asked: Asked) -> Iterator[View]:
        """Answers a checked question of a visitor who is not being answered yet; `begun` is what the page shows first."""
        progress = self.page.progress
        for gone in [visitor for visitor, one in list(self.running.items()) if one.ended_before(GONE_SECONDS)]:
            self.running.pop(gone, None)
        if self.running.setdefault(visitor, asked) is not asked:
            yield {progress: gr.skip()}  # pressed twice, or Enter while an answer is being written: what was typed stays in the box
            return
        try:
            yield {**begun, self.page.taken: asked.token}
            yield from self._steps(asked)
        except Exception as error:
            # Its message may hold text of the chat.
            log.error("an answer failed: %s", type(error).__name__, extra={"request_id": asked.options["request_id"]})
            self.chat.metrics.error(error)
            failed = fragments.error("Something failed here. Try again: the conversation is kept.")
            asked.ends_with({**self.page.working(False), self.page.strips: failed, progress: ""})
        finally:
            if asked.end is None:  # its reader has gone
                self.running.pop(visitor, None)
        while not asked.begun.wait(LOOK_SECONDS) and not asked.ended_before(GONE_SECONDS):
            yield {progress: gr.skip()}  # what ended at once must not be shown as ended before it is shown as begun
        yield {self.page.written: asked.token}

    def begin(self, token: str, request: gr.Request) -> View:
        """Shows the page at work on an answer."""
        page = self.page
        asked = self.running.get(str(request.session_hash))
        if asked is None or asked.token != token:
            return {page.actions: gr.skip()}
        view = {
            **page.working(True),
            page.conversation: gr.Chatbot(visible=True),
            page.comparison: gr.Column(visible=asked.compare),
            page.panel.evidence: self.nearest(conversation(asked.shown)[-1]["content"]),
            page.panel.stored: "",
            page.panel.download: "",
        }
        asked.begun.set()
        return view

    def finish(self, token: str, request: gr.Request) -> View:
        """Shows how the answer ended."""
        visitor = str(request.session_hash)
        asked = self.running.get(visitor)
        if asked is None or asked.token != token or asked.end is None:
            return {self.page.progress: gr.skip()}
        self.running.pop(visitor, None)
        return asked.end

    def stop(self, request: gr.Request) -> View:
        """Has the answer that a visitor is getting end; `ask` then ends by itself, which a cancelled event could not."""
        if asked := self.running.get(str(request.session_hash)):
            asked.stop.set()
            return self.finish(asked.token, request) if asked.ended_before(LATE_SECONDS) else {self.page.progress: gr.skip()}
        return {**self.page.working(False), self.page.progress: fragments.ending("stopped")}  # the server was started anew meanwhile

    def nearest(self, question: str) -> str:
        """The evidence tab for a question, or for none yet."""
        index = self.chat.evidence()
        if index is None:
            return fragments.NO_CARDS if self.chat.generator.loaded else fragments.NO_QUESTION
        return fragments.nearest_cards(index.nearest(question)) if question else fragments.NO_QUESTION

    def _check(self, messages: list[Message], options: dict[str, Any]) -> None:
        self.chat.request(messages, **options)
        generator = self.chat.generator
        if generator.status != "ready":
            with self.chat.metrics.refusals():
                raise NotReady(generator.message + (" Send the question again in a moment." if generator.status == "loading" else ""))
        if generator.queue_length > self._max_queue:  # said here, before the whole page changes and changes back
            with self.chat.metrics.refusals():
                raise Busy.full(generator.queue_length)

    def _steps(self, asked: Asked) -> Iterator[View]:
        """What each event of a turn changes on the page; its end goes into `asked`."""
        page, shown, compare = self.page, asked.shown, asked.compare
        messages, notices, texts = conversation(shown), list[Notice](), ["", ""]
        ends: list[Finished] = []
        tuned = secrets.randbelow(2)  # which side of a comparison is which is not known before the vote
        steps: Any
        if compare:
            steps = self.chat.compare(messages, (tuned == 0, tuned == 1), **{**asked.options, "stop": asked.stop})
        else:
            steps = _one_side(self.chat.turn(messages, stop=asked.stop, **asked.options))
        with closing(steps):
            for side, step in steps:
                if isinstance(step, Notice):
                    notices.append(step)
                    yield {page.strips: _told(notices)}
                elif isinstance(step, Waiting):
                    yield {page.progress: fragments.waiting(step.position)}
                elif isinstance(step, Text):
                    texts[side] = step.text
                    yield {**self._written(shown, texts, compare), page.progress: fragments.waiting(0)}
                else:
                    ends.append(step)
        finished = self._both(ends, asked, notices, tuned) if compare else self._finished(ends[0], asked, notices)
        asked.ends_with(finished)

    def _written(self, shown: list[Entry], texts: list[str], compare: bool) -> View:
        if compare:
            return {self.page.sides: fragments.sides(texts)}
        return {self.page.conversation: [*shown, message("assistant", texts[0])]}

    def _finished(self, step: Finished, asked: Asked, notices: list[Notice]) -> View:
        page, shown, turns = self.page, asked.shown, asked.turns
        question = conversation(shown)[-1]["content"]
        if step.text:
            told = [notice.text for notice in notices]
            turns = [*turns, Turn(question=question, answer=step.text, details=step.details, notices=told).model_dump()]
        marks = self._unsupported(shown, step.text)
        return {
            **page.working(False),
            page.conversation: [*shown, message("assistant", step.text)] if step.text else shown,
            page.strips: _told(notices) + fragments.unsupported(marks) + (fragments.error(step.error) if step.error else ""),
            page.progress: fragments.ending(step.finish_reason),
            page.turns: turns,
            page.panel.details: fragments.all_facts(turns) if turns else gr.skip(),
            page.panel.rated: fragments.rated(turns),
            page.show: self._offered(step),
        }

    def _offered(self, step: Finished) -> gr.Button:
        """The button for an answer that is withheld, where the owner allows it."""
        return gr.Button(visible=step.finish_reason == "withheld" and self.chat.settings.show_withheld)

    def _both(self, ends: list[Finished], asked: Asked, notices: list[Notice], tuned: int) -> View:
        page, shown, last = self.page, asked.shown, ends[-1]
        told, view = _told(notices), {**page.working(False), page.progress: fragments.ending(last.finish_reason)}
        if len(ends) < 2 or last.finish_reason in ("error", "stopped"):
            if last.finish_reason in ("withheld", "refused"):
                return {**self._finished(last, asked, notices), page.comparison: gr.Column(visible=False)}
            return {**view, page.strips: told + (fragments.error(last.error) if last.error else "")}
        ours, base = ends[tuned], ends[1 - tuned]
        if not ours.details["adapter_active"] or base.details["adapter_active"]:
            raise RuntimeError("a comparison must show both models")
        turn = Turn(
            question=conversation(shown)[-1]["content"],
            answer=ours.text or "-",
            details=ours.details,
            notices=[notice.text for notice in notices],
            other=Side(answer=base.text, details=base.details),
        )
        turns = [*asked.turns, turn.model_dump()]
        return {
            **view,
            page.sides: fragments.sides([end.text for end in ends], differences=True),
            page.votes: gr.Row(visible=True),
            page.strips: told,
            page.turns: turns,
            page.tuned_side: tuned,
            page.panel.details: fragments.blind_facts(turns),
            page.panel.rated: fragments.rated(turns),
        }

    def _unsupported(self, shown: list[Entry], answer: str) -> list[str]:
        """Numbers with units in an answer that no card near the question, alone or with the one before it, has."""
        index = self.chat.evidence()
        if index is None:
            return []
        questions = [entry["content"] for entry in conversation(shown) if entry["role"] == "user"][-2:]
        return unsupported(answer, index.nearest(questions[-1]) + index.nearest(" ".join(questions)))


def _told(notices: list[Notice]) -> str:
    return "".join(fragments.notice(notice.text, notice.cards, notice.kind) for notice in notices)


def _one_side(steps: Any) -> Iterator[tuple[int, Any]]:
    with closing(steps):
        for step in steps:
            yield 0, step


def _settled(history: list[Entry], turns: Turns) -> list[Entry]:
    """The conversation with the adapter's answer after a comparison, which stands beside the conversation until it goes on."""
    if history and turns and history[-1].get("role") == "user" and answers(history) == len(turns) - 1:
        return [*history, message("assistant", turns[-1]["answer"])]
    return history
