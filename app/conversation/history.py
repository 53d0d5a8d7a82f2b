"""The conversation as the page's Chatbot component holds it, and as the model wants it. It comes from the browser: trust nothing in it."""

import re
from typing import Any

from app.adapter.contract import Message

# A message as the component holds it; Gradio's own type for it does not say what arrives.
Entry = Any

# The component takes what looks like a tag or an entity for HTML, so that "Na<K and pH>7" would lose its end. A word joiner after the
# sign shows as nothing and ends the likeness.
_MARKUP = re.compile(r"[<&](?=[A-Za-z/!?#])")
_JOINER = "\u2060"


def conversation(history: list[Entry]) -> list[Message]:
    """Messages for the model from the page's history: roles and text alone, questions that never got an answer left out."""
    messages: list[Message] = []
    for entry in history:
        content = entry.get("content")
        if isinstance(content, list):
            content = "".join(str(part.get("text", "")) for part in content if isinstance(part, dict) and part.get("type") == "text")
        if messages and messages[-1]["role"] == entry.get("role") == "user":
            messages.pop()
        messages.append({"role": str(entry.get("role")), "content": str(content or "").replace(_JOINER, "")})
    return messages


def last_question(history: list[Entry]) -> tuple[str, list[Entry]]:
    """The last question and everything before it; "" when there is none."""
    for index in range(len(history) - 1, -1, -1):
        if history[index].get("role") == "user":
            return conversation([history[index]])[0]["content"], history[:index]
    return "", history


def answers(history: list[Entry]) -> int:
    """How many answers a conversation has."""
    return sum(entry.get("role") == "assistant" for entry in history)


def message(role: str, text: str) -> Entry:
    """A message as the Chatbot component takes it, to be shown as it was written, character by character."""
    # A plain string would pass through `cleandoc` in Gradio, which changes the indentation of text that is still being written.
    return {"role": role, "content": [{"type": "text", "text": _MARKUP.sub(rf"\g<0>{_JOINER}", text)}]}
