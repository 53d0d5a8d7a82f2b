"""The components of the page and where they stand; made inside a `gr.Blocks`. Knows no model and no event."""

import json
from typing import Any

import gradio as gr

from app.conversation.record import DISCLAIMER
from app.page import fragments
from app.page.panel import Panel, html
from app.page.theme import ASSETS
from app.settings import Settings

View = dict[Any, Any]  # component -> its new value or properties

TITLE = "Medical Q&A"
ENGLISH_ONLY = "Notices of emergencies work in English only."
# Seconds between two looks at a model that is loading.
LOOK_SECONDS = 1.0


class Layout:
    """See the top of the file.

    Args:
        settings: Limits, and the adapters that the owner offers.
        renewable: Whether a newer version of the adapter can be looked for.
    """

    def __init__(self, settings: Settings, renewable: bool) -> None:
        self.questions: dict[str, list[str]] = json.loads((ASSETS / "sample_questions.json").read_text(encoding="utf-8"))
        logo = "".join((ASSETS / "logo.svg").read_text(encoding="utf-8").split("\n"))
        with gr.Row(elem_id="header"):
            html(f'<div><span aria-hidden="true">{logo}</span><h1>{fragments.safe(TITLE)}</h1></div>', elem_id="brand")
            self.toggle = gr.Button("Evidence & settings", elem_id="toggle", size="sm", scale=0)
        self.line = html(elem_id="line")
        self.turns, self.tuned_side = gr.State([]), gr.State(0)
        self.taken, self.written = gr.State(""), gr.State("")  # new when an answer begins, and when it has ended
        self._lay_out_conversation()
        self._lay_out_composer()
        self.panel = Panel(settings, self.turns, renewable)
        self.timer = gr.Timer(LOOK_SECONDS)

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
            render_markdown=False,  # it would make 10010 of "100*10" where another star follows
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
            self.show = gr.Button("Show the model's answer, for testing", elem_id="show-withheld", size="sm", visible=False)
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
                html(f"<p>{DISCLAIMER} {ENGLISH_ONLY}</p>", elem_id="disclaimer")

    def working(self, busy: bool) -> View:
        """The page at work on an answer, or at rest after one."""
        shown = {button: gr.Button(visible=not busy) for button in (self.send, self.retry, self.edit, self.rate, self.save, self.clear)}
        return {
            **shown,
            self.show: gr.Button(visible=False),
            self.stop: gr.Button(visible=busy),
            self.start: gr.Column(visible=False),
            self.actions: gr.Row(visible=True),
            self.votes: gr.Row(visible=False),
        }
