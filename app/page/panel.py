"""The panel beside the conversation: evidence, details with the record to save, rating, settings. Layout and its own events only."""

import base64
from typing import Any

import gradio as gr

from app.conversation.feedback import LONGEST, SEVERITIES, VERDICTS, Row, Store
from app.conversation.record import WRITERS, Record, Turn
from app.engine import offer
from app.errors import InvalidQuestion, UserError
from app.page import fragments
from app.settings import Settings

# Nobody calls these events from outside, and they show no progress of Gradio's own; quick ones do not stand in its queue.
QUIET: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
QUICK: dict[str, Any] = {**QUIET, "queue": False}

SEEDS = 2**31
FORMATS = {"save-md": ("md", "text/markdown"), "save-html": ("html", "text/html"), "save-json": ("json", "application/json")}
CONSENT = "I agree: store question, answer and rating"


def html(value: str = "", **options: Any) -> gr.Markdown:
    """A piece of the page made by `app.fragments`, which has escaped all of it."""
    return gr.Markdown(value, sanitize_html=False, latex_delimiters=[], **options)


class Panel:
    """The components of the panel; made inside a `gr.Blocks`.

    Args:
        settings: Limits, and the adapters that the owner offers.
        turns: The state that holds the turns of this page.
        renewable: Whether a newer version of the adapter can be looked for.
    """

    def __init__(self, settings: Settings, turns: gr.State, renewable: bool = False) -> None:
        self.settings, self.store, self.turns, self.renewable = settings, Store(settings), turns, renewable
        with gr.Column(elem_id="drawer"):
            self.close = gr.Button("\u2715", elem_id="close", size="sm")
            with gr.Tabs():
                with gr.Tab("Evidence"):
                    self.evidence = html(fragments.NO_QUESTION, elem_id="evidence")
                with gr.Tab("Details"):
                    html("<h2>Save this conversation</h2>", elem_id="save-title")
                    with gr.Row(elem_id="save"):
                        self.save = [
                            gr.Button(text, elem_id=name, size="sm")
                            for name, text in zip(FORMATS, ("Markdown", "To print", "JSON"), strict=True)
                        ]
                    self.download = html(elem_id="download")
                    self.details = html(elem_id="details")
                with gr.Tab("Rate"):
                    self._lay_out_rating()
                with gr.Tab("Settings"):
                    self._lay_out_settings()
        self._wire()

    def _lay_out_rating(self) -> None:
        self.rated = html(fragments.NOTHING_TO_RATE, elem_id="rated")
        self.verdict = gr.Radio(list(VERDICTS), label="The answer is", elem_id="verdict")
        self.severity = gr.Radio(list(SEVERITIES), label="Harm, if somebody acted on it", elem_id="severity")
        self.corrected = gr.Textbox(label="A better answer", lines=3, max_lines=8, max_length=LONGEST, elem_id="corrected")
        self.comment = gr.Textbox(label="Comment", lines=2, max_lines=6, max_length=LONGEST, elem_id="comment")
        self.stored = html(elem_id="stored")
        self.agree = gr.Button(CONSENT, elem_id="agree", variant="primary")

    def _lay_out_settings(self) -> None:
        names, most = list(offer.offered(self.settings)), self.settings.max_new_tokens
        self.adapter = gr.Dropdown(names, value=names[0], label="Adapter", interactive=True, filterable=False, elem_id="adapter")
        self.look = gr.Button("Look for a newer version", elem_id="look", size="sm", visible=self.renewable)
        self.found = html(elem_id="found")
        self.use_adapter = gr.Checkbox(True, label="Use the adapter", info="Off: the base model answers alone.", elem_id="use-adapter")
        self.temperature = gr.Slider(0, 1.5, 0, step=0.05, label="Temperature", info="0 always gives the same answer.")
        self.top_p = gr.Slider(0.05, 1, 0.9, step=0.05, label="Top-p", info="Matters where the temperature is above 0.")
        self.repetition_penalty = gr.Slider(1, 2, 1, step=0.05, label="Repetition penalty", info="1 is none.")
        self.max_new_tokens = gr.Slider(1, most, min(256, most), step=1, label="Maximum tokens", info="Where an answer is cut off.")
        self.seed = gr.Textbox(label="Seed", info="Empty: a new one for each answer.", placeholder="random", elem_id="seed")
        # Options of `Chat.turn` that start from the adapter's own defaults.
        self.defaults = {
            "temperature": self.temperature,
            "top_p": self.top_p,
            "repetition_penalty": self.repetition_penalty,
            "max_new_tokens": self.max_new_tokens,
        }
        self.controls = [self.adapter, self.use_adapter, self.seed, *self.defaults.values()]

    def _wire(self) -> None:
        gr.on([button.click for button in self.save], self.saved, self.turns, self.download, **QUICK)
        form = [self.verdict, self.severity, self.corrected, self.comment]
        self.agree.click(self.agreed, [self.turns, *form], [self.stored, *form], **QUICK)

    def saved(self, event: gr.EventData, turns: list[dict[str, Any]]) -> str:
        """The conversation as a file inside the page: the browser saves it, and nothing is written here."""
        if not turns:
            return fragments.error("There is nothing to save yet. Ask a question first.")
        name, kind = FORMATS[str(getattr(event.target, "elem_id", "save-json"))]
        text = WRITERS[name](Record(turns=[Turn.model_validate(turn) for turn in turns]))
        return fragments.download(f"medical-qa.{name}", kind, base64.b64encode(text.encode()).decode())

    def agreed(
        self, turns: list[dict[str, Any]], verdict: str | None, severity: str | None, corrected: str, comment: str
    ) -> tuple[Any, ...]:
        """Stores a rating of the last answer, once its writer has agreed on the button."""
        kept = [gr.skip()] * 4
        if not turns:
            return fragments.error("There is no answer to rate yet. Ask a question first."), *kept
        earlier = [
            {"role": role, "content": turn[key]} for turn in turns[:-1] for role, key in (("user", "question"), ("assistant", "answer"))
        ]
        try:
            row = Row.model_validate(
                {
                    "messages": earlier,
                    "turn": turns[-1],
                    "verdict": verdict,
                    "severity": severity,
                    "corrected": (corrected or "").strip(),
                    "comment": (comment or "").strip(),
                }
            )
            self.store.add(row)
        except UserError as error:
            return fragments.error(str(error)), *kept
        return fragments.progress("Stored. Thank you."), None, None, "", ""

    def options(self, adapter: str, use_adapter: bool, seed: str | None, *defaults: float | None) -> dict[str, Any]:
        """The values of `controls` as options of `Chat.turn`.

        Raises:
            InvalidQuestion: The seed is no seed.
            AdapterNotFound: The adapter is not offered now.
        """
        seed = (seed or "").strip()
        if seed and not (seed.isdecimal() and int(seed[:20]) < SEEDS):
            raise InvalidQuestion(f"The seed {seed[:20]} is not a whole number below {SEEDS:,}. Type another one, or leave it empty.")
        given = {name: value for name, value in zip(self.defaults, defaults, strict=True) if value is not None}
        if "max_new_tokens" in given:
            given["max_new_tokens"] = int(given["max_new_tokens"])
        return {**given, "adapter": offer.choose(adapter, self.settings), "use_adapter": use_adapter, "seed": int(seed) if seed else None}

    def refreshed(self, adapter: str) -> Any:
        """The adapters that are there now; a choice that has gone falls back to the default."""
        names = list(offer.offered(self.settings))
        return gr.Dropdown(names, value=adapter if adapter in names else names[0])
