"""Messages in OpenAI's, ShareGPT's and our own form become turns of user and assistant. Knows messages, no columns and no files."""

from typing import Any

from finetune.data.values import Unusable, is_missing, required, text_of, unpacked

Message = dict[str, Any]

JOINED = "messages of one speaker joined"
_ROLES = {
    **dict.fromkeys(("user", "human", "prompter", "patient"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "bot", "model", "ai"), "assistant"),
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("tool", "function", "function_call", "observation", "ipython"), "tool"),
}


def pair(question: str, answer: str) -> list[Message]:
    """One question and its answer."""
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def merge(messages: list[Message]) -> list[Message]:
    """Joins what one speaker says in several messages on end into one of several lines, where all of it carries loss or none of it."""
    merged: list[Message] = []
    for message in messages:
        last = merged[-1] if merged else {}
        if last.get("role") == message["role"] and has_loss(last) == has_loss(message):
            merged[-1] = last | {"content": f"{last['content']}\n{message['content']}"}
        else:
            merged.append(message)
    return merged


def has_loss(message: Message) -> bool:
    """Whether a message of the assistant is to be learned; OpenAI's `weight: 0` says that it is not."""
    return message.get("weight", 1) != 0


def read_messages(value: Any, notes: list[str]) -> tuple[list[Message], list[str]]:
    """Turns of user and assistant, and the system messages before them.

    A message has `role` and `content`, or `from` and `value`. A content may be text or a list of parts.

    Args:
        value: The list of messages.
        notes: Gets a sentence on what was not simply text.

    Raises:
        Unusable: A message is of another kind, holds something else than text, or the turns are not question and answer.
    """
    if not isinstance(value, list) or not value or not all(isinstance(message, dict) for message in value):
        raise Unusable("no list of messages")
    turns: list[Message] = []
    system: list[str] = []
    for message, role in zip(value, [_role(message) for message in value], strict=True):
        if role == "system" and turns:
            raise Unusable("system message after the first question")
        content = _content(message, notes)
        if role == "system":
            system.append(content)
        else:
            turns.append({"role": role, "content": content} | ({} if has_loss(message) else {"weight": 0}))
    merged = merge(turns)
    if len(merged) < len(turns):
        notes.append(JOINED)
    check_turns(merged)
    return merged, system


def _role(message: Message) -> str:
    named = str(message.get("role") or message.get("from") or "").strip().lower()
    role = _ROLES.get(named)
    if role is None:
        raise Unusable(f"a message of the unknown role {named[:30]!r}" if named else "a message without a role")
    if role == "tool" or not is_missing(message.get("tool_calls")) or not is_missing(message.get("function_call")):
        raise Unusable("tool call")
    return role


def _content(message: Message, notes: list[str]) -> str:
    content = message["content"] if "content" in message else message.get("value")
    parts = unpacked(content) if isinstance(content, str) and content.lstrip().startswith('[{"type"') else content
    if not isinstance(parts, list):
        return required({"content": content}, "content", "message", notes)
    texts = []
    for part in parts:
        if isinstance(part, dict) and part.get("type", "text") not in ("text", "input_text", "output_text"):
            raise Unusable(f"a message with a part that is no text ({str(part['type'])[:30]})")
        if not is_missing(found := part.get("text") if isinstance(part, dict) else part):
            texts.append(text_of(found, notes))
    return required({"content": "\n".join(texts)}, "content", "message", notes)


def check_turns(messages: list[Message]) -> None:
    """Refuses turns that are not question and answer, and so on, with an answer to learn.

    Raises:
        Unusable: They are not; the text says how.
    """
    roles = [message["role"] for message in messages]
    if not roles:
        raise Unusable("no question and no answer")
    if roles[0] != "user":
        raise Unusable("begins with an answer")
    if roles[-1] != "assistant":
        raise Unusable("ends with a question that nobody answers")
    if roles != ["user", "assistant"] * (len(roles) // 2):
        raise Unusable("messages do not alternate between user and assistant")
    if not any(has_loss(message) for message in messages if message["role"] == "assistant"):
        raise Unusable("no answer is to be learned (weight 0)")
