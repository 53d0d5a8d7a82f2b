"""Training conversations made less tidy: questions as hurried people type them, and changes of subject. Knows examples alone."""

import random
from dataclasses import replace

from finetune.data.sources import Example


def shorten(question: str, share: float, rng: random.Random) -> str:
    """Leaves out about `share` of a question's words and sometimes its capitals and its question mark, as hurried typing does."""
    words = question.split()
    kept = [word for word in words if rng.random() >= share] or words
    text = " ".join(kept)
    if rng.random() < share:
        text = text.rstrip("?.")
    return text.lower() if rng.random() < share else text


def noisy(example: Example, share: float, rng: random.Random) -> Example:
    """The same example with each user message shortened; see `shorten`."""
    messages = [m | {"content": shorten(m["content"], share, rng)} if m["role"] == "user" else m for m in example.messages]
    return replace(example, messages=messages)


def join_examples(examples: list[Example], share: float, rng: random.Random) -> list[Example]:
    """Puts about `share` of the conversations two by two into one row, as when a person changes the subject; random order."""
    order = rng.sample(examples, len(examples))
    count = 2 * round(share * len(order) / 2)
    pairs = zip(order[:count:2], order[1:count:2], strict=True)
    return [replace(first, messages=first.messages + second.messages) for first, second in pairs] + order[count:]
