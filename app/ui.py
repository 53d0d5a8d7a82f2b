"""The chat page: layout and wiring only. Makes no answers and knows no torch; `app.chat.Chat` yields the events shown here.

The conversation comes from the browser with each request and is checked by `app.chat.validate`. What made its answers is kept in
memory for as long as the page is open, for the record and the rating; nothing is written down unless the person rates.
The content security policy forbids `eval`, so no event has a `js=` of its own; what the browser must do by itself is in assets/page.js.
"""

import json
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

from app import fragments, offer
from app.chat import Chat, Finished, Message, Notice, Text, Waiting
from app.errors import Busy, NotReady, UserError
from app.evidence import unsupported
from app.history import Entry, answers, conversation, last_question, message
from app.logs import ID_HEADER
from app.panel import QUICK, QUIET, Panel, html
from app.record import DISCLAIMER, Side, Turn
from app.settings import Settings
from app.theme import ASSETS, LAUNCH_OPTIONS

log = logging.getLogger(__name__)

__all__ = ["DISCLAIMER", "LAUNCH_OPTIONS", "build_demo"]

View = dict[Any, Any]  # component -> its new value or properties
Turns = list[dict[str, Any]]  # `app.record.Turn`s as plain values

TITLE = "Medical Q&A"
# Seconds between two looks at a model that is loading.
LOOK_SECONDS = 1.0
# Seconds after which a page that did not ask how its answer ended is helped by Stop, and after which it has gone.
LATE_SECONDS, GONE_SECONDS = 3.0, 60.0


def build_demo(chat: Chat, settings: Settings) -> gr.Blocks:
    """The page.

    Args:
        chat: Answers the turns.
        settings: Limits, and the adapters that the owner offers.
    """
    return _Page(chat, settings).demo


@dataclass
class _Asked:
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


class _Page:
    """The components and what each event does to them; one object serves all visitors and remembers nothing of what they write."""

    def __init__(self, chat: Chat, settings: Settings) -> None:
        self.chat, self.settings = chat, settings
        self.running: dict[str, _Asked] = {}  # by page
        self.questions: dict[str, list[str]] = json.loads((ASSETS / "sample_questions.json").read_text(encoding="utf-8"))
        logo = "".join((ASSETS / "logo.svg").read_text(encoding="utf-8").split("\n"))
        with gr.Blocks(title=TITLE, analytics_enabled=False, fill_height=True) as self.demo:
            with gr.Row(elem_id="header"):
                html(f'<div><span aria-hidden="true">{logo}</span><h1>{fragments.safe(TITLE)}</h1></div>', elem_id="brand")
                self.toggle = gr.Button("Evidence & settings", elem_id="toggle", size="sm", scale=0)
            self.line = html(elem_id="line")
            self.turns, self.tuned_side = gr.State([]), gr.State(0)
            self.taken, self.written = gr.State(""), gr.State("")  # new when an answer begins, and when it has ended
            self._lay_out_conversation()
            self._lay_out_composer()
            self.panel = Panel(settings, self.turns, chat.renewal.possible)
            self.timer = gr.Timer(LOOK_SECONDS)
            self._wire()
        # Nobody waits in Gradio's queue, where the page could not say so: our own tells each reader's place, or that it is full.
        self.demo.queue(default_concurrency_limit=None, api_open=False)

    def _lay_out_conversation(self) -> None:
        first = next(iter(self.questions))
        with gr.Column(elem_id="start") as self.start:
            html("<h2>Ask a medical question</h2><p>Or begin with one of these.</p>")
            self.specialty = gr.Radio(list(self.questions), value=first, label="Specialty", elem_id="specialty", container=False)
            with gr.Column(elem_id="samples"):
                self.samples = [
                    gr.Button(text, elem_id=f"sample-{index}", elem_classes="sample") for index, text in enumerate(self.questions[first])
                ]
        self.conversation = gr.Chatbot(
            label="Conversation",
            show_label=False,
            container=False,
            visible=False,
            elem_id="conversation",
            layout="panel",
            group_consecutive_messages=False,
            buttons=["copy"],
            height=None,
            scale=1,
            sanitize_html=True,
            allow_tags=False,
            latex_delimiters=[],
            feedback_options=None,
            allow_file_downloads=False,
        )
        with gr.Column(elem_id="comparison", visible=False) as self.comparison:
            self.sides = html(elem_id="sides")
            with gr.Row(elem_id="votes", visible=False) as self.votes:
                self.vote = [gr.Button(text, elem_id=f"vote-{key}", size="sm") for key, text in fragments.VOTES.items()]

    def _lay_out_composer(self) -> None:
        with gr.Column(elem_id="composer"):
            self.strips = html(elem_id="strips")
            html(fragments.error(fragments.NOT_TAKEN), elem_id="not-taken")
            html(fragments.error(fragments.LOST), elem_id="lost")
            with gr.Row(elem_id="actions", visible=False) as self.actions:
                self.progress = html(elem_id="progress")
                with gr.Row(elem_id="redo"):
                    self.retry = gr.Button("Retry", elem_id="retry", size="sm", scale=0)
                    self.edit = gr.Button("Edit", elem_id="edit", size="sm", scale=0)
                    self.rate = gr.Button("Rate", elem_id="rate", size="sm", scale=0)
                    self.save = gr.Button("Save", elem_id="to-save", size="sm", scale=0)
                    self.clear = gr.Button("Clear", elem_id="clear", size="sm", scale=0)
            with gr.Row(elem_id="ask"):
                self.question = gr.Textbox(
                    label="Question", placeholder="Ask a medical question", max_lines=8, elem_id="question", container=False
                )
                self.send = gr.Button("Send", variant="primary", elem_id="send", scale=0)
                self.stop = gr.Button("Stop", elem_id="stop", scale=0, visible=False)
            with gr.Row(elem_id="below"):
                self.compare = gr.Checkbox(False, label="Compare with the base model", elem_id="compare", container=False, scale=0)
                html(f"<p>{DISCLAIMER}</p>", elem_id="disclaimer")

    def _wire(self) -> None:
        panel = self.panel
        triggers = [self.send.click, self.question.submit, self.retry.click, *[sample.click for sample in self.samples]]
        buttons = [self.send, self.stop, self.retry, self.edit, self.rate, self.save, self.clear]
        places = [self.start, self.conversation, self.comparison, self.sides, self.votes, self.strips, self.actions, self.progress]
        told = [panel.evidence, panel.details, panel.rated, panel.stored, panel.download]
        view = [*places, *buttons, self.question, *told, self.turns, self.tuned_side]
        asked = [self.question, self.conversation, self.turns, self.compare, *self.samples, *panel.controls]
        # The answer is written by an event of few outputs, because for each piece Gradio makes anew every output that it leaves as it is.
        # It wakes one that shows the page at work, and in the end one that shows how it ended.
        written = [self.conversation, self.sides, self.strips, self.progress, self.question, self.send, self.stop, self.taken, self.written]
        gr.on(triggers, self.ask, asked, written, trigger_mode="multiple", **QUIET)
        at_work = [*buttons, self.start, self.conversation, self.comparison, self.votes, self.actions]
        at_work += [panel.evidence, panel.stored, panel.download]
        self.taken.change(self.begin, self.taken, at_work, trigger_mode="multiple", **QUICK)
        self.written.change(self.finish, self.written, view, trigger_mode="multiple", **QUICK)
        self.stop.click(self.stopped, None, view, **QUICK)
        self.edit.click(self.edited, [self.question, self.conversation, self.turns], view, **QUICK)
        self.clear.click(self.cleared, None, view, **QUICK)
        voted = [self.turns, self.tuned_side]
        gr.on([button.click for button in self.vote], self.voted, voted, [self.sides, self.votes, self.turns, panel.details], **QUICK)
        self.specialty.change(self.chosen, self.specialty, self.samples, **QUICK)
        self.toggle.click(panel.refreshed, panel.adapter, panel.adapter, **QUICK)
        panel.look.click(self.looked, None, [panel.found, self.timer], **QUIET)
        gr.on(
            [panel.adapter.change, panel.use_adapter.change],
            self.described,
            [panel.adapter, panel.use_adapter],
            [self.line, panel.details],
            **QUICK,
        )
        status = [self.line, self.timer, self.strips, panel.evidence, panel.details, *panel.defaults.values()]
        gr.on([self.demo.load, self.timer.tick], self.status, None, status, **QUICK)

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
        texts, controls = values[: len(self.samples)], values[len(self.samples) :]
        samples = {button.elem_id: text for button, text in zip(self.samples, texts, strict=True)}
        # By elem_id: what Gradio hands over here is a copy of the component, with another number, once it has been updated.
        source, typed = getattr(event.target, "elem_id", None), question or ""
        question = samples.get(source, typed)
        history = _settled(history, turns)
        if source == self.retry.elem_id:
            question, history = last_question(history)
        turns = turns[: answers(history)]
        shown = [*history, message("user", question.strip())]
        try:
            options = {**self.panel.options(*controls), "request_id": request.headers.get(ID_HEADER, "")}
            self._check(conversation(shown), options)
        except UserError as error:
            strip = fragments.notice if self.chat.generator.status == "loading" else fragments.error
            yield {self.strips: strip(str(error)), self.progress: "", self.question: question if source in samples else typed}
            return
        begun = {
            self.conversation: shown,
            self.sides: fragments.sides(["", ""]) if compare else "",
            self.question: typed if source in samples or source == self.retry.elem_id else "",
            self.strips: "",
            self.progress: fragments.waiting(0),
            self.send: gr.Button(visible=False),
            self.stop: gr.Button(visible=True),
        }
        options["address"] = request.client.host if request.client else ""
        yield from self._answer(str(request.session_hash), begun, _Asked(shown, turns, options, compare))

    def _answer(self, page: str, begun: View, asked: _Asked) -> Iterator[View]:
        for gone in [page for page, one in list(self.running.items()) if one.ended_before(GONE_SECONDS)]:
            self.running.pop(gone, None)
        if self.running.setdefault(page, asked) is not asked:
            yield {self.progress: gr.skip()}  # pressed twice, or Enter while an answer is being written: what was typed stays in the box
            return
        try:
            yield {**begun, self.taken: asked.token}
            yield from self._steps(asked)
        except Exception as error:
            # Its message may hold text of the chat.
            log.error("an answer failed: %s", type(error).__name__, extra={"request_id": asked.options["request_id"]})
            self.chat.metrics.error(error)
            failed = fragments.error("Something failed here. Try again: the conversation is kept.")
            asked.ends_with({**self._view(busy=False), self.strips: failed, self.progress: ""})
        finally:
            if asked.end is None:  # its reader has gone
                self.running.pop(page, None)
        while not asked.begun.wait(LOOK_SECONDS) and not asked.ended_before(GONE_SECONDS):
            yield {self.progress: gr.skip()}  # what ended at once must not be shown as ended before it is shown as begun
        yield {self.written: asked.token}

    def begin(self, token: str, request: gr.Request) -> View:
        """Shows the page at work on an answer."""
        asked = self.running.get(str(request.session_hash))
        if asked is None or asked.token != token:
            return {self.actions: gr.skip()}
        view = {
            **self._view(busy=True),
            self.conversation: gr.Chatbot(visible=True),
            self.comparison: gr.Column(visible=asked.compare),
            self.panel.evidence: self._nearest(conversation(asked.shown)[-1]["content"]),
            self.panel.stored: "",
            self.panel.download: "",
        }
        asked.begun.set()
        return view

    def finish(self, token: str, request: gr.Request) -> View:
        """Shows how the answer ended."""
        page = str(request.session_hash)
        asked = self.running.get(page)
        if asked is None or asked.token != token or asked.end is None:
            return {self.progress: gr.skip()}
        self.running.pop(page, None)
        return asked.end

    def _steps(self, asked: _Asked) -> Iterator[View]:
        """What each event of a turn changes on the page; its end goes into `asked`."""
        shown, compare = asked.shown, asked.compare
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
                    yield {self.strips: self._told(notices)}
                elif isinstance(step, Waiting):
                    yield {self.progress: fragments.waiting(step.position)}
                elif isinstance(step, Text):
                    texts[side] = step.text
                    yield {**self._written(shown, texts, compare), self.progress: fragments.waiting(0)}
                else:
                    ends.append(step)
        finished = self._both(ends, asked, notices, tuned) if compare else self._finished(ends[0], asked, notices)
        asked.ends_with(finished)

    def _told(self, notices: list[Notice]) -> str:
        return "".join(fragments.notice(notice.text, notice.cards, notice.kind) for notice in notices)

    def _written(self, shown: list[Entry], texts: list[str], compare: bool) -> View:
        if compare:
            return {self.sides: fragments.sides(texts)}
        return {self.conversation: [*shown, message("assistant", texts[0])]}

    def _finished(self, step: Finished, asked: _Asked, notices: list[Notice]) -> View:
        shown, turns = asked.shown, asked.turns
        question = conversation(shown)[-1]["content"]
        if step.text:
            told = [notice.text for notice in notices]
            turns = [*turns, Turn(question=question, answer=step.text, details=step.details, notices=told).model_dump()]
        marks = self._unsupported(shown, step.text)
        return {
            **self._view(busy=False),
            self.conversation: [*shown, message("assistant", step.text)] if step.text else shown,
            self.strips: self._told(notices) + fragments.unsupported(marks) + (fragments.error(step.error) if step.error else ""),
            self.progress: fragments.ending(step.finish_reason),
            self.turns: turns,
            self.panel.details: fragments.all_facts(turns) if turns else gr.skip(),
            self.panel.rated: fragments.rated(turns),
        }

    def _both(self, ends: list[Finished], asked: _Asked, notices: list[Notice], tuned: int) -> View:
        shown, last = asked.shown, ends[-1]
        told, view = self._told(notices), {**self._view(busy=False), self.progress: fragments.ending(last.finish_reason)}
        if len(ends) < 2 or last.finish_reason in ("error", "stopped"):
            alone = [*shown, message("assistant", last.text)] if last.finish_reason == "withheld" else shown
            hidden = {self.comparison: gr.Column(visible=False), self.conversation: alone} if last.finish_reason == "withheld" else {}
            return {**view, **hidden, self.strips: told + (fragments.error(last.error) if last.error else "")}
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
            self.sides: fragments.sides([end.text for end in ends], differences=True),
            self.votes: gr.Row(visible=True),
            self.strips: told,
            self.turns: turns,
            self.tuned_side: tuned,
            self.panel.details: fragments.blind_facts(turns),
            self.panel.rated: fragments.rated(turns),
        }

    def voted(self, event: gr.EventData, turns: Turns, tuned: int) -> View:
        """Keeps a vote, and tells which model wrote which answer."""
        if not turns or not turns[-1]["other"]:
            return {self.votes: gr.Row(visible=False)}
        choice = str(getattr(event.target, "elem_id", "")).removeprefix("vote-")
        vote = "same" if choice == "same" else "tuned" if choice == "ab"[tuned] else "base"
        last = {**turns[-1], "vote": vote}
        texts = [last["answer"], last["other"]["answer"]]
        change = last["details"].get("logit_change")
        return {
            self.sides: fragments.sides(texts if tuned == 0 else texts[::-1], differences=True, tuned=tuned, vote=vote, change=change),
            self.votes: gr.Row(visible=False),
            self.turns: [*turns[:-1], last],
            self.panel.details: fragments.all_facts([*turns[:-1], last]),
        }

    def stopped(self, request: gr.Request) -> View:
        """Has the answer that this page is getting end; `ask` then ends by itself, which a cancelled event could not."""
        if asked := self.running.get(str(request.session_hash)):
            asked.stop.set()
            return self.finish(asked.token, request) if asked.ended_before(LATE_SECONDS) else {self.progress: gr.skip()}
        return {**self._view(busy=False), self.progress: fragments.ending("stopped")}  # the server was started anew meanwhile

    def edited(self, draft: str | None, history: list[Entry], turns: Turns) -> View:
        """Takes the last question out of the conversation and back into the box, before what is being typed there."""
        question, earlier = last_question(history)
        turns = turns[: answers(earlier)]
        view = {**self._view(busy=False), self.strips: "", self.progress: ""} if earlier else self.cleared()
        return {
            **view,
            self.turns: turns,
            self.panel.rated: fragments.rated(turns),
            self.comparison: gr.Column(visible=False),
            self.conversation: gr.Chatbot(earlier, visible=bool(earlier)),
            self.question: "\n".join(filter(None, [question, (draft or "").strip()])),
        }

    def cleared(self) -> View:
        """An empty page."""
        return {
            **self._view(busy=False),
            self.start: gr.Column(visible=True),
            self.conversation: gr.Chatbot([], visible=False),
            self.actions: gr.Row(visible=False),
            self.strips: "",
            self.progress: "",
            self.comparison: gr.Column(visible=False),
            self.turns: [],
            self.panel.evidence: self._nearest(""),
            self.panel.details: self._facts(),
            self.panel.rated: fragments.NOTHING_TO_RATE,
            self.panel.stored: "",
            self.panel.download: "",
        }

    def _facts(self) -> str:
        loaded = self.chat.generator.loaded
        return fragments.model_facts(loaded) if loaded else self._state()

    def chosen(self, specialty: str | None) -> list[str]:
        """The sample questions of a specialty."""
        return self.questions[specialty or next(iter(self.questions))]

    def looked(self) -> tuple[str, Any]:
        """Looks for a newer commit of the adapter, and has the page describe what runs then."""
        try:
            return fragments.progress(self.chat.renewal.look()), gr.Timer(active=True)
        except UserError as error:
            return fragments.error(str(error)), gr.skip()

    def described(self, adapter: str, use_adapter: bool) -> tuple[str, str]:
        """Names what will answer the next question."""
        default = self.chat.generator.loaded
        try:
            loaded = offer.describe(adapter, default, self.settings)
        except UserError as error:
            return fragments.error(str(error)), ""
        if loaded is None:
            return self._state(), self._state()
        return fragments.model_line(loaded, use_adapter), fragments.model_facts(loaded) if loaded is default else fragments.NOT_OPENED

    def status(self) -> View:
        """Asked again until the model is there or has failed."""
        loaded, state = self.chat.generator.loaded, self._state()
        if self.chat.generator.status == "loading" or loaded is None:
            return {self.line: state, self.panel.details: state, self.timer: gr.Timer(active=self.chat.generator.status == "loading")}
        defaults = {
            **loaded.contract.generation.model_dump(),
            "max_new_tokens": min(loaded.contract.generation.max_new_tokens, self.settings.max_new_tokens),
        }
        return {
            self.line: fragments.model_line(loaded),
            self.panel.details: fragments.model_facts(loaded),
            self.panel.evidence: self._nearest(""),
            self.strips: "",
            self.timer: gr.Timer(active=False),
            **{control: defaults[name] for name, control in self.panel.defaults.items()},
        }

    def _check(self, messages: list[Message], options: dict[str, Any]) -> None:
        self.chat.request(messages, **options)
        generator = self.chat.generator
        if generator.status != "ready":
            with self.chat.metrics.refusals():
                raise NotReady(generator.message + (" Send the question again in a moment." if generator.status == "loading" else ""))
        if generator.queue_length > self.settings.max_queue:  # said here, before the whole page changes and changes back
            with self.chat.metrics.refusals():
                raise Busy.full(generator.queue_length)

    def _state(self) -> str:
        generator = self.chat.generator
        return fragments.progress(generator.message, busy=True) if generator.status == "loading" else fragments.error(generator.message)

    def _nearest(self, question: str) -> str:
        index = self.chat.evidence()
        if index is None:
            return fragments.NO_CARDS if self.chat.generator.loaded else fragments.NO_QUESTION
        return fragments.nearest_cards(index.nearest(question)) if question else fragments.NO_QUESTION

    def _unsupported(self, shown: list[Entry], answer: str) -> list[str]:
        """Numbers with units in an answer that no card near the question, alone or with the one before it, has."""
        index = self.chat.evidence()
        if index is None:
            return []
        questions = [entry["content"] for entry in conversation(shown) if entry["role"] == "user"][-2:]
        return unsupported(answer, index.nearest(questions[-1]) + index.nearest(" ".join(questions)))

    def _view(self, *, busy: bool) -> View:
        shown = {button: gr.Button(visible=not busy) for button in (self.send, self.retry, self.edit, self.rate, self.save, self.clear)}
        return {
            **shown,
            self.stop: gr.Button(visible=busy),
            self.start: gr.Column(visible=False),
            self.actions: gr.Row(visible=True),
            self.votes: gr.Row(visible=False),
        }


def _one_side(steps: Any) -> Iterator[tuple[int, Any]]:
    with closing(steps):
        for step in steps:
            yield 0, step


def _settled(history: list[Entry], turns: Turns) -> list[Entry]:
    """The conversation with the adapter's answer after a comparison, which stands beside the conversation until it goes on."""
    if history and turns and history[-1].get("role") == "user" and answers(history) == len(turns) - 1:
        return [*history, message("assistant", turns[-1]["answer"])]
    return history
