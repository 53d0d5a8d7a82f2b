"""Many conversations at once, each answer compared with the one that the same question got alone; among them people who vanish and
people who read slowly."""

import json
import re
import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from app.settings import ROOT
from tests.page_client import PageClient
from tests.reliability.server import Row, Server, running, wait_for

MAX_TOKENS = 32
QUESTIONS = 8
FOLLOW_UP = "How is it treated?"
TOLD_SECONDS = 5.0  # who waits longer than this for the first word has been told a place
GROWTH = 1.15  # of memory, once all pages have been opened

Key = tuple[str, bool]  # question, adapter on
Message = dict[str, str]
FULL = re.compile("The queue is full|too many people are asking")


@dataclass
class Load:
    """What happened."""

    server: Server
    references: dict[Key, tuple[str, str]]
    ends: float
    counts: Counter[str] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)
    memory: list[float] = field(default_factory=list)
    seen: list[str] = field(default_factory=list)

    def count(self, *names: str, example: str = "") -> None:
        """Counts events, and keeps the first examples of what should not be."""
        with self.lock:
            self.counts.update(names)
            if example and len(self.seen) < 10:
                self.seen.append(f"{names[0]}: {example[:300]}")

    @property
    def over(self) -> bool:
        """Whether no new question is asked."""
        return time.monotonic() > self.ends


def questions() -> list[str]:
    """Sample questions of the page, of different specialties."""
    samples = json.loads((ROOT / "assets" / "sample_questions.json").read_text(encoding="utf-8"))
    return [group[0] for group in samples.values()][:QUESTIONS]


def talk(question: str, answer: str) -> list[Message]:
    """The conversation before the follow-up."""
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def reference(server: Server) -> dict[Key, tuple[str, str]]:
    """Both answers to each question, made alone."""
    made: dict[Key, tuple[str, str]] = {}
    with httpx.Client(timeout=120) as client:

        def ask(messages: list[Message], tuned: bool) -> str:
            fields = {"model": "adapter" if tuned else "base", "temperature": 0.0, "max_tokens": MAX_TOKENS}
            text: str = server.complete(messages, client, **fields).raise_for_status().json()["choices"][0]["message"]["content"]
            return text

        for question in questions():
            for tuned in (True, False):
                first = ask([{"role": "user", "content": question}], tuned)
                made[question, tuned] = (first, ask([*talk(question, first), {"role": "user", "content": FOLLOW_UP}], tuned))
    return made


def stream(client: httpx.Client, url: str, messages: list[Message], tuned: bool) -> Iterator[str]:
    """Pieces of an answer of the API; raises `_Full` where the queue is."""
    body = {"model": "adapter" if tuned else "base", "messages": messages, "temperature": 0.0, "max_tokens": MAX_TOKENS, "stream": True}
    with client.stream("POST", f"{url}/v1/chat/completions", json=body) as response:
        if response.status_code == 429:
            response.read()
            if "Retry-After" not in response.headers or not FULL.search(response.text):
                raise ValueError(f"429 without a way on: {response.text}")
            raise _Full(float(response.headers["Retry-After"]))
        response.raise_for_status()
        ended = False
        for line in response.iter_lines():
            if line == "data: [DONE]":
                ended = True
            elif line.startswith("data: "):
                data = json.loads(line[6:])
                if "error" in data:
                    raise ValueError(data["error"]["message"])
                yield data["choices"][0]["delta"].get("content") or ""
        if not ended:
            raise ValueError("the stream ended without its last event")


class _Full(Exception):
    """The queue is full.

    Attributes:
        wait: Seconds after which to come again.
    """

    def __init__(self, wait: float) -> None:
        super().__init__()
        self.wait = wait


def by_api(load: Load, client: httpx.Client, messages: list[Message], tuned: bool, pause: float) -> str:
    """One answer of the API, read with a pause after each piece."""
    text = ""
    for piece in stream(client, load.server.url, messages, tuned):
        text += piece
        time.sleep(pause)
    return text


def by_page(load: Load, page: PageClient, messages: list[Message], tuned: bool, pause: float) -> str:
    """One answer of the page; counts whether whoever waited was told a place."""
    places: list[int] = []
    asked, first = time.monotonic(), None
    controls = {"Use the adapter": tuned, "Temperature": 0, "Maximum tokens": MAX_TOKENS}
    event: dict[str, Any] = {}
    history = [{"role": one["role"], "content": [{"type": "text", "text": one["content"]}]} for one in messages[:-1]]
    for line in page.told(messages[-1]["content"], history, **controls):
        event = json.loads(line)
        if "Waiting: " in line:
            places.append(int(line.split("Waiting: ")[1].split(" ")[0]))
        elif first is None and '"role":"assistant"' in line[line.find('"data"') :] and "process_generating" in line:
            first = time.monotonic()
        time.sleep(pause)
    if event.get("msg") != "process_completed" or not event["success"]:
        raise ValueError(f"the page was not told the end: {line}")
    strips = str(page.output(event, "strips"))
    if FULL.search(strips):
        raise _Full(5.0)
    if 'class="strip error"' in strips:
        raise ValueError(strips)
    if (first or time.monotonic()) - asked > TOLD_SECONDS:
        load.count("waited on the page")
        if not places:
            load.count("not told a place", example=str(page.joined))
    if places != sorted(places, reverse=True):
        load.count("place went up", example=str(places))
    answer = page.output(event, "conversation")[-1]
    return "".join(part["text"] for part in answer["content"])


def converse(load: Load, number: int, pause: float = 0.0) -> None:
    """Conversations of two turns, until the load is over; odd numbers ask by the page, and half of each kind has the adapter on."""
    asked, on_page, tuned = questions(), number % 2 == 1, number % 4 < 2
    client: Any = PageClient(load.server.url) if on_page else httpx.Client(timeout=400)
    turn = number
    while not load.over:
        question, turn = asked[turn % len(asked)], turn + 1
        history: list[Message] = []
        for text, expected in zip((question, FOLLOW_UP), load.references[question, tuned], strict=True):
            messages = [*history, {"role": "user", "content": text}]
            answer = _insist(load, (by_page if on_page else by_api), client, messages, tuned, pause)
            if answer is None:
                break
            kind = "page" if on_page else "api"
            if answer.strip() == expected.strip():
                load.count("right", f"right {kind}")
            else:
                others = {one.strip() for pair in load.references.values() for one in pair}
                load.count("mixed" if answer.strip() in others else "wrong", example=f"{kind} {text!r}: {answer!r} for {expected!r}")
            history = talk(text, answer) if not history else [*history, *talk(text, answer)]


def _insist(load: Load, way: Callable[..., str], client: Any, messages: list[Message], tuned: bool, pause: float) -> str | None:
    while True:
        try:
            return way(load, client, messages, tuned, pause)
        except _Full as full:
            load.count("told that the queue is full")
            if load.over:
                return None
            time.sleep(full.wait * (0.5 + hash((id(client), time.monotonic_ns())) % 100 / 100))
        except (ValueError, httpx.HTTPError, KeyError, IndexError) as error:
            load.count("lost", example=f"{type(error).__name__} {error}")
            time.sleep(1)
            return None


def vanish(load: Load, number: int) -> None:
    """Asks, reads a little or nothing, and goes away, again and again."""
    asked, page, client = questions(), PageClient(load.server.url), httpx.Client(timeout=400)
    while not load.over:
        messages = [{"role": "user", "content": asked[number % len(asked)]}]
        try:
            if number % 2:
                pieces: Iterator[str] = page.told(messages[0]["content"], **{"Maximum tokens": 256})
            else:
                pieces = stream(client, load.server.url, messages, False)
            for _ in range(1 + number % 5):
                next(pieces, "")
            pieces.close()  # type: ignore[attr-defined]
            load.count("vanished")
        except _Full:
            pass
        except httpx.HTTPError as error:
            load.count("lost", example=f"who vanishes: {type(error).__name__}")
        number += 1
        time.sleep(2)


def watch(load: Load) -> None:
    """Samples the server's memory."""
    while not load.over:
        load.memory.append(load.server.memory())
        time.sleep(1)


def run(folder: Path, conversations: int, seconds: float) -> list[Row]:
    """The load, and what it came to."""
    with running(folder) as server:
        load = Load(server, reference(server), time.monotonic() + seconds)
        threads = [threading.Thread(target=converse, args=(load, number)) for number in range(conversations)]
        threads += [threading.Thread(target=converse, args=(load, number, 0.3)) for number in range(4)]
        threads += [threading.Thread(target=vanish, args=(load, number)) for number in range(4)]
        threads.append(threading.Thread(target=watch, args=(load,)))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        with httpx.Client(timeout=60) as client:
            quiet = wait_for(lambda: "app_queue_length 0.0" in client.get(f"{server.url}/metrics").text, 30)
            after = reference(server) == load.references
        return rows(load, conversations, seconds, quiet and after, server.trouble())


def rows(load: Load, conversations: int, seconds: float, quiet: bool, trouble: list[str]) -> list[Row]:
    """The lines of the table."""
    counts, memory = load.counts, load.memory
    bad = {name: counts[name] for name in ("wrong", "mixed", "lost")}
    asked = counts["right"] + sum(bad.values())
    steady = memory[len(memory) // 4 :]  # before that everybody's page is opened
    half = len(steady) // 2
    early, late = statistics.median(steady[:half] or steady), statistics.median(steady[half:])
    untold = counts["not told a place"] + counts["place went up"]
    sizes = f"MB at the start {memory[0]:.0f}, median {statistics.median(memory):.0f}, most {max(memory):.0f}"
    return [
        Row(
            f"{conversations} conversations at once, {seconds:.0f} s",
            asked,
            f"{counts['right api']} right by the API, {counts['right page']} on the page; "
            + ", ".join(f"{n} {name}" for name, n in bad.items()),
            asked > 0 and not sum(bad.values()),
        ),
        Row(
            "... who waited on the page was told a place",
            counts["waited on the page"],
            f"{untold} not, or a place that went up",
            untold == 0,
        ),
        Row(
            "... queue full: a sentence, then asked again",
            counts["told that the queue is full"],
            "each with a way on",
            conversations < 50 or counts["told that the queue is full"] > 0,
        ),
        Row(
            "... memory of the server",
            len(memory),
            f"{sizes}; after the first quarter its last half is {late / early:.2f} of its first",
            late <= GROWTH * early,
        ),
        Row("... clients that vanished; then an empty queue and the same answers", counts["vanished"], "yes" if quiet else "NO", quiet),
        Row("... lines of trouble in the log", len(trouble), "; ".join([*trouble[:2], *load.seen[:3]])[:300] or "none", not trouble),
    ]
