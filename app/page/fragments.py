"""Pieces of the page as HTML: pure functions from facts to text. Everything that comes from outside is escaped here, and only here.

Each piece begins with a block element and holds no line break: Gradio's Markdown component then passes it on as it is. (Its HTML
component compiles templates in the browser, which our content security policy forbids.)
"""

import json
import re
from difflib import SequenceMatcher
from html import escape
from typing import Any

from app.adapter.directory import public_name
from app.engine.model import LoadedModel
from app.notices.advice import numbers
from app.notices.evidence import NearCard

NO_QUESTION = "<p>The training cards nearest to your question will stand here.</p>"
NO_CARDS = "<p>The training cards of this adapter cannot be had here.</p>"
NOT_OPENED = "<p>This adapter is opened, and proved to change the model, when the first question is sent to it.</p>"
NOTHING_TO_RATE = "<p>Ask a question first: what you say here is about its answer.</p>"
VOTES = {"a": "A is better", "b": "B is better", "same": "No difference"}
# Shown by style.css where Gradio has an error of its own.
NOT_TAKEN = "The server did not take the question. Shorten it or check the connection, and send it again."
LOST = "The connection was lost in the middle of this answer. Copy what you want to keep: the page may begin anew when the server is back."
ENDINGS = {
    "withheld": "No answer of the model.",
    "refused": "No answer of the model.",
    "length": "Cut off at the token limit.",
    "deadline": "Cut off at the time limit.",
    "stopped": "Stopped.",
}
# Who made the contract, where it was not training.
ORIGINS = {"elsewhere": "Trained elsewhere, prompt format stated by its owner", "checkpoint": "A checkpoint from the middle of a training"}
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


def notice(text: str, cards: tuple[NearCard, ...] = (), kind: str = "far") -> str:
    """A strip with what the reader should know, and the cards nearest to the question or, for "recited", behind the answer."""
    grave = kind in ("emergency", "self_harm")
    role, look = ("alert", "strip urgent") if grave else ("status", "strip notice")
    told = "".join(f"<p>{_dialled(line) if grave else safe(line)}</p>" for line in text.splitlines())
    nearest = "".join(f"<li>{safe(card.question)}</li>" for card in cards)
    title = "The answer's card:" if kind == "recited" else "Nearest cards:"
    near = f'<p class="title">{title}</p><ul>{nearest}</ul>' if nearest else ""
    return f'<div class="{look}" role="{role}">{told}{near}</div>'


def _dialled(line: str) -> str:
    """A line of a notice, whose numbers a telephone dials when they are pressed."""
    text = safe(line)
    for number in sorted(set(numbers(line)), key=len, reverse=True):
        link = f'<a href="tel:{number.replace(" ", "").replace("-", "")}">{number}</a>'
        text = re.sub(rf"(?i)\b(call|or) {number}(?!\d)", rf"\1 {link}", text)
    return text


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
    share = '<p class="share">{:.0%} of the question\'s words; rare ones count more</p>'
    # As sorted as the figures that stand there; the index ranks by a score of its own.
    ordered = sorted(cards, key=lambda card: -card.coverage)
    rows = "".join(f"<li><h3>{safe(card.question)}</h3><p>{safe(card.answer)}</p>{share.format(card.coverage)}</li>" for card in ordered)
    return f"<h2>Training cards, not a source</h2><ol>{rows}</ol>"


def unsupported(quantities: list[str]) -> str:
    """A strip with the numbers of an answer that no near card has; assets/page.js marks them in the answer."""
    if not quantities:
        return ""
    listed = ", ".join(f"<mark>{safe(quantity)}</mark>" for quantity in quantities)
    marks = escape(json.dumps(quantities))
    return f'<div class="strip quiet" role="status" data-marks="{marks}"><p>Not in the training cards: {listed}</p></div>'


def download(name: str, kind: str, content: str) -> str:
    """A file of the page itself; assets/page.js has the browser save it at once."""
    return f'<p><a download="{escape(name)}" href="data:{escape(kind)};base64,{content}">Save {safe(name)}</a></p>'


def rated(turns: list[dict[str, Any]]) -> str:
    """Which answer a rating is about."""
    if not turns:
        return NOTHING_TO_RATE
    vote = "<p>Your vote goes with it.</p>" if turns[-1].get("other") else ""
    return f"<p>About the last answer, to: <strong>{safe(turns[-1]['question'][:200])}</strong></p>{vote}"


def sides(
    texts: list[str], *, differences: bool = False, tuned: int | None = None, vote: str | None = None, change: float | None = None
) -> str:
    """Two answers side by side.

    Args:
        texts: Of A and B, as far as they are written.
        differences: Marks the words that the other one has not.
        tuned: Which of them the adapter wrote, 0 or 1; None before the vote.
        vote: What was voted: "tuned", "base" or "same".
        change: Relative change of the logits by the adapter, measured on load.
    """
    marked = _marked(*texts) if differences else [safe(text) for text in texts]
    names = ["A", "B"] if tuned is None else [f"{'AB'[side]}: {'tuned, adapter on' if side == tuned else 'base alone'}" for side in (0, 1)]
    cards = "".join(f'<section class="side"><h2>{name}</h2><p>{text}</p></section>' for name, text in zip(names, marked, strict=True))
    if tuned is None:
        lead = '<p class="lead" role="status">Which is better? Which model wrote which is told after the vote.</p>' if differences else ""
    else:
        said = {"tuned": "You chose the tuned model.", "base": "You chose the base model.", "same": "You saw no difference."}[
            vote or "same"
        ]
        figure = (
            f" The adapter changes the logits of a test prompt by {change:.2f} of their size, so these are two models." if change else ""
        )
        lead = f'<p class="lead" role="status">{said}{figure}</p>'
    return f'{lead}<div class="sides">{cards}</div>'


def _marked(first: str, second: str) -> list[str]:
    words = first.split(), second.split()
    matches = SequenceMatcher(None, *words, autojunk=False).get_opcodes()
    marked: list[list[str]] = [[], []]
    for kind, a, b, c, d in matches:
        for side, piece in enumerate((words[0][a:b], words[1][c:d])):
            text = safe(" ".join(piece))
            if text:
                marked[side].append(text if kind == "equal" else f"<mark>{text}</mark>")
    return [" ".join(pieces) for pieces in marked]


def all_facts(turns: list[dict[str, Any]]) -> str:
    """The details tab: what made each answer, the last one open."""
    parts = []
    for number in range(len(turns), 0, -1):
        turn = turns[number - 1]
        facts = answer_facts(turn["details"]) if turn["details"] else "<p>No model wrote this.</p>"
        more = f"<h3>Base alone</h3>{answer_facts(turn['other']['details'])}" if turn.get("other") else ""
        state = " open" if number == len(turns) else ""
        parts.append(f"<details{state}><summary>{number}. {safe(turn['question'][:120])}</summary>{facts}{more}</details>")
    return f"<div>{''.join(parts)}</div>"


def blind_facts(turns: list[dict[str, Any]]) -> str:
    """The details tab between a comparison and its vote."""
    return "<div><p>Vote first: the details would tell which model wrote which answer.</p></div>" + (
        all_facts(turns[:-1]) if turns[:-1] else ""
    )


def model_line(loaded: LoadedModel, use_adapter: bool = True) -> str:
    """What answers here: always visible."""
    names = f"base <code>{safe(public_name(loaded.base))}</code>"
    commit = f" at <code>{safe(loaded.pin.commit[:12])}</code>" if loaded.pin else ""
    adapter = f"adapter <code>{safe(public_name(loaded.name))}</code>{commit}"
    parts = [f"{adapter} on {names}" if use_adapter else f"adapter off: {names} alone"]
    if loaded.pin and not loaded.pin.approved:
        parts.insert(0, "<strong>Not approved</strong>")
    if origin := ORIGINS.get(loaded.contract.origin):
        parts.insert(0, f"<strong>{origin}</strong>")
    if loaded.is_demo:
        knows = f" that knows {len(loaded.cards):,} cards and nothing else" if loaded.cards else ""
        parts.insert(0, f"<strong>Demonstration model</strong>{knows}")
    if loaded.built_with_llama:
        parts.insert(0, "<strong>Built with Llama</strong>")
    return f"<p>{' '.join(f'<span>{part}</span>' for part in parts)}</p>"


def model_facts(loaded: LoadedModel) -> str:
    """The details tab before the first answer."""
    probe = loaded.probe
    return _table(
        {
            "adapter": public_name(loaded.name),
            "adapter_revision": loaded.adapter_revision,
            "approved": ("yes" if loaded.pin.approved else "no") if loaded.pin else None,
            "base": public_name(loaded.base),
            "base_revision": loaded.base_revision,
            "logit_change": f"{probe.logit_change:.3g}, inactive below {probe.threshold:.1g}" if probe else None,
            "golden answer's NLL": f"{probe.nll:.3f} here, {probe.trained_nll:.3f} in training" if probe else None,
            "trained on": _trained_on(loaded),
            "runs on": f"{loaded.device}, {loaded.dtype}, {loaded.way}",
            "opened in": f"{loaded.load_seconds:.1f} s, {loaded.warm_up_seconds:.1f} s of it to warm up",
            "memory": f"{loaded.memory_bytes / 2**20:,.0f} MiB of weights and cache" if loaded.memory_bytes else None,
        }
    )


def _trained_on(loaded: LoadedModel) -> str | None:
    """What of the weights is not as it was in training."""
    if loaded.contract.trained_dtype != "4bit" or loaded.dtype == "4bit" or loaded.probe is None:
        return None
    measured = "as training measured for" if loaded.contract.unquantised_nll is not None else "within what is allowed for"
    return f"the base in 4 bits; here its 16-bit weights, whose golden answer's NLL is {measured} them"


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
