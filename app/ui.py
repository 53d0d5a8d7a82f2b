"""The chat page: layout and wiring only. Makes no answers and knows no torch; `app.chat.Chat` yields the events shown here.

Nothing of a conversation is kept on the server: it comes from the browser with each request and is checked by `app.chat.validate`.
The content security policy forbids `eval`, so no event has a `js=` of its own; what the browser must do by itself is in assets/page.js.
"""

import json
import logging
import threading
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import gradio as gr

from app import fragments, offer
from app.chat import Chat, Finished, Message, Notice, Text, Waiting
from app.errors import InvalidQuestion, NotReady, UserError
from app.history import Entry, conversation, last_question, message
from app.settings import Settings
from app.theme import ASSETS, LAUNCH_OPTIONS

log = logging.getLogger(__name__)

__all__ = ["LAUNCH_OPTIONS", "build_demo"]

View = dict[Any, Any]  # component -> its new value or properties

TITLE = "Medical Q&A"
DISCLAIMER = "A study aid, not a medical device. Not for decisions about patients."
SEEDS = 2**31
# Seconds between two looks at a model that is loading.
LOOK_SECONDS = 1.0

# Nobody calls these events from outside, and they show no progress of Gradio's own; quick ones do not stand in its queue.
QUIET: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
QUICK: dict[str, Any] = {**QUIET, "queue": False}


def build_demo(chat: Chat, settings: Settings) -> gr.Blocks:
    """The page.

    Args:
        chat: Answers the turns.
        settings: Limits, and the adapters that the owner offers.
    """
    return _Page(chat, settings).demo


def _html(value: str = "", **options: Any) -> gr.Markdown:
    return gr.Markdown(value, sanitize_html=False, latex_delimiters=[], **options)  # app.fragments has escaped all of it


class _Page:
    """The components and what each event does to them; one object serves all visitors and remembers nothing of what they write."""

    def __init__(self, chat: Chat, settings: Settings) -> None:
        self.chat, self.settings = chat, settings
        self.running: dict[str, threading.Event] = {}  # by page: set to stop its answer
        self.questions: dict[str, list[str]] = json.loads((ASSETS / "sample_questions.json").read_text(encoding="utf-8"))
        logo = "".join((ASSETS / "logo.svg").read_text(encoding="utf-8").split("\n"))
        with gr.Blocks(title=TITLE, analytics_enabled=False, fill_height=True) as self.demo:
            with gr.Row(elem_id="header"):
                _html(f'<div><span aria-hidden="true">{logo}</span><h1>{fragments.safe(TITLE)}</h1></div>', elem_id="brand")
                self.toggle = gr.Button("Evidence & settings", elem_id="toggle", size="sm", scale=0)
            self.line = _html(elem_id="line")
            self._lay_out_conversation()
            self._lay_out_composer()
            self._lay_out_drawer()
            self.timer = gr.Timer(LOOK_SECONDS)
            self._wire()
        # One place for each answer that may wait or run, so that the place in our own queue is what a reader sees.
        self.demo.queue(default_concurrency_limit=settings.max_queue + 2, api_open=False)

    def _lay_out_conversation(self) -> None:
        first = next(iter(self.questions))
        with gr.Column(elem_id="start") as self.start:
            _html("<h2>Ask a medical question</h2><p>Or begin with one of these.</p>")
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

    def _lay_out_composer(self) -> None:
        with gr.Column(elem_id="composer"):
            self.strips = _html(elem_id="strips")
            _html(fragments.error(fragments.NOT_TAKEN), elem_id="not-taken")
            with gr.Row(elem_id="actions", visible=False) as self.actions:
                self.progress = _html(elem_id="progress")
                with gr.Row(elem_id="redo"):
                    self.retry = gr.Button("Retry", elem_id="retry", size="sm", scale=0)
                    self.edit = gr.Button("Edit question", elem_id="edit", size="sm", scale=0)
                    self.clear = gr.Button("Clear", elem_id="clear", size="sm", scale=0)
            with gr.Row(elem_id="ask"):
                self.question = gr.Textbox(
                    label="Question", placeholder="Ask a medical question", max_lines=8, elem_id="question", container=False
                )
                self.send = gr.Button("Send", variant="primary", elem_id="send", scale=0)
                self.stop = gr.Button("Stop", elem_id="stop", scale=0, visible=False)
            _html(f"<p>{DISCLAIMER}</p>", elem_id="disclaimer")

    def _lay_out_drawer(self) -> None:
        names, most = list(offer.offered(self.settings)), self.settings.max_new_tokens
        with gr.Column(elem_id="drawer"):
            self.close = gr.Button("Close", elem_id="close", size="sm")
            with gr.Tabs():
                with gr.Tab("Evidence"):
                    self.evidence = _html(fragments.NO_QUESTION, elem_id="evidence")
                with gr.Tab("Details"):
                    self.details = _html(elem_id="details")
                with gr.Tab("Settings"):
                    self.adapter = gr.Dropdown(
                        names, value=names[0], label="Adapter", interactive=True, filterable=False, elem_id="adapter"
                    )
                    self.use_adapter = gr.Checkbox(
                        True, label="Use the adapter", info="Off: the base model answers alone.", elem_id="use-adapter"
                    )
                    self.temperature = gr.Slider(0, 1.5, 0, step=0.05, label="Temperature", info="0 always gives the same answer.")
                    self.top_p = gr.Slider(0.05, 1, 0.9, step=0.05, label="Top-p", info="Matters where the temperature is above 0.")
                    self.repetition_penalty = gr.Slider(1, 2, 1, step=0.05, label="Repetition penalty", info="1 is none.")
                    self.max_new_tokens = gr.Slider(
                        1, most, min(256, most), step=1, label="Maximum tokens", info="Where an answer is cut off."
                    )
                    self.seed = gr.Textbox(label="Seed", info="Empty: a new one for each answer.", placeholder="random", elem_id="seed")
        # Options of `Chat.turn` that start from the adapter's own defaults.
        self.defaults = {
            "temperature": self.temperature,
            "top_p": self.top_p,
            "repetition_penalty": self.repetition_penalty,
            "max_new_tokens": self.max_new_tokens,
        }

    def _wire(self) -> None:
        triggers = [self.send.click, self.question.submit, self.retry.click, *[sample.click for sample in self.samples]]
        controls = [self.adapter, self.use_adapter, self.seed, *self.defaults.values()]
        buttons = [self.send, self.stop, self.retry, self.edit, self.clear]
        view = [
            self.start,
            self.conversation,
            self.strips,
            self.actions,
            self.progress,
            *buttons,
            self.question,
            self.evidence,
            self.details,
        ]
        gr.on(triggers, self.ask, [self.question, self.conversation, *self.samples, *controls], view, trigger_mode="multiple", **QUIET)
        self.stop.click(self.stopped, None, view, **QUICK)
        self.edit.click(self.edited, [self.question, self.conversation], view, **QUICK)
        self.clear.click(self.cleared, None, view, **QUICK)
        self.specialty.change(self.chosen, self.specialty, self.samples, **QUICK)
        self.toggle.click(self.refreshed, self.adapter, self.adapter, **QUICK)
        gr.on(
            [self.adapter.change, self.use_adapter.change],
            self.described,
            [self.adapter, self.use_adapter],
            [self.line, self.details],
            **QUICK,
        )
        status = [self.line, self.timer, self.strips, self.evidence, self.details, *self.defaults.values()]
        gr.on([self.demo.load, self.timer.tick], self.status, None, status, **QUICK)

    def ask(self, event: gr.EventData, request: gr.Request, question: str | None, history: list[Entry], *values: Any) -> Iterator[View]:
        """Answers what was typed, a sample question, or the last question again; closing the iterator stops the answer."""
        texts, controls = values[: len(self.samples)], values[len(self.samples) :]
        samples = {button.elem_id: text for button, text in zip(self.samples, texts, strict=True)}
        # By elem_id: what Gradio hands over here is a copy of the component, with another number, once it has been updated.
        source, typed = getattr(event.target, "elem_id", None), question or ""
        question = samples.get(source, typed)
        if source == self.retry.elem_id:
            question, history = last_question(history)
        shown = [*history, message("user", question.strip())]
        try:
            options = self._options(*controls)
            self._check(conversation(shown), options)
        except UserError as error:
            strip = fragments.notice if self.chat.generator.status == "loading" else fragments.error
            yield {self.strips: strip(str(error)), self.progress: "", self.question: question if source in samples else typed}
            return
        begun = {
            **self._view(busy=True),
            self.conversation: gr.Chatbot(shown, visible=True),
            self.question: typed if source in samples or source == self.retry.elem_id else "",
            self.strips: "",
            self.progress: fragments.waiting(0),
            self.evidence: self._nearest(question),
        }
        yield from self._answer(str(request.session_hash), begun, shown, options)

    def _answer(self, page: str, begun: View, shown: list[Entry], options: dict[str, Any]) -> Iterator[View]:
        notice = text = ""
        stop = threading.Event()
        if self.running.setdefault(page, stop) is not stop:
            yield {self.progress: gr.skip()}  # pressed twice, or Enter while an answer is being written: what was typed stays in the box
            return
        try:
            yield begun
            with closing(self.chat.turn(conversation(shown), stop=stop, **options)) as steps:
                for step in steps:
                    if isinstance(step, Notice):
                        notice = fragments.notice(step.text, step.cards)
                        yield {self.strips: notice}
                    elif isinstance(step, Waiting):
                        yield {self.progress: fragments.waiting(step.position)}
                    elif isinstance(step, Text):
                        text = step.text
                        yield {self.conversation: [*shown, message("assistant", text)], self.progress: fragments.waiting(0)}
                    else:
                        del self.running[page]  # before the page shows Send again
                        yield self._finished(step, shown, notice)
        except Exception as error:
            log.error("an answer failed: %s", type(error).__name__)  # its message may hold text of the chat
            yield self._finished(Finished(text, "error", {}, "Something failed here. Try again: the conversation is kept."), shown, notice)
        finally:
            if self.running.get(page) is stop:
                del self.running[page]

    def _finished(self, step: Finished, shown: list[Entry], notice: str) -> View:
        return {
            **self._view(busy=False),
            self.conversation: [*shown, message("assistant", step.text)] if step.text else shown,
            self.strips: notice + (fragments.error(step.error) if step.error else ""),
            self.progress: fragments.ending(step.finish_reason),
            self.details: fragments.answer_facts(step.details) if step.details else gr.skip(),
        }

    def stopped(self, request: gr.Request) -> View:
        """Has the answer that this page is getting end; `ask` then finishes by itself, which a cancelled event could not."""
        if stop := self.running.get(str(request.session_hash)):
            stop.set()
            return {self.progress: gr.skip()}
        return {**self._view(busy=False), self.progress: fragments.ending("stopped")}  # the server was started anew meanwhile

    def edited(self, draft: str, history: list[Entry]) -> View:
        """Takes the last question out of the conversation and back into the box, before what is being typed there."""
        question, earlier = last_question(history)
        view = {**self._view(busy=False), self.strips: "", self.progress: ""} if earlier else self.cleared()
        return {
            **view,
            self.conversation: gr.Chatbot(earlier, visible=bool(earlier)),
            self.question: "\n".join(filter(None, [question, draft.strip()])),
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
            self.evidence: self._nearest(""),
        }

    def chosen(self, specialty: str) -> list[str]:
        """The sample questions of a specialty."""
        return self.questions[specialty]

    def refreshed(self, adapter: str) -> Any:
        """The adapters that are there now; a choice that has gone falls back to the default."""
        names = list(offer.offered(self.settings))
        return gr.Dropdown(names, value=adapter if adapter in names else names[0])

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
            return {self.line: state, self.details: state, self.timer: gr.Timer(active=self.chat.generator.status == "loading")}
        defaults = {
            **loaded.contract.generation.model_dump(),
            "max_new_tokens": min(loaded.contract.generation.max_new_tokens, self.settings.max_new_tokens),
        }
        return {
            self.line: fragments.model_line(loaded),
            self.details: fragments.model_facts(loaded),
            self.evidence: self._nearest(""),
            self.strips: "",
            self.timer: gr.Timer(active=False),
            **{control: defaults[name] for name, control in self.defaults.items()},
        }

    def _options(self, adapter: str, use_adapter: bool, seed: str | None, *defaults: float | None) -> dict[str, Any]:
        seed = (seed or "").strip()
        if seed and not (seed.isdecimal() and int(seed[:20]) < SEEDS):
            raise InvalidQuestion(f"The seed {seed[:20]} is not a whole number below {SEEDS:,}. Type another one, or leave it empty.")
        given = {name: value for name, value in zip(self.defaults, defaults, strict=True) if value is not None}
        if "max_new_tokens" in given:
            given["max_new_tokens"] = int(given["max_new_tokens"])
        return {**given, "adapter": offer.choose(adapter, self.settings), "use_adapter": use_adapter, "seed": int(seed) if seed else None}

    def _check(self, messages: list[Message], options: dict[str, Any]) -> None:
        self.chat.request(messages, **options)
        generator = self.chat.generator
        if generator.status != "ready":
            raise NotReady(generator.message + (" Send the question again in a moment." if generator.status == "loading" else ""))

    def _state(self) -> str:
        generator = self.chat.generator
        return fragments.progress(generator.message, busy=True) if generator.status == "loading" else fragments.error(generator.message)

    def _nearest(self, question: str) -> str:
        index = self.chat.evidence()
        if index is None:
            return fragments.NO_CARDS if self.chat.generator.loaded else fragments.NO_QUESTION
        return fragments.nearest_cards(index.nearest(question)) if question else fragments.NO_QUESTION

    def _view(self, *, busy: bool) -> View:
        shown = {button: gr.Button(visible=not busy) for button in (self.send, self.retry, self.edit, self.clear)}
        return {**shown, self.stop: gr.Button(visible=busy), self.start: gr.Column(visible=False), self.actions: gr.Row(visible=True)}
