"""The record of a conversation: what was asked and answered and what made each answer, as JSON, Markdown or a page to print.

`replay` makes the answers of a record again and says where they differ. Knows no page; everything it needs is in the record.
"""

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from app.adapter.directory import public_name
from app.engine.answer import GenerationRequest
from app.engine.model import LoadedModel
from app.engine.remote import Generator as AnyGenerator
from app.errors import DataError, UserError

DISCLAIMER = "A study aid, not a medical device. Not for decisions about patients."
# What must be the same for the same answer, and how it is called.
IDENTITY = {
    "adapter_revision": "adapter weights",
    "base_revision": "base weights",
    "template_sha256": "chat template",
    "device": "device and number format",
}
STYLE = (
    "body{font:16px/1.55 system-ui,sans-serif;max-width:46rem;margin:2rem auto;padding:0 1rem;color:#222}h1{font-size:1.4rem}"
    "h2{font-size:1.1rem;margin:2rem 0 .5rem;border-left:3px solid #17545b;padding-left:.75rem}p{white-space:pre-wrap}"
    "table{border-collapse:collapse;font-size:.8rem;color:#444}th{text-align:left;font-weight:400;padding:.1rem 1rem .1rem 0}"
    ".notice{border-left:4px solid #d99a1c;padding-left:.75rem}@media print{h2,table{break-inside:avoid}}"
)


class Side(BaseModel):
    """One answer and what made it, as `app.conversation.chat.details` says it."""

    model_config = ConfigDict(extra="forbid")
    answer: str
    details: dict[str, Any] = {}


class Turn(Side):
    """A question and its answer.

    Attributes:
        notices: What the reader was told before the answer.
        other: The base model's answer, where both were compared.
        vote: Which of the two the reader found better.
    """

    question: str
    notices: list[str] = []
    other: Side | None = None
    vote: Literal["tuned", "base", "same"] | None = None


class Record(BaseModel):
    """A conversation."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)
    format: Literal["medical-qa-record/1"] = "medical-qa-record/1"
    note: str = DISCLAIMER
    saved_at: str = Field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    turns: list[Turn]


def to_json(record: Record) -> str:
    """The record as `read` takes it."""
    return record.model_dump_json(indent=2)


def to_markdown(record: Record) -> str:
    """The record as text that people read."""
    parts = [f"# Medical Q&A, {record.saved_at}", f"*{record.note}*"]
    for number, turn in enumerate(record.turns, 1):
        question = " ".join(turn.question.split())
        parts += [f"## {number}. {_literal(question)}", *map(_quoted, turn.notices), _literal(turn.answer)]
        if turn.other:
            parts += [f"**The base model alone:** {_literal(turn.other.answer)}", f"**Found better:** {turn.vote or 'no vote'}"]
        parts.append("\n".join(f"- {key.replace('_', ' ')}: {value}" for key, value in turn.details.items() if value is not None))
    return "\n\n".join(filter(None, parts)) + "\n"


def _quoted(notice: str) -> str:
    return "\n".join(f"> {_literal(line)}  " for line in notice.splitlines())


def _literal(text: str) -> str:
    """Text that shows as it was written in Markdown, where "11*10^9 or 4*10^9" would lose its stars."""
    return re.sub(r"[\\`*_~<>&\[\]#|]", r"\\\g<0>", text)


def to_html(record: Record) -> str:
    """The record as one page without scripts, to read or print."""
    body = [f"<h1>Medical Q&amp;A, {escape(record.saved_at)}</h1><p><em>{escape(record.note)}</em></p>"]
    for number, turn in enumerate(record.turns, 1):
        body.append(f"<h2>{number}. {escape(turn.question)}</h2>")
        body += [f'<p class="notice">{escape(notice)}</p>' for notice in turn.notices]
        body.append(f"<p>{escape(turn.answer)}</p>")
        if turn.other:
            body.append(f"<h3>The base model alone</h3><p>{escape(turn.other.answer)}</p><p>Found better: {turn.vote or 'no vote'}</p>")
        rows = "".join(
            f"<tr><th>{escape(key.replace('_', ' '))}</th><td>{escape(str(value))}</td></tr>"
            for key, value in turn.details.items()
            if value is not None
        )
        body.append(f"<table>{rows}</table>")
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Medical Q&amp;A</title><style>{STYLE}</style></head>'
        f"<body>{''.join(body)}</body></html>\n"
    )


WRITERS = {"json": to_json, "md": to_markdown, "html": to_html}


def read(path: Path) -> Record:
    """Reads a record.

    Raises:
        DataError: The file is missing or no record.
    """
    try:
        return Record.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise DataError(f"The record {path} cannot be read ({error.strerror}). Give a JSON file that the page saved.") from error
    except (ValueError, ValidationError) as error:
        where = ".".join(map(str, error.errors()[0]["loc"])) if isinstance(error, ValidationError) else ""
        raise DataError(
            f"{path} is no record of a conversation{f' (at {where})' if where else ''}. Give the JSON file that the page saved."
        ) from error


def replay(record: Record, generator: AnyGenerator) -> Iterator[tuple[str, bool]]:
    """Makes every answer of a record again.

    Args:
        record: The conversation.
        generator: Ready, with the adapter to try.

    Yields:
        A sentence on each answer, and whether it came out the same. An answer that was stopped counts as the same when the new one
        begins with it.

    Raises:
        UserError: The record asks for something that this model cannot do.
    """
    loaded = generator.loaded
    messages: list[dict[str, str]] = []
    for number, turn in enumerate(record.turns, 1):
        messages.append({"role": "user", "content": turn.question})
        sides = [("answer", turn), *([("the base model's answer", turn.other)] if turn.other else [])]
        for name, side in sides:
            if not side.details:
                yield f"{number}: {name} was not made by a model.", True
                continue
            text = "".join(generator.submit(_request(list(messages), side.details)))
            yield _verdict(f"{number}: {name}", side, text, loaded)
        messages.append({"role": "assistant", "content": turn.answer or "-"})


def _request(messages: list[dict[str, str]], details: dict[str, Any]) -> GenerationRequest:
    try:
        return GenerationRequest(
            messages=messages,
            use_adapter=bool(details["adapter_active"]),
            seed=int(details["seed"]),
            temperature=float(details["temperature"]),
            top_p=float(details["top_p"]),
            repetition_penalty=float(details["repetition_penalty"]),
            max_new_tokens=max(1, int(details["max_new_tokens"])),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"The record lacks a setting or holds a wrong one ({error}). Save the conversation again on the page.") from error


def _verdict(name: str, side: Side, text: str, loaded: LoadedModel | None) -> tuple[str, bool]:
    cut_off = side.details.get("finish_reason") in ("stopped", "deadline", "error")
    if text == side.answer or (cut_off and text.startswith(side.answer.rstrip())):
        return f"{name} is the same ({len(text.split())} words).", True
    before, after = side.answer.split(), text.split()
    same = next((index for index, (old, new) in enumerate(zip(before, after, strict=False)) if old != new), min(len(before), len(after)))
    changed = _changed(side.details, loaded)
    reason = f" The record was made with other {', '.join(changed)}." if changed else " Weights and template are the record's."
    old, new = " ".join(before[same : same + 6]) or "(end)", " ".join(after[same : same + 6]) or "(end)"
    return f'{name} differs from word {same + 1} on: "{old}" in the record, "{new}" now.{reason}', False


def _changed(details: dict[str, Any], loaded: LoadedModel | None) -> list[str]:
    if loaded is None:
        return []
    here = {
        "adapter_revision": loaded.adapter_revision,
        "base_revision": loaded.base_revision,
        "template_sha256": loaded.contract.template_sha256[:16],
        "device": f"{loaded.device}, {loaded.dtype}",
    }
    return [name for key, name in IDENTITY.items() if details.get(key) not in (None, here[key])]


def same_adapter(record: Record, adapter: str) -> bool:
    """Whether a record was made with an adapter of this name."""
    return all(turn.details.get("adapter") in (None, public_name(adapter)) for turn in record.turns)
