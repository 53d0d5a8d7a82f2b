"""The generator, with the real model: answers stream, stop, fail and queue without ever touching one another."""

import gc
import logging
import shutil
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock
from weakref import WeakValueDictionary

import pytest
import torch
from transformers import AutoTokenizer

from app.adapter.contract import prompt_ids
from app.engine.answer import GenerationRequest, Streamer, fit
from app.engine.decoder import Decoder
from app.engine.generation import LocalGenerator
from app.engine.model import LoadedModel, load
from app.errors import Busy, GenerationFailed, NotReady, QuestionTooLong, UserError
from tests.answers import PATIENCE, QUESTIONS, ask, at_each_step, text_of, under_way, wait_until
from tests.bases import tinyllama
from tests.conftest import QUICK_AND_LONG, assert_is_for_people


def test_an_answer_arrives_in_pieces_that_make_up_its_text(generator: LocalGenerator, loaded: LoadedModel) -> None:
    answer = generator.submit(ask())
    pieces = list(answer)
    assert len(pieces) > 3
    assert "".join(pieces) == answer.text
    ids = fit(loaded, answer.request)
    expected = loaded.model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=24, do_sample=False, eos_token_id=loaded.contract.eos_token_ids
    )
    assert answer.text == loaded.tokenizer.decode(expected[0, ids.shape[1] :], skip_special_tokens=True)
    assert answer.prompt_tokens == ids.shape[1]
    assert answer.completion_tokens == expected.shape[1] - ids.shape[1]
    assert answer.tokens_per_second and answer.seconds_to_first_token


def test_the_first_piece_comes_long_before_the_last(make_generator: Callable[..., LocalGenerator], endless: LoadedModel) -> None:
    with under_way(make_generator(endless), endless) as answer:
        assert next(iter(answer))
        assert not answer.done.is_set()


def test_the_end_of_sequence_ends_an_answer(make_generator: Callable[..., LocalGenerator], loaded: LoadedModel) -> None:
    first = int(loaded.model.generate(input_ids=fit(loaded, ask()), max_new_tokens=1, do_sample=False)[0, -1])
    stops_at_once = replace(loaded, contract=loaded.contract.model_copy(update={"eos_token_ids": [first]}))
    answer = make_generator(stops_at_once).submit(ask())
    text_of(answer)
    assert (answer.finish_reason, answer.completion_tokens) == ("stop", 1)


def test_the_token_limit_ends_an_answer(make_generator: Callable[..., LocalGenerator], endless: LoadedModel) -> None:
    answer = make_generator(endless).submit(ask(max_new_tokens=5))
    text_of(answer)
    assert (answer.finish_reason, answer.completion_tokens) == ("length", 5)


def test_prompt_and_answer_never_outgrow_the_context(make_generator: Callable[..., LocalGenerator], endless: LoadedModel) -> None:
    small = replace(endless, contract=endless.contract.model_copy(update={"context_length": 140}))
    answer = make_generator(small).submit(ask(max_new_tokens=500))
    text_of(answer)
    assert answer.finish_reason == "length"
    assert answer.prompt_tokens + answer.completion_tokens == 140


def test_many_answers_at_once_equal_the_answers_one_by_one(generator: LocalGenerator) -> None:
    requests = [ask(question, use_adapter=on, max_new_tokens=10) for question in QUESTIONS[:4] for on in (True, False)]
    alone = [text_of(generator.submit(request)) for request in requests]
    assert len(set(alone)) > 2
    wanted = [index % len(requests) for index in range(32)]
    found: dict[int, str] = {}

    def reader(number: int) -> None:
        found[number] = text_of(generator.submit(requests[wanted[number]]))

    readers = [threading.Thread(target=reader, args=(number,)) for number in range(32)]
    for thread in readers:
        thread.start()
    for thread in readers:
        thread.join(PATIENCE)
    assert [found[number] for number in range(32)] == [alone[index] for index in wanted]


def test_two_conversations_at_once_never_mix(generator: LocalGenerator) -> None:
    conversations = [
        [
            ask(question, temperature=2.0, top_p=1.0, max_new_tokens=12, seed=number * 10 + turn, use_adapter=number == 0)
            for turn, question in enumerate(QUESTIONS[number::2])
        ]
        for number in (0, 1)
    ]
    alone = [[text_of(generator.submit(request)) for request in conversation] for conversation in conversations]
    together: list[list[str]] = [[], []]

    def person(number: int) -> None:
        together[number].extend(text_of(generator.submit(request)) for request in conversations[number])

    people = [threading.Thread(target=person, args=(number,)) for number in (0, 1)]
    for thread in people:
        thread.start()
    for thread in people:
        thread.join(PATIENCE)
    assert together == alone


def test_with_the_adapter_off_the_base_answers_and_after_it_the_adapter_again(generator: LocalGenerator) -> None:
    tuned, base, again = (text_of(generator.submit(ask(use_adapter=on))) for on in (True, False, True))
    assert tuned == again != base


def test_a_seed_repeats_a_sampled_answer(generator: LocalGenerator) -> None:
    first, second, other = (generator.submit(ask(temperature=2.0, top_p=1.0, seed=seed)) for seed in (7, 7, 8))
    assert text_of(first) == text_of(second) != text_of(other)
    assert first.seed == 7


def test_a_drawn_seed_is_told_and_repeats_the_answer(generator: LocalGenerator) -> None:
    drawn = generator.submit(ask(temperature=2.0, top_p=1.0))
    text = text_of(drawn)
    assert text_of(generator.submit(ask(temperature=2.0, top_p=1.0, seed=drawn.seed))) == text


def test_stop_ends_an_answer_within_one_token(make_generator: Callable[..., LocalGenerator], endless: LoadedModel) -> None:
    with under_way(make_generator(endless), endless, token=6) as answer:
        answer.stop()
        assert answer.done.wait(PATIENCE)
        assert answer.completion_tokens == 6  # the one under way when stop was called
        text_of(answer)
        assert answer.finish_reason == "stopped"


def test_stop_keeps_the_text_and_touches_nobody_else(make_generator: Callable[..., LocalGenerator], endless: LoadedModel) -> None:
    generator = make_generator(endless)
    alone = text_of(generator.submit(ask(QUESTIONS[1])))
    with under_way(generator, endless) as stopped:
        next(piece for piece in stopped if piece.strip())
        waiting = [generator.submit(ask(QUESTIONS[1])) for _ in range(3)]
        waiting[1].stop()
        stopped.stop()
        assert [text_of(waiting[0]), text_of(waiting[2])] == [alone, alone]
    assert text_of(stopped)
    assert text_of(waiting[1]) == "" and waiting[1].finish_reason == "stopped" and waiting[1].completion_tokens == 0


def test_a_stopped_answer_that_waits_leaves_its_place_to_another(
    make_generator: Callable[..., LocalGenerator], endless: LoadedModel
) -> None:
    generator = make_generator(endless, max_queue=1)
    with under_way(generator, endless):
        generator.submit(ask()).stop()
        last = generator.submit(ask())
        assert last.position == 1
    assert text_of(last)


def test_a_deadline_ends_an_answer_and_keeps_its_text(make_generator: Callable[..., LocalGenerator], endless: LoadedModel) -> None:
    generator = make_generator(endless)
    with at_each_step(endless, lambda step: time.sleep(0.2 if step == 4 else 0)):  # the deadline passes while the fourth is made, or before
        answer = generator.submit(ask(max_new_tokens=250, deadline=0.1))
        assert text_of(answer)
    assert answer.finish_reason == "deadline"
    assert answer.completion_tokens <= 4


def test_a_full_queue_says_when_to_come_back(make_generator: Callable[..., LocalGenerator], endless: LoadedModel) -> None:
    generator = make_generator(endless, max_queue=2)
    with under_way(generator, endless):
        waiting = [generator.submit(ask()) for _ in range(2)]
        assert [answer.position for answer in waiting] == [1, 2]
        with pytest.raises(Busy) as caught:
            generator.submit(ask())
    assert caught.value.retry_after > 0
    assert_is_for_people(caught.value)
    assert all(text_of(answer) for answer in waiting)


def test_an_answer_does_not_wait_for_ever(make_generator: Callable[..., LocalGenerator], endless: LoadedModel) -> None:
    generator = make_generator(endless, max_wait=0.2)
    with under_way(generator, endless), pytest.raises(Busy, match="too many people") as caught:
        text_of(generator.submit(ask()))
    assert_is_for_people(caught.value)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (RuntimeError("What are the common symptoms of diabetes? secret"), "failed in the middle"),
        (torch.cuda.OutOfMemoryError("secret"), "out of memory"),
    ],
)
@pytest.mark.parametrize("use_adapter", [True, False])
def test_an_exception_inside_generate_reaches_the_reader_and_the_next_answer_works(
    make_generator: Callable[..., LocalGenerator],
    endless: LoadedModel,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
    message: str,
    use_adapter: bool,
) -> None:
    generator = make_generator(endless)
    alone = text_of(generator.submit(ask()))

    def fail(step: int) -> None:
        if step == 8:
            raise error

    with caplog.at_level(logging.DEBUG), at_each_step(endless, fail):
        answer = generator.submit(ask(use_adapter=use_adapter))
        with pytest.raises(GenerationFailed, match=message) as caught:
            text_of(answer)
    assert answer.completion_tokens == 7, "it ends where it failed"
    assert_is_for_people(caught.value)
    assert answer.text, "what was made before the error stays"
    assert "secret" not in caplog.text and "diabetes" not in caplog.text
    assert any(record.levelno == logging.ERROR for record in caplog.records)
    assert text_of(generator.submit(ask())) == alone


def test_a_question_that_is_too_long_is_refused_in_words(generator: LocalGenerator) -> None:
    answer = generator.submit(ask("symptoms of diabetes " * 2000))
    with pytest.raises(QuestionTooLong, match=r"has [0-9]+ tokens and the model reads [0-9]+") as caught:
        text_of(answer)
    assert_is_for_people(caught.value)
    assert text_of(generator.submit(ask()))


def conversation(turns: int) -> list[dict[str, str]]:
    messages = []
    for number in range(turns):
        messages += [
            {"role": "user", "content": f"Question {number}: {QUESTIONS[number % len(QUESTIONS)]}"},
            {"role": "assistant", "content": f"Answer {number}. " + "Rest and fluids help. " * 3},
        ]
    return messages[:-1]


def test_a_long_conversation_is_trimmed_by_whole_turns_oldest_first(loaded: LoadedModel) -> None:
    messages = conversation(30)
    kept = fit(loaded, GenerationRequest(messages, max_new_tokens=64))[0].tolist()
    room = loaded.contract.context_length - 64
    assert len(kept) <= room
    whole_turns = [prompt_ids(loaded.tokenizer, messages[start:]) for start in range(0, len(messages), 2)]
    assert kept in whole_turns, "the prompt begins with a whole turn"
    assert len(whole_turns[whole_turns.index(kept) - 1]) > room, "no turn was left out that had room"


def test_a_short_conversation_is_kept_whole(loaded: LoadedModel) -> None:
    messages = conversation(2)
    assert fit(loaded, GenerationRequest(messages, max_new_tokens=32))[0].tolist() == prompt_ids(loaded.tokenizer, messages)


def test_a_listener_hears_of_every_piece_and_of_the_end(generator: LocalGenerator) -> None:
    answer = generator.submit(ask())
    heard, text = threading.Event(), ""
    answer.listen(heard.set)
    while True:
        assert heard.wait(PATIENCE), "nobody told the listener"
        heard.clear()
        while piece := answer.poll():
            text += piece
        if piece is None:
            break
    assert text == answer.text != ""


def test_nothing_is_answered_while_the_model_loads(loaded: LoadedModel) -> None:
    opened = threading.Event()

    def slowly(name: str) -> LoadedModel:
        opened.wait()
        return loaded

    generator = LocalGenerator(slowly, "any")
    try:
        assert (generator.status, generator.loaded) == ("loading", None)
        with pytest.raises(NotReady, match="loading") as caught:
            generator.submit(ask())
        assert_is_for_people(caught.value)
        opened.set()
        generator.wait_until_ready(PATIENCE)
        assert generator.loaded is loaded
        assert text_of(generator.submit(ask(max_new_tokens=2)))
    finally:
        opened.set()
        generator.close()


@pytest.mark.parametrize(
    ("error", "message"), [(UserError("The adapter is broken."), "The adapter is broken."), (KeyError("secret"), "could not be opened")]
)
def test_a_model_that_cannot_be_opened_is_told_in_words(error: Exception, message: str) -> None:
    def fail(name: str) -> LoadedModel:
        raise error

    generator = LocalGenerator(fail, "any")
    try:
        with pytest.raises(NotReady, match=message) as caught:
            generator.wait_until_ready(PATIENCE)
        assert generator.status == "failed"
        assert "secret" not in str(caught.value)
        with pytest.raises(NotReady, match=message):
            generator.submit(ask())
    finally:
        generator.close()


def test_another_adapter_that_cannot_be_opened_disturbs_nobody(loaded: LoadedModel) -> None:
    def load(name: str) -> LoadedModel:
        if name != "default":
            raise UserError("There is no such adapter.")
        return loaded

    generator = LocalGenerator(load, "default")
    try:
        generator.wait_until_ready(PATIENCE)
        with pytest.raises(UserError, match="no such adapter"):
            text_of(generator.submit(ask(adapter="other")))
        assert text_of(generator.submit(ask(max_new_tokens=2)))
        assert generator.status == "ready"
    finally:
        generator.close()


def test_of_many_adapters_the_default_and_the_latest_stay_open(loaded: LoadedModel) -> None:
    opened: list[str] = []

    def load(name: str) -> LoadedModel:
        opened.append(name)
        return replace(loaded, name=name)

    generator = LocalGenerator(load, "default", max_models=2)
    try:
        generator.wait_until_ready(PATIENCE)
        for name in ("one", "one", "two", None, "one"):
            answer = generator.submit(ask(adapter=name, max_new_tokens=1))
            text_of(answer)
            assert answer.loaded is not None and answer.loaded.name == (name or "default")
        assert opened == ["default", "one", "two", "one"]
    finally:
        generator.close()


def test_closing_ends_every_answer_at_once(loaded: LoadedModel, endless: LoadedModel) -> None:
    generator = LocalGenerator(lambda name: endless, "any")
    generator.wait_until_ready(PATIENCE)
    with under_way(generator, endless, token=6) as running:
        answers = [running, *(generator.submit(ask(max_new_tokens=200)) for _ in range(3))]
        generator.close()
    for answer in answers:
        text_of(answer)
    assert [answer.completion_tokens for answer in answers] == [6, 0, 0, 0]
    assert {answer.finish_reason for answer in answers} == {"stopped"}
    with pytest.raises(NotReady, match="shutting down"):
        generator.submit(ask())


# Soak


@pytest.mark.parametrize("long", QUICK_AND_LONG)
def test_of_many_requests_at_once_none_gets_anothers_answer(generator: LocalGenerator, long: bool) -> None:
    """32 conversations at once, half of them with the adapter off: 200 requests in the long version."""
    people, rounds = (32, 200) if long else (8, 24)
    requests = [ask(question, use_adapter=on, max_new_tokens=24 if long else 4) for question in QUESTIONS for on in (True, False)]
    alone = [text_of(generator.submit(request)) for request in requests]
    numbers = iter(range(rounds))
    mixed_up: list[int] = []

    def person() -> None:
        for number in numbers:  # next() of a range iterator is atomic
            which = number * 7 % len(requests)
            if text_of(generator.submit(requests[which])) != alone[which]:
                mixed_up.append(number)

    threads = [threading.Thread(target=person) for _ in range(people)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert mixed_up == [] and next(numbers, None) is None


@pytest.mark.parametrize("long", QUICK_AND_LONG)
def test_many_requests_leave_no_thread_and_no_memory_behind(
    make_generator: Callable[..., LocalGenerator], endless: LoadedModel, long: bool
) -> None:
    """Finished, stopped and failed answers alike: 500 requests in the long version."""
    import psutil

    generator = make_generator(endless)
    rounds = 500 if long else 30
    process, sizes = psutil.Process(), []

    def once(number: int) -> None:
        answer = generator.submit(ask(QUESTIONS[number % len(QUESTIONS)], use_adapter=number % 2 == 0, max_new_tokens=6))
        if number % 5 == 1:
            answer.stop()
        if number % 5 == 2:
            next(iter(answer), "")
            answer.stop()
        text_of(answer)

    for number in range(rounds // 5):  # caches fill up
        once(number)
    threads = threading.active_count()
    for number in range(rounds):
        once(number)
        sizes.append(process.memory_info().rss)
    assert threading.active_count() == threads
    third = len(sizes) // 3
    grown = sum(sizes[-third:]) / third - sum(sizes[:third]) / third
    assert grown < (8 if long else 16) * 2**20, f"{grown / 2**20:.1f} MiB more"


@pytest.mark.parametrize("long", QUICK_AND_LONG)
def test_stopping_again_and_again_always_frees_the_model_for_the_next(
    make_generator: Callable[..., LocalGenerator], endless: LoadedModel, long: bool
) -> None:
    generator = make_generator(endless)
    alone = text_of(generator.submit(ask(QUESTIONS[1], max_new_tokens=3)))
    for number in range(100 if long else 8):
        with under_way(generator, endless, token=4, use_adapter=number % 2 == 0) as stopped:
            stopped.stop()
            after = generator.submit(ask(QUESTIONS[1], max_new_tokens=3))
            assert text_of(after) == alone
        assert stopped.done.is_set() and stopped.finish_reason == "stopped"
        assert stopped.completion_tokens == 4


# The decoder, which makes the tokens here, and the library's loop behind it.


def test_without_a_decoder_the_librarys_loop_makes_the_same_answer(
    make_generator: Callable[..., LocalGenerator], loaded: LoadedModel
) -> None:
    slow = make_generator(replace(loaded, decoder=None))
    quick = make_generator()
    for options in ({}, {"use_adapter": False}, {"repetition_penalty": 1.3}):
        request = ask(max_new_tokens=12, **options)
        assert text_of(slow.submit(request)) == text_of(quick.submit(request))


def test_a_decoder_that_says_something_else_is_not_used(loaded: LoadedModel, caplog: pytest.LogCaptureFixture) -> None:
    other = replace(loaded, decoder=Decoder(loaded.model, loaded.contract.context_length), warm=False)
    other.decoder._eps = 0.5
    with caplog.at_level(logging.WARNING):
        other.warm_up()
    assert other.decoder is None
    assert "differ" in caplog.text


def test_a_prompt_passed_in_pieces_gives_the_same_logits(loaded: LoadedModel) -> None:
    ids = fit(loaded, ask())[0]
    decoder = loaded.decoder
    decoder.use(loaded.adapter_name)
    whole = decoder.logits(ids, 0).clone()
    decoder.logits(ids[:10], 0)
    decoder.logits(ids[10:-1], 10)
    assert torch.allclose(decoder.logits(ids[-1:], len(ids) - 1), whole, atol=1e-4)


def test_text_comes_token_by_token_and_broken_characters_at_the_end_stay_visible(loaded: LoadedModel) -> None:

    text = "\u03b2-blocker, 5 \u00b5g/kg \u2014 caf\u00e9 \U0001f9e0!\n\n  Two  spaces."
    ids = loaded.tokenizer(text, add_special_tokens=False)["input_ids"]
    for cut in (len(ids), 1, 2, len(ids) - 1):
        streamer = Streamer(loaded.tokenizer, lambda: None)
        streamer.put(torch.tensor([[1, 2, 3]]))
        for token in ids[:cut]:
            streamer.put(torch.tensor([token]))
        streamer.end()
        assert "".join(streamer) == loaded.tokenizer.decode(ids[:cut], skip_special_tokens=True)


def test_a_second_adapter_of_the_same_base_shares_its_weights_and_leaves_with_its_own(
    loaded: LoadedModel, adapter: str, adapter_copy: Path
) -> None:
    decoders: WeakValueDictionary[Any, Decoder] = WeakValueDictionary()
    generator = LocalGenerator(partial(load, decoders=decoders), adapter, max_models=2)
    try:
        generator.wait_until_ready(PATIENCE)
        first = generator.loaded
        alone = text_of(generator.submit(ask()))
        second = generator.submit(ask(adapter=str(adapter_copy)))
        assert text_of(second) == alone
        assert second.loaded.model is first.model and second.loaded.decoder is first.decoder
        assert len(first.model.peft_config) == 2
        text_of(generator.submit(ask(adapter=str(shutil.copytree(adapter_copy, adapter_copy.parent / "third")))))
        assert len(first.model.peft_config) == 2, "the second one has not gone"
        assert text_of(generator.submit(ask())) == alone
        gone = weakref.ref(first.model)
        del first, second
    finally:
        generator.close()
    wait_until(lambda: gc.collect() is not None and gone() is None)
    assert not decoders


def test_when_the_card_is_lost_everyone_is_told(make_generator: Callable[..., LocalGenerator], endless: LoadedModel) -> None:
    generator = make_generator(endless)

    asked = threading.Event()

    def fail(step: int) -> None:
        asked.wait()
        raise RuntimeError("CUDA error: unspecified launch failure")

    with at_each_step(endless, fail), mock.patch("app.engine.generation._free_memory", side_effect=RuntimeError("CUDA error")):
        answers = [generator.submit(ask()) for _ in range(3)]
        asked.set()
        messages = []
        for answer in answers:
            with pytest.raises(UserError) as caught:
                text_of(answer)
            assert_is_for_people(caught.value)
            messages.append(str(caught.value))
    assert "Restart" in messages[-1]
    with pytest.raises(NotReady, match="Restart"):
        generator.submit(ask())
    assert generator.status == "failed"


def test_bytes_that_make_no_character_stop_no_answer(tmp_path: Path) -> None:
    tinyllama(tmp_path)  # a tokenizer with a token for each byte, as all that come from sentencepiece have
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    ids = [tokenizer.convert_tokens_to_ids(f"<0x{byte:02X}>") for byte in (0x29, 0xC9)]  # a bracket and half a character
    words = tokenizer.encode("a word and another", add_special_tokens=False)
    for broken in (ids, ids[1:], [*ids, *ids], [ids[0], *words, *ids]):
        streamer = Streamer(tokenizer, lambda: None)
        for token in [*words, *broken, *words]:
            streamer.write(token)
        streamer.end()
        text = "".join(streamer)
        assert text.startswith("a word and another") and text.endswith("a word and another")
