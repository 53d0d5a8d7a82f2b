"""One turn of a conversation: messages in, a stream of typed events out. Knows no torch, no Gradio and no HTTP."""

import secrets
import threading
import time
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from app.adapter.contract import Message
from app.adapter.directory import public_name
from app.adapter.prompts import clean_text
from app.conversation.limits import Budget, RateLimits
from app.conversation.metrics import Metrics
from app.engine.answer import Answer, GenerationRequest
from app.engine.remote import Generator as AnyGenerator
from app.engine.renewal import Renewal
from app.errors import InvalidQuestion, QuestionTooLong, UserError
from app.notices import advice, identifiers, safety
from app.notices.evidence import Evidence, NearCard
from app.settings import Settings

HEARTBEAT_SECONDS = 2.0

FAR_NOTICE = "This question is far from every card that the model was trained on, so the answer rests on nothing and may be made up."


RECITED_NOTICE = (
    "This answer is that of another training card than the one nearest to the question, so it may well be the answer to another question."
)
IDENTIFIER_NOTICE = (
    "This question seems to hold a patient's {}. Nothing of it is stored, but leave such things out: edit the question and ask again."
)

SHOWN_NOTICE = "The model's answer is shown for testing. Do not act on it."


@dataclass(frozen=True)
class Notice:
    """Something the reader should know: before the answer or, of the kind "recited", after it.

    Attributes:
        text: Lines, one idea each.
        kind: "far", "recited", "identifier", "language", "shown", or a kind of `app.notices.safety`.
    """

    text: str
    cards: tuple[NearCard, ...] = ()
    kind: str = "far"


@dataclass(frozen=True)
class Waiting:
    """The answer has not begun.

    Attributes:
        position: Answers before this one.
    """

    position: int


@dataclass(frozen=True)
class Text:
    """The answer so far, whole."""

    text: str


@dataclass(frozen=True)
class Finished:
    """The answer is complete, or as complete as it will be.

    Attributes:
        finish_reason: "withheld" or "refused" where a notice stands in the place of an answer, which can be shown or not.
        details: What made the answer: adapter, base, seed, settings, tokens, speed.
        error: A sentence when the answer failed; the text so far stands.
    """

    text: str
    finish_reason: str
    details: dict[str, Any]
    error: str | None = None


Event = Notice | Waiting | Text | Finished


def validate(messages: list[Message], settings: Settings) -> list[Message]:
    """Checks a conversation that came from outside, and cleans its texts.

    Raises:
        InvalidQuestion: Roles, order or types are not what a conversation has, or a message is empty.
        QuestionTooLong: A message or the conversation is longer than the settings allow.
    """
    if not messages:
        raise InvalidQuestion("There is no question. Send a list of messages that ends with one from the user.")
    if len(messages) > settings.max_messages:
        raise QuestionTooLong(f"The conversation has {len(messages)} messages and may have {settings.max_messages}. Start a new one.")
    cleaned = []
    for index, message in enumerate(messages):
        role, content = message.get("role"), message.get("content")
        expected = "user" if index % 2 == 0 else "assistant"
        if role == "system":
            raise InvalidQuestion(
                "System messages are not accepted: the adapter was trained with a system text of its own. Leave the system message out."
            )
        if role != expected:
            raise InvalidQuestion(
                f"Message {index + 1} has the role {role!r} where {expected!r} belongs. Alternate user and assistant, beginning with user."
            )
        if not isinstance(content, str):
            raise InvalidQuestion(f"Message {index + 1} is not text. This model reads text only.")
        limit = settings.max_question_chars if role == "user" else 4 * settings.max_question_chars
        if len(content) > limit:
            what = "The question" if index == len(messages) - 1 else f"Message {index + 1}"
            raise QuestionTooLong(f"{what} has {len(content):,} characters and may have {limit:,}. Shorten it.")
        text = clean_text(content)
        if not text and role == "user":
            raise InvalidQuestion("The question is empty. Type a question first.")
        cleaned.append({"role": role, "content": text or "-"})
    if cleaned[-1]["role"] != "user":
        raise InvalidQuestion("The last message must be a question from the user.")
    return cleaned


def details(answer: Answer) -> dict[str, Any]:
    """What made an answer, for the reader who wants to know or to repeat it; holds nothing of the chat."""
    request, loaded = answer.request, answer.loaded
    speed = answer.tokens_per_second
    facts: dict[str, Any] = {
        "adapter": public_name(loaded.name) if loaded else request.adapter,
        "adapter_active": request.use_adapter,
        "adapter_revision": loaded.adapter_revision if loaded else None,
        "base": public_name(loaded.base) if loaded else None,
        "base_revision": loaded.base_revision if loaded else None,
        "logit_change": float(f"{loaded.probe.logit_change:.3g}") if loaded and loaded.probe else None,
        "template_sha256": loaded.contract.template_sha256[:16] if loaded else None,
        "seed": answer.seed,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "repetition_penalty": request.repetition_penalty,
        "max_new_tokens": request.max_new_tokens,
        "prompt_tokens": answer.prompt_tokens,
        "completion_tokens": answer.completion_tokens,
        "tokens_per_second": round(speed, 1) if speed else None,
        "finish_reason": answer.finish_reason,
        "device": f"{loaded.device}, {loaded.dtype}" if loaded else None,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    return facts


class Chat:
    """Answers turns with a generator, and looks up the cards near each question.

    Args:
        generator: Makes the answers; it tells `metrics` of each that ends.
        settings: Limits.
    """

    def __init__(self, generator: AnyGenerator, settings: Settings) -> None:
        self.generator = generator
        self.settings = settings
        self.renewal = Renewal(generator, settings)
        self.metrics = Metrics(generator)
        self._rates = RateLimits(settings.client_limit, settings.total_limit)
        self._budget = Budget(settings.daily_tokens)
        generator.on_finish = self._ended
        self._evidence: tuple[str, Evidence] | None = None

    def evidence(self) -> Evidence | None:
        """The index over the default adapter's training cards; None while loading or where they may not travel."""
        loaded = self.generator.loaded
        if loaded is None or not loaded.cards:
            return None
        key = str(loaded.adapter_revision)
        if self._evidence is None or self._evidence[0] != key:
            self._evidence = (key, Evidence(loaded.cards))
        return self._evidence[1]

    def request(self, messages: list[Message], **options: Any) -> GenerationRequest:
        """A checked request; options outside the limits are brought inside them.

        Raises:
            InvalidQuestion, QuestionTooLong: The conversation cannot be answered.
        """
        with self.metrics.refusals():
            request = GenerationRequest(messages=validate(messages, self.settings), deadline=self.settings.deadline, **options)
        return replace(request, max_new_tokens=max(1, min(request.max_new_tokens, self.settings.max_new_tokens)))

    def submit(self, request: GenerationRequest, address: str | None = None) -> Answer:
        """Puts a checked request in the queue.

        Args:
            request: From `request`.
            address: Who asks, for the limits on questions; None is not counted among those.

        Raises:
            NotReady: No model is open.
            Busy: There are more questions than may wait, or a limit is reached.
        """
        with self.metrics.refusals():
            if address is not None:
                self._rates.take(address)
            self._budget.take(request.max_new_tokens)
            try:
                return self.generator.submit(request)
            except UserError:
                self._budget.give_back(request.max_new_tokens)
                raise

    def _ended(self, answer: Answer) -> None:
        self._budget.give_back(answer.request.max_new_tokens - answer.completion_tokens)
        self.metrics.answer(answer)

    def turn(
        self,
        messages: list[Message],
        *,
        interval: float = 0.08,
        stop: threading.Event | None = None,
        address: str | None = None,
        show_withheld: bool = False,
        **options: Any,
    ) -> Generator[Event, None, None]:
        """Answers the last message.

        Args:
            messages: The conversation, ending with the question.
            interval: Seconds between two `Text` events; the first piece comes at once and the last always.
            stop: Ends the answer from another thread; the turn then finishes with the text so far.
            address: Who asks; see `submit`.
            show_withheld: The reader wants an answer that is withheld, for testing; counts where the owner allows it.
            options: Fields of `GenerationRequest`.

        Yields:
            `Notice` where there is one, `Waiting` until the first word, `Text`, and one `Finished` at the end.
            Closing the iterator stops the generation.
        """
        answer: Answer | None = None
        try:
            request = self.request(messages, **options)
            findings = self.findings(request.messages)
            yield from self.notices(request.messages, findings)
            if ending := self._without_answer(findings, show_withheld):
                yield Finished(safety.WITHHELD, ending, {})
                return
            if show_withheld and findings:
                yield Notice(SHOWN_NOTICE, kind="shown")
            answer = self.submit(request, address)
            yield from self._stream(answer, interval, stop or threading.Event())
        except UserError as error:
            text = answer.text if answer else ""
            yield Finished(text, "error", details(answer) if answer else {}, str(error))
        finally:
            if answer is not None:
                answer.stop()

    def compare(
        self, messages: list[Message], sides: tuple[bool, bool], *, seed: int | None = None, **options: Any
    ) -> Generator[tuple[int, Event], None, None]:
        """Answers the last message twice with one seed, adapter on and off, one answer after the other.

        Args:
            messages: The conversation, ending with the question.
            sides: Whether the adapter answers on the first and on the second side; one of each.
            seed: Drawn at random when None.
            options: As for `turn`.

        Yields:
            The side, 0 or 1, and an event of `turn`; notices come with side 0 alone.

        Raises:
            ValueError: Both sides are the same.
        """
        if sides[0] == sides[1]:
            raise ValueError("a comparison needs the adapter on one side only")
        shared = {**options, "seed": secrets.randbelow(2**31) if seed is None else seed}
        for side, use_adapter in enumerate(sides):
            if side == 1:
                shared["address"] = None  # both answers are to one question
            with closing(self.turn(messages, **{**shared, "use_adapter": use_adapter})) as steps:
                for step in steps:
                    # What an answer is taken from would tell the sides of a blind comparison apart.
                    if not isinstance(step, Notice) or (side == 0 and step.kind != "recited"):
                        yield side, step
                    if isinstance(step, Finished) and step.finish_reason in ("error", "stopped", "withheld", "refused"):
                        return

    def findings(self, messages: list[Message]) -> list[safety.Finding]:
        """What a checked conversation sets off; what the question before set off goes on where the last one asks nothing new."""
        return safety.find(messages[-1]["content"], messages[-3]["content"] if len(messages) > 2 else None)

    def _without_answer(self, findings: list[safety.Finding], show_withheld: bool) -> str:
        """How a turn ends that gets no answer of the model; "" for one that gets it."""
        if any(finding.final for finding in findings):
            return "refused"
        shown = not self.settings.withhold or (show_withheld and self.settings.show_withheld)
        return "" if shown or not any(finding.withholds for finding in findings) else "withheld"

    def notices(self, messages: list[Message], findings: list[safety.Finding]) -> Iterator[Notice]:
        """What the reader is told before the answer to a checked conversation."""
        question, evidence = messages[-1]["content"], self.evidence()
        for finding in findings:
            if finding.name != "overdose" or finding.kind == "emergency" or not any(other.kind == "emergency" for other in findings):
                yield Notice(advice.advice(finding.name, self.settings.country), kind=finding.kind)
        if not findings and (call := advice.foreign(question)):
            yield Notice(call, kind="language")
        if found := identifiers.labels(question):
            yield Notice(IDENTIFIER_NOTICE.format(found), kind="identifier")
        # Who has an emergency or is in despair needs no list of cards.
        grave = any(finding.withholds for finding in findings)
        if not grave and evidence is not None and evidence.is_far(question, follow_up=len(messages) > 1):
            yield Notice(FAR_NOTICE, tuple(evidence.nearest(question)))

    def _recited(self, request: GenerationRequest, text: str) -> Iterator[Notice]:
        question, later, evidence = request.messages[-1]["content"], len(request.messages) > 1, self.evidence()
        if evidence is None or evidence.is_far(question, follow_up=later):  # then that has been said
            return
        card = evidence.recited(question, text, follow_up=later)
        if card is not None:
            yield Notice(RECITED_NOTICE, (card,), kind="recited")

    def _stream(self, answer: Answer, interval: float, stop: threading.Event) -> Iterator[Event]:
        position, shown, last = -1, "", 0.0
        while answer.poll(wait=interval) is not None:
            if stop.is_set():
                answer.stop()
                break
            now = time.monotonic()
            # Said again and again: a turn can only be closed at a yield, and whoever waits may close the page.
            if not answer.text and (answer.position != position or now - last >= HEARTBEAT_SECONDS):
                position, last = answer.position, now
                yield Waiting(position)
            if answer.text != shown and (not shown or now - last >= interval):
                shown, last = answer.text, now
                yield Text(shown)
        if answer.text != shown:
            yield Text(answer.text)
        reason = answer.finish_reason or ("stopped" if stop.is_set() else "stop")
        if reason == "stop" and answer.request.use_adapter:
            yield from self._recited(answer.request, answer.text)
        yield Finished(answer.text, reason, {**details(answer), "finish_reason": reason})
