"""Pieces of the page as HTML: pure functions from facts to text. Everything that comes from outside is escaped here, and only here.

Each piece begins with a block element and holds no line break: Gradio's Markdown component then passes it on as it is. (Its HTML
component compiles templates in the browser, which our content security policy forbids.)
"""

from html import escape
from typing import Any

from app.evidence import NearCard
from app.model import LoadedModel, public_name

NO_QUESTION = "<p>The training cards nearest to your question will stand here.</p>"
NO_CARDS = "<p>The training cards of this adapter cannot be had here.</p>"
NOT_OPENED = "<p>This adapter is opened, and proved to change the model, when the first question is sent to it.</p>"
# Shown by style.css where Gradio has an error of its own.
NOT_TAKEN = "The server did not take the question. Shorten it or check the connection, and send it again."
ENDINGS = {"length": "Cut off at the token limit.", "deadline": "Cut off at the time limit.", "stopped": "Stopped."}
NAMES = {
    "adapter_active": "adapter in use",
    "template_sha256": "chat template",
    "max_new_tokens": "maximum tokens",
    "completion_tokens": "answer tokens",
    "logit_change": "logits changed by the adapter",
    "finish_reason": "ended by",
}


def safe(text: object) -> str:
    """Text on one line, with nothing in it that HTML or Markdown would take for its own."""
    return escape(" ".join(str(text).split()))


def error(text: str) -> str:
    """A strip with what went wrong."""
    return f'<div class="strip error" role="alert"><p>{safe(text)}</p></div>'


def notice(text: str, cards: tuple[NearCard, ...] = ()) -> str:
    """A strip with what the reader should know before the answer, and the cards nearest to the question."""
    nearest = "".join(f"<li>{safe(card.question)}</li>" for card in cards)
    return (
        f'<div class="strip notice" role="status"><p>{safe(text)}</p>{f"<p>Nearest cards:</p><ul>{nearest}</ul>" if nearest else ""}</div>'
    )


def progress(text: str, busy: bool = False) -> str:
    """What is happening to the answer or the model."""
    return f'<p role="status" class="{"busy" if busy else ""}">{safe(text)}</p>'


def waiting(position: int) -> str:
    """How many answers stand before this one."""
    return progress(f"Waiting: {position} to be answered before this one" if position else "Answering", busy=True)


def ending(reason: str) -> str:
    """How an answer ended, where it did not end by itself."""
    return progress(ENDINGS.get(reason, ""))


def nearest_cards(cards: list[NearCard]) -> str:
    """The evidence tab after a question."""
    if not cards:
        return "<p>No training card shares a word with the question.</p>"
    share = '<p class="share">{:.0%} of the question, by weight of words</p>'
    rows = "".join(f"<li><h3>{safe(card.question)}</h3><p>{safe(card.answer)}</p>{share.format(card.coverage)}</li>" for card in cards)
    return f"<h2>Training cards, not a source</h2><ol>{rows}</ol>"


def model_line(loaded: LoadedModel, use_adapter: bool = True) -> str:
    """What answers here: always visible."""
    names = f"base <code>{safe(public_name(loaded.base))}</code>"
    parts = [f"adapter <code>{safe(public_name(loaded.name))}</code> on {names}" if use_adapter else f"adapter off: {names} alone"]
    if loaded.is_demo:
        knows = f" that knows {len(loaded.cards):,} cards and nothing else" if loaded.cards else ""
        parts.insert(0, f"<strong>Demonstration model</strong>{knows}")
    if loaded.built_with_llama:
        parts.insert(0, "<strong>Built with Llama</strong>")
    return f"<p>{' · '.join(f'<span>{part}</span>' for part in parts)}</p>"


def model_facts(loaded: LoadedModel) -> str:
    """The details tab before the first answer."""
    return _table(
        {
            "adapter": public_name(loaded.name),
            "adapter_revision": loaded.adapter_revision,
            "base": public_name(loaded.base),
            "base_revision": loaded.base_revision,
            "logit_change": f"{loaded.probe.logit_change:.3g}, inactive below {loaded.probe.threshold:.1g}",
            "golden answer's NLL": f"{loaded.probe.nll:.3f} here, {loaded.probe.trained_nll:.3f} in training",
            "runs on": f"{loaded.device}, {loaded.dtype}",
        }
    )


def answer_facts(details: dict[str, Any]) -> str:
    """The details tab after an answer."""
    names = {key: public_name(details[key]) for key in ("adapter", "base") if details.get(key)}
    return _table({**details, **names, "adapter_active": "yes" if details.get("adapter_active") else "no"})


def _table(facts: dict[str, Any]) -> str:
    rows = "".join(
        f'<tr><th scope="row">{safe(NAMES.get(key, key.replace("_", " ")))}</th><td>{safe(value)}</td></tr>'
        for key, value in facts.items()
        if value is not None
    )
    return f'<table class="facts"><tbody>{rows}</tbody></table>'
