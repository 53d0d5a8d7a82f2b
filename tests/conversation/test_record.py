"""Saved conversations: what they hold, and that their answers can be made again."""

import re
from html import unescape
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from app.__main__ import main
from app.conversation.chat import Chat, Finished
from app.conversation.record import Record, Side, Turn, read, replay, to_html, to_json, to_markdown
from app.engine.generation import LocalGenerator
from app.errors import DataError
from app.settings import Settings
from tests.conftest import assert_is_for_people

QUESTION = "What are the common symptoms of diabetes?"


def make(chat: Chat, messages: list[dict[str, str]], **options: object) -> Finished:
    end = list(chat.turn(messages, max_new_tokens=12, **options))[-1]
    assert isinstance(end, Finished) and end.text
    return end


@pytest.fixture
def record(generator: LocalGenerator) -> Record:
    """A sampled answer, compared with the base's, and a second turn."""
    chat = Chat(generator, Settings())
    first = [{"role": "user", "content": QUESTION}]
    ours = make(chat, first, temperature=0.8, seed=7)
    base = make(chat, first, temperature=0.8, seed=7, use_adapter=False)
    second = make(chat, [*first, {"role": "assistant", "content": ours.text}, {"role": "user", "content": "How is it treated?"}])
    other = Side(answer=base.text, details=base.details)
    return Record(
        turns=[
            Turn(question=QUESTION, answer=ours.text, details=ours.details, notices=["Careful."], other=other, vote="tuned"),
            Turn(question="How is it treated?", answer=second.text, details=second.details),
        ]
    )


def test_replay_makes_the_same_answers_from_the_saved_file(record: Record, generator: LocalGenerator, tmp_path: Path) -> None:
    file = tmp_path / "record.json"
    file.write_text(to_json(record), encoding="utf-8")
    results = list(replay(read(file), generator))
    assert [same for _, same in results] == [True, True, True], results


def test_replay_says_where_an_answer_differs_and_what_has_changed(record: Record, generator: LocalGenerator) -> None:
    turn = record.turns[0]
    words = turn.answer.split()
    turn.answer = " ".join([*words[:2], "unicorn", *words[3:]])
    turn.details["adapter_revision"] = "sha256:0"
    sentence, same = next(iter(replay(record, generator)))
    assert not same
    assert "from word 3 on" in sentence and "unicorn" in sentence and "other adapter weights" in sentence


def test_an_answer_that_was_stopped_is_the_same_when_the_new_one_begins_with_it(record: Record, generator: LocalGenerator) -> None:
    turn = record.turns[1]
    turn.answer, turn.details["finish_reason"] = turn.answer[:20], "stopped"
    assert [same for _, same in replay(record, generator)] == [True, True, True]


@pytest.mark.parametrize("write", [to_markdown, to_html, to_json])
def test_every_form_holds_questions_answers_notices_and_what_made_them(record: Record, write: object) -> None:
    text = write(record)
    turn = record.turns[0]
    for piece in (QUESTION, "Careful.", turn.answer[:20], turn.other.answer[:20], turn.details["adapter_revision"], "7", "tuned"):
        assert piece in text
    assert "not a medical device" in text


def test_in_markdown_the_text_shows_as_it_was_written() -> None:
    written = "Na<K and pH>7, WBC 11*10^9/L or 4*10^9/L; R&amp;D <b>x</b> T_max_ `a` ~~5~~ [a](b) \\*"
    text = to_markdown(Record(turns=[Turn(question=written, answer=written, other=Side(answer=written))]))
    shown = unescape(re.sub(r"<[^>]*>", "", MarkdownIt("commonmark").enable("strikethrough").render(text)))
    assert shown.count(written) == 3


def test_the_page_to_print_runs_nothing() -> None:
    html = to_html(Record(turns=[Turn(question="<script>alert(1)</script>", answer="<img src=x onerror=alert(2)>")]))
    assert "<script" not in html and "<img" not in html


@pytest.mark.parametrize("text", ["", "no", "[]", '{"turns": [{"question": "a"}]}', '{"turns": [], "x": 1}'])
def test_a_file_that_is_no_record_is_refused_in_words(text: str, tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(DataError) as caught:
        read(file)
    assert_is_for_people(caught.value)
    with pytest.raises(DataError):
        read(tmp_path / "missing.json")


def test_the_command_ends_with_a_sentence_on_each_answer(record: Record, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "record.json"
    file.write_text(to_json(record), encoding="utf-8")
    caplog.set_level("INFO")
    assert main(["replay", str(file)]) == 0
    assert "1: answer is the same" in caplog.text
    assert main(["replay"]) == 1
    assert main(["replay", str(tmp_path / "missing.json")]) == 1


def test_a_notice_of_several_lines_keeps_them() -> None:
    record = Record(turns=[Turn(question="q", answer="none", notices=["First <line>.\nCall 999."])])
    assert "> First \\<line\\>.  \n> Call 999.  \n" in to_markdown(record)
    assert '<p class="notice">First &lt;line&gt;.\nCall 999.</p>' in to_html(record)
