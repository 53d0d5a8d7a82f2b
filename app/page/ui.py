"""The chat page: what its events are, and what each of them changes, but for those that answer a question (`app.page.answering`).

The conversation comes from the browser with each request and is checked by `app.conversation.chat.validate`. What made its answers is
kept in memory for as long as the page is open, for the record and the rating; nothing is written down unless the person rates.
The content security policy forbids `eval`, so no event has a `js=` of its own; what the browser must do by itself is in assets/page.js.
"""

from typing import Any

import gradio as gr

from app.conversation.chat import Chat
from app.conversation.history import Entry, answers, last_question
from app.conversation.record import DISCLAIMER
from app.engine import offer
from app.errors import UserError
from app.page import fragments
from app.page.answering import Answering, Turns
from app.page.layout import TITLE, Layout, View
from app.page.panel import QUICK, QUIET
from app.page.theme import LAUNCH_OPTIONS
from app.settings import Settings

__all__ = ["DISCLAIMER", "LAUNCH_OPTIONS", "build_demo"]


def build_demo(chat: Chat, settings: Settings) -> gr.Blocks:
    """The page.

    Args:
        chat: Answers the turns.
        settings: Limits, and the adapters that the owner offers.
    """
    return _Page(chat, settings).demo


class _Page:
    """The page and what each event does to it; one object serves all visitors."""

    def __init__(self, chat: Chat, settings: Settings) -> None:
        self.chat, self.settings = chat, settings
        with gr.Blocks(title=TITLE, analytics_enabled=False, fill_height=True) as self.demo:
            self.layout = Layout(settings, chat.renewal.possible)
            self.answering = Answering(self.layout, chat, settings.max_queue)
            self._wire(self.layout)
        # Nobody waits in Gradio's queue, where the page could not say so: our own tells each reader's place, or that it is full.
        self.demo.queue(default_concurrency_limit=None, api_open=False)

    def _wire(self, page: Layout) -> None:
        panel, answering = page.panel, self.answering
        triggers = [page.send.click, page.question.submit, page.retry.click, page.show.click, *[sample.click for sample in page.samples]]
        buttons = [page.send, page.stop, page.retry, page.edit, page.rate, page.save, page.clear, page.show]
        places = [page.start, page.conversation, page.comparison, page.sides, page.votes, page.strips, page.actions, page.progress]
        told = [panel.evidence, panel.details, panel.rated, panel.stored, panel.download]
        view = [*places, *buttons, page.question, *told, page.turns, page.tuned_side]
        asked = [page.question, page.conversation, page.turns, page.compare, *page.samples, *panel.controls]
        written = [page.conversation, page.sides, page.strips, page.progress, page.question, page.send, page.stop, page.taken, page.written]
        gr.on(triggers, answering.ask, asked, written, trigger_mode="multiple", **QUIET)
        at_work = [*buttons, page.start, page.conversation, page.comparison, page.votes, page.actions]
        at_work += [panel.evidence, panel.stored, panel.download]
        page.taken.change(answering.begin, page.taken, at_work, trigger_mode="multiple", **QUICK)
        page.written.change(answering.finish, page.written, view, trigger_mode="multiple", **QUICK)
        page.stop.click(answering.stop, None, view, **QUICK)
        page.edit.click(self.edited, [page.question, page.conversation, page.turns], view, **QUICK)
        page.clear.click(self.cleared, None, view, **QUICK)
        voted = [page.turns, page.tuned_side]
        gr.on([button.click for button in page.vote], self.voted, voted, [page.sides, page.votes, page.turns, panel.details], **QUICK)
        page.specialty.change(self.chosen, page.specialty, page.samples, **QUICK)
        page.toggle.click(panel.refreshed, panel.adapter, panel.adapter, **QUICK)
        panel.look.click(self.looked, None, [panel.found, page.timer], **QUIET)
        gr.on(
            [panel.adapter.change, panel.use_adapter.change],
            self.described,
            [panel.adapter, panel.use_adapter],
            [page.line, panel.details],
            **QUICK,
        )
        status = [page.line, page.timer, page.strips, panel.evidence, panel.details, *panel.defaults.values()]
        gr.on([self.demo.load, page.timer.tick], self.status, None, status, **QUICK)

    def voted(self, event: gr.EventData, turns: Turns, tuned: int) -> View:
        """Keeps a vote, and tells which model wrote which answer."""
        page = self.layout
        if not turns or not turns[-1]["other"]:
            return {page.votes: gr.Row(visible=False)}
        choice = str(getattr(event.target, "elem_id", "")).removeprefix("vote-")
        vote = "same" if choice == "same" else "tuned" if choice == "ab"[tuned] else "base"
        last = {**turns[-1], "vote": vote}
        texts = [last["answer"], last["other"]["answer"]]
        change = last["details"].get("logit_change")
        return {
            page.sides: fragments.sides(texts if tuned == 0 else texts[::-1], differences=True, tuned=tuned, vote=vote, change=change),
            page.votes: gr.Row(visible=False),
            page.turns: [*turns[:-1], last],
            page.panel.details: fragments.all_facts([*turns[:-1], last]),
        }

    def edited(self, draft: str | None, history: list[Entry], turns: Turns) -> View:
        """Takes the last question out of the conversation and back into the box, before what is being typed there."""
        page = self.layout
        question, earlier = last_question(history)
        turns = turns[: answers(earlier)]
        view = {**page.working(False), page.strips: "", page.progress: ""} if earlier else self.cleared()
        return {
            **view,
            page.turns: turns,
            page.panel.rated: fragments.rated(turns),
            page.comparison: gr.Column(visible=False),
            page.conversation: gr.Chatbot(earlier, visible=bool(earlier)),
            page.question: "\n".join(filter(None, [question, (draft or "").strip()])),
        }

    def cleared(self) -> View:
        """An empty page."""
        page = self.layout
        return {
            **page.working(False),
            page.start: gr.Column(visible=True),
            page.conversation: gr.Chatbot([], visible=False),
            page.actions: gr.Row(visible=False),
            page.strips: "",
            page.progress: "",
            page.comparison: gr.Column(visible=False),
            page.turns: [],
            page.panel.evidence: self.answering.nearest(""),
            page.panel.details: self._facts(),
            page.panel.rated: fragments.NOTHING_TO_RATE,
            page.panel.stored: "",
            page.panel.download: "",
        }

    def chosen(self, specialty: str | None) -> list[str]:
        """The sample questions of a specialty."""
        questions = self.layout.questions
        return questions[specialty or next(iter(questions))]

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
        page, loaded, state = self.layout, self.chat.generator.loaded, self._state()
        if self.chat.generator.status == "loading" or loaded is None:
            return {page.line: state, page.panel.details: state, page.timer: gr.Timer(active=self.chat.generator.status == "loading")}
        defaults = {
            **loaded.contract.generation.model_dump(),
            "max_new_tokens": min(loaded.contract.generation.max_new_tokens, self.settings.max_new_tokens),
        }
        return {
            page.line: fragments.model_line(loaded),
            page.panel.details: fragments.model_facts(loaded),
            page.panel.evidence: self.answering.nearest(""),
            page.strips: "",
            page.timer: gr.Timer(active=False),
            **{control: defaults[name] for name, control in page.panel.defaults.items()},
        }

    def _facts(self) -> str:
        loaded = self.chat.generator.loaded
        return fragments.model_facts(loaded) if loaded else self._state()

    def _state(self) -> str:
        generator = self.chat.generator
        return fragments.progress(generator.message, busy=True) if generator.status == "loading" else fragments.error(generator.message)
