"""What a model says and how likely it finds a text: greedy answers and log-likelihoods in batches, one model, adapter on or off.

Knows no data sets and no measures. Every finished batch goes into a journal, so that a run that was killed can go on.
"""

import json
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from tqdm import tqdm

from app.adapter import prompts
from app.adapter.prompts import prompt_ids
from app.engine.model import LoadedModel
from app.errors import StorageError
from finetune.data.sources import Message

MAX_NEW_TOKENS = 128

T = TypeVar("T")


@dataclass(frozen=True)
class Item:
    """A prompt and the answer it should get.

    Attributes:
        messages: Alternating user and assistant messages, the last from the user.
        reference: The answer; "" where there is no single right one.
        id: What the source calls it.
    """

    messages: list[Message]
    reference: str = ""
    id: str = ""


@dataclass(frozen=True)
class Prediction:
    """An answer of the model.

    Attributes:
        ended: Whether it ended by itself, with an end-of-sequence token.
    """

    text: str
    ended: bool


@dataclass(frozen=True)
class Completion:
    """Token ids of a text whose likelihood is wanted after a prompt.

    Attributes:
        ids: Prompt and completion together.
        prompt: How many of them are the prompt; at least one.
    """

    ids: list[int]
    prompt: int


class Journal:
    """Results of finished batches, one JSON line each, in a file that `resume` reads back; without a path it remembers nothing.

    Args:
        path: The file; deleted by `close`, when the whole run is done.
        fingerprint: What the results depend on; a journal of another fingerprint is not used.
        resume: Read an existing journal instead of beginning anew.
    """

    def __init__(self, path: Path | None = None, fingerprint: str = "", resume: bool = False) -> None:
        self._path = path
        self._done: dict[tuple[str, int], list[Any]] = {}
        if path is None:
            return
        if resume and path.is_file():
            self._read(path, fingerprint)
        if not self._done:
            self._write(json.dumps({"fingerprint": fingerprint}), "w")

    def _read(self, path: Path, fingerprint: str) -> None:
        lines = path.read_text(encoding="utf-8").split("\n")
        rows = [json.loads(line) for line in lines[:-1]]  # a kill in the middle of a line leaves no line break after it
        if not rows or rows[0].get("fingerprint") != fingerprint:
            return
        self._done = {(row["name"], row["start"]): row["results"] for row in rows[1:]}
        path.write_text("".join(line + "\n" for line in lines[:-1]), encoding="utf-8")

    @property
    def count(self) -> int:
        """Batches that were there at the beginning."""
        return len(self._done)

    def get(self, name: str, start: int) -> list[Any] | None:
        """The results of the batch of `name` that begins at `start`."""
        return self._done.get((name, start))

    def put(self, name: str, start: int, results: list[Any]) -> None:
        """Keeps the results of a batch."""
        if self._path is not None:
            self._write(json.dumps({"name": name, "start": start, "results": results}), "a")

    def close(self) -> None:
        """Deletes the file."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)

    def _write(self, line: str, mode: str) -> None:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)  # type: ignore[union-attr]
            with self._path.open(mode, encoding="utf-8") as file:  # type: ignore[union-attr]
                file.write(line + "\n")
        except OSError as error:
            raise StorageError(f"Writing to {self._path} failed ({error.strerror}). Free some space, or give another --output.") from error


def in_batches(
    items: list[T], work: Callable[[list[T]], list[Any]], size: Callable[[T], int], *, name: str, batch_size: int, journal: Journal
) -> list[Any]:
    """Results of `work` in the order of `items`, which are worked on from short to long, so that batches need little padding.

    Args:
        items: What to work on.
        work: Turns a batch into as many results that JSON can hold.
        size: Length of an item.
        name: Of the progress bar and in the journal.
        batch_size: Items at once; halved whenever the card's memory does not suffice.
        journal: Where finished batches are looked up and kept.
    """
    order = sorted(range(len(items)), key=lambda i: size(items[i]))
    results: list[Any] = [None] * len(items)
    start = 0
    with tqdm(total=len(items), desc=name, unit="item") as bar:
        while start < len(order):
            part = order[start : start + batch_size]
            done = journal.get(name, start)
            if done is None:
                try:
                    done = work([items[i] for i in part])
                except torch.cuda.OutOfMemoryError:
                    if batch_size == 1:
                        raise
                if done is None:  # outside the handler, where the traceback no longer holds the batch's memory
                    torch.cuda.empty_cache()
                    batch_size //= 2
                    continue
                journal.put(name, start, done)
            for index, result in zip(order[start : start + len(done)], done, strict=True):
                results[index] = result
            start += len(done)
            bar.update(len(done))
    return results


def switched(loaded: LoadedModel, use_adapter: bool) -> AbstractContextManager[Any]:
    """The adapter on, or off for as long as the context lasts."""
    return nullcontext() if use_adapter else loaded.model.disable_adapter()


def default_batch_size(loaded: LoadedModel) -> int:
    """Prompts at once: a card is launch-bound below hundreds, a CPU gains nothing above 64."""
    return 256 if loaded.device == "cuda" else 64


def fits(loaded: LoadedModel, item: Item, max_new_tokens: int = MAX_NEW_TOKENS) -> bool:
    """Whether the prompt leaves room for an answer and for its reference in the model's context."""
    reference = len(loaded.tokenizer.encode(item.reference, add_special_tokens=False))
    return len(prompt_ids(loaded.tokenizer, item.messages)) + max(max_new_tokens, reference + 1) <= loaded.contract.context_length


@torch.inference_mode()
def _answer(loaded: LoadedModel, part: list[Item], use_adapter: bool, max_new_tokens: int) -> list[tuple[str, bool]]:
    """Greedy answers to one batch, and whether each ended by itself."""
    tokenizer, eos = loaded.tokenizer, set(loaded.contract.eos_token_ids)
    tokenizer.padding_side = "left"
    conversations = [prompts.cleaned(item.messages) for item in part]
    inputs = tokenizer.apply_chat_template(
        conversations, add_generation_prompt=True, return_dict=True, padding=True, return_tensors="pt"
    ).to(loaded.device)
    with switched(loaded, use_adapter):
        output = loaded.model.generate(
            **inputs,
            max_new_tokens=max_new_tokens,
            do_sample=False,
            # A growing cache is copied at every token: more than half of the time on a CPU. Not compiled, because graphs of
            # every batch's shape would cost more than they save.
            cache_implementation="static",
            disable_compile=True,
            eos_token_id=sorted(eos),
            pad_token_id=tokenizer.pad_token_id,
        )
    rows = output[:, inputs["input_ids"].shape[1] :].tolist()
    return [(tokenizer.decode(row, skip_special_tokens=True), bool(eos & set(row))) for row in rows]


def predict(
    loaded: LoadedModel,
    items: list[Item],
    use_adapter: bool = True,
    batch_size: int | None = None,
    *,
    max_new_tokens: int = MAX_NEW_TOKENS,
    name: str = "answers",
    journal: Journal | None = None,
) -> list[Prediction]:
    """Greedy answers, in the order of `items`.

    Args:
        loaded: The opened adapter.
        items: What to answer.
        use_adapter: False answers with the base alone.
        batch_size: Prompts answered at once.
        max_new_tokens: Tokens an answer may have.
        name: Of the progress bar and in the journal.
        journal: See `Journal`.
    """
    done = in_batches(
        items,
        lambda part: _answer(loaded, part, use_adapter, max_new_tokens),
        lambda item: sum(len(message["content"]) for message in item.messages),
        name=f"{name}, {'tuned' if use_adapter else 'base'}",
        batch_size=batch_size or default_batch_size(loaded),
        journal=Journal() if journal is None else journal,
    )
    return [Prediction(text, ended) for text, ended in done]


def answer_completion(loaded: LoadedModel, messages: list[Message], answer: str) -> Completion:
    """An answer's tokens after the prompt that a chat would send, the end-of-sequence token left out."""
    prompt = prompt_ids(loaded.tokenizer, messages)
    ids, mask = prompts.encode(loaded.tokenizer, [*messages, {"role": "assistant", "content": answer}])
    end = len(mask) - mask[::-1].index(1) if any(mask) else len(prompt)  # what follows an answer's end is not the answer's
    ids = ids[:end]
    while len(ids) > len(prompt) and ids[-1] in loaded.contract.eos_token_ids:
        ids.pop()
    return Completion(ids, len(prompt))


def text_completion(loaded: LoadedModel, text: str) -> Completion:
    """A whole text's tokens after the beginning-of-sequence token alone; after its own first token where the base has none."""
    tokenizer = loaded.tokenizer
    ids = list(tokenizer.encode(text, add_special_tokens=False))
    return Completion(ids if tokenizer.bos_token_id is None else [tokenizer.bos_token_id, *ids], 1)


@torch.inference_mode()
def _score(loaded: LoadedModel, part: list[Completion], use_adapter: bool) -> list[float]:
    """Summed log-likelihoods of one batch, in nats."""
    pad, width = loaded.tokenizer.pad_token_id, max(len(completion.ids) for completion in part)
    keep = max(len(completion.ids) - completion.prompt for completion in part) + 1
    ids = torch.tensor([[pad] * (width - len(c.ids)) + c.ids for c in part], device=loaded.device)
    mask = torch.tensor([[0] * (width - len(c.ids)) + [1] * len(c.ids) for c in part], device=loaded.device)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    with switched(loaded, use_adapter):
        # Logits of the completions alone: those of whole prompts would fill the memory with a vocabulary of 128,000.
        logits = loaded.model(input_ids=ids, attention_mask=mask, position_ids=positions, logits_to_keep=keep, use_cache=False).logits
    scores = []
    for row, completion in enumerate(part):
        count = len(completion.ids) - completion.prompt
        if count == 0:
            scores.append(0.0)
            continue
        loss = torch.nn.functional.cross_entropy(logits[row, -count - 1 : -1].float(), ids[row, -count:], reduction="sum")
        scores.append(-float(loss))
    return scores


def log_likelihoods(
    loaded: LoadedModel,
    completions: list[Completion],
    use_adapter: bool = True,
    batch_size: int = 32,
    *,
    name: str = "likelihood",
    journal: Journal | None = None,
) -> list[float]:
    """Summed log-likelihood of each completion's tokens, in nats; divide by their number for the mean.

    Args:
        loaded: The opened adapter.
        completions: What to score; none longer than the model's context.
        use_adapter: False scores with the base alone.
        batch_size: Completions at once.
        name: Of the progress bar and in the journal.
        journal: See `Journal`.
    """
    return in_batches(
        completions,
        lambda part: _score(loaded, part, use_adapter),
        lambda completion: len(completion.ids),
        name=f"{name}, {'tuned' if use_adapter else 'base'}",
        batch_size=batch_size,
        journal=Journal() if journal is None else journal,
    )
