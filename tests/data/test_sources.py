"""Data sets become conversations; what cannot is counted, or refused with the line and the cure."""

import json
import random
from pathlib import Path

import pytest

from app.errors import DataError, HubUnavailable
from finetune.data.noise import join_examples, noisy, shorten
from finetune.data.sources import Example, card_examples, load_source, read_cards
from tests.conftest import FLASHCARDS, assert_is_for_people


@pytest.fixture
def write(tmp_path: Path):
    def write(content: str | bytes, name: str = "data.jsonl") -> str:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return str(path)

    return write


def lines(*rows: object) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def pair(question: str, answer: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


ROWS = {
    "flashcards": {"instruction": "Answer this question truthfully", "input": "Q?", "output": "A."},
    "questions": {"question": "Q?", "answer": "A.", "anything": 1},
    "conversations": {"messages": pair("Q?", "A.")},
}


@pytest.mark.parametrize("form", ROWS)
@pytest.mark.parametrize("name", ["data.jsonl", "data.json"])
def test_rows_of_each_known_form_become_conversations(write, form: str, name: str) -> None:
    rows = [ROWS[form], ROWS[form]]
    source = load_source(write(lines(*rows) if name.endswith("l") else json.dumps(rows), name))
    assert [example.messages for example in source.examples] == [pair("Q?", "A.")] * 2
    assert (source.id, source.revision, source.licence, source.rows_read, source.dropped) == (name, None, None, 2, [])


def test_rows_without_a_question_or_an_answer_are_counted(write) -> None:
    rows = [
        {"input": "Q?", "output": "A."},
        {"input": "", "output": "A."},
        {"input": "Q?", "output": " \n"},
        {"input": "Q?"},
        {"input": None, "output": 3},
    ]
    with pytest.raises(DataError, match=r"data.jsonl: 4 of 5 rows would be dropped, more than 30% \(2: empty question; 2: empty answer\)"):
        load_source(write(lines(*rows)))
    source = load_source(write(lines(*rows)), max_dropped=0.8)
    assert len(source.examples) == 1
    assert source.rows_read == 5
    assert dict(source.dropped) == {
        1: "empty question",
        2: "empty answer",
        3: "empty answer",
        4: "empty question",
    }


def test_conversations_that_do_not_alternate_are_counted(write) -> None:
    good = {"messages": pair("Q?", "A.") + pair("And?", "B.")}
    late = {"messages": [*pair("Q?", "A."), {"role": "system", "content": "Be brief."}, *pair("Q?", "A.")]}
    unanswered = {"messages": [*pair("Q?", "A."), {"role": "user", "content": "And?"}]}
    rows = [good, late, unanswered, {"messages": []}, {"messages": "text"}, {"messages": [{"role": "user"}]}]
    source = load_source(write(lines(*rows)), max_dropped=1)
    assert [example.row for example in source.examples] == [0]
    assert [reason for _, reason in source.dropped] == [
        "system message after the first question",
        "ends with a question that nobody answers",
        "no list of messages",
        "no list of messages",
        "empty message",
    ]


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (lines({"query": "Q?", "reply": "A."}), "has the columns query, reply. Training reads one of: .*input and output"),
        (lines(ROWS["questions"]) + "{'question': 1}\n", "line 2 is not valid JSON"),
        (lines(ROWS["questions"]) + '{"question": "Q?", "ans', "line 2 is not valid JSON"),
        ('[{"question": "Q?",\n "answer": }]', "line 2"),
        (b'{"question": "caf\xe9", "answer": "A."}\n', "is not UTF-8 text .byte 17, line 1.*--encoding windows-1252"),
        ("", "holds no rows"),
        ("\n\n", "holds no rows"),
        ("[]", "holds no rows"),
        ("[1, 2]", "holds no rows"),
        ('"text"\n', "holds no rows"),
        (lines({"input": "", "output": ""}), "no usable"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_with_the_place_and_the_cure(write, content: str | bytes, text: str) -> None:
    with pytest.raises(DataError, match=text) as caught:
        load_source(write(content))
    assert_is_for_people(caught.value)


def test_a_byte_order_mark_does_no_harm(write) -> None:
    assert len(load_source(write(b"\xef\xbb\xbf" + lines(ROWS["questions"]).encode())).examples) == 1


def test_unusual_line_separators_inside_a_text_do_not_break_a_line(write) -> None:
    row = {"question": "Q\u2028?", "answer": "A\x85."}
    source = load_source(write(json.dumps(row, ensure_ascii=False) + "\n"))
    assert source.examples[0].messages == pair("Q\u2028?", "A\x85.")


@pytest.mark.parametrize("name", ["nowhere.jsonl", "no/where.json"])
def test_a_missing_file_is_refused(name: str) -> None:
    with pytest.raises(DataError, match="There is no data file") as caught:
        load_source(name)
    assert_is_for_people(caught.value)


def test_a_folder_is_no_data_file(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        load_source(str(tmp_path))
    assert_is_for_people(caught.value)


def test_a_hub_that_does_not_answer_is_told_with_the_cure() -> None:
    with pytest.raises(HubUnavailable, match="somebody/cards could not be fetched.*--data") as caught:
        load_source("somebody/cards")
    assert_is_for_people(caught.value)


def test_a_card_without_a_field_is_named(write) -> None:
    card = {"id": "a-b", "specialty": "x", "question": "Q?", "rewordings": ["R?", "S?"]}
    with pytest.raises(DataError, match="card 1.*answer") as caught:
        load_source(write(lines(card)))
    assert_is_for_people(caught.value)


def test_our_cards_are_trained_in_every_wording_but_the_held_out_one() -> None:
    cards = read_cards(FLASHCARDS)
    source = load_source(str(FLASHCARDS))
    asked = {message["content"] for example in source.examples for message in example.messages if message["role"] == "user"}
    assert {card.question for card in cards} <= asked
    assert {card.rewordings[0] for card in cards} <= asked
    assert not asked & {card.held_out for card in cards}
    travelling = json.dumps(source.cards)
    assert not any(json.dumps(card.held_out)[1:-1] in travelling for card in cards), (
        "the cards that travel with an adapter are trained ones"
    )
    assert {card["id"] for card in source.cards} == {card.id for card in cards}


def test_follow_ups_come_as_second_turns_after_their_own_card() -> None:
    card = next(card for card in read_cards(FLASHCARDS) if card.follow_up)
    two_turns = [example.messages for example in card_examples(card) if len(example.messages) == 4]
    assert two_turns
    for messages in two_turns:
        assert messages[0]["content"] in card.trained_wordings()
        assert messages[1]["content"] == card.answer
        assert messages[2]["content"] in card.follow_up.trained_wordings()
        assert messages[3]["content"] == card.follow_up.answer


def test_noise_shortens_questions_and_leaves_answers_alone() -> None:
    example = Example(pair("Which nerve is injured in a fracture of the surgical neck?", "The axillary nerve."), 1)
    changed = noisy(example, 0.5, random.Random(1))
    assert len(changed.messages[0]["content"].split()) < 11
    assert changed.messages[1] == example.messages[1]
    assert shorten("Word?", 0.99, random.Random(1)).lower().startswith("word"), "a question never becomes empty"


def test_joined_conversations_lose_nothing_and_leave_the_rest_alone() -> None:
    examples = [Example([{"role": "user", "content": f"q{n}"}, {"role": "assistant", "content": f"a{n}"}], n) for n in range(100)]
    rows = join_examples(examples, 0.5, random.Random(0))
    assert sorted(len(row.messages) for row in rows) == [2] * 50 + [4] * 25
    assert sorted(m["content"] for row in rows for m in row.messages) == sorted(m["content"] for e in examples for m in e.messages)
    assert sorted(row.row for row in join_examples(examples, 0, random.Random(0))) == list(range(100))


OPTIONS = {"opa": "Ulnar", "opb": "Radial", "opc": "Median", "opd": "None"}


def test_medmcqa_counts_from_one_in_its_files_and_from_zero_on_the_hub(write) -> None:
    rows = [
        {"question": "Which?", **OPTIONS, "cop": cop, "exp": exp} for cop, exp in ((2, "Ans. B. It lies there."), (4, None), (4, "Ans. A."))
    ]
    source = load_source(write(lines(*rows)), max_dropped=0.5)
    asked = "Which?\nA. Ulnar\nB. Radial\nC. Median\nD. None"
    assert [example.messages for example in source.examples] == [pair(asked, "B. Radial\n\nIt lies there."), pair(asked, "D. None")]
    assert source.dropped == [(2, "the explanation names another option than the key")]
    source = load_source(
        write(lines(*[row | {"cop": cop, "exp": None} for row, cop in zip(rows, (0, 3, -1), strict=True)])), max_dropped=0.5
    )
    assert [example.answer for example in source.examples] == ["A. Ulnar", "D. None"]
    assert source.dropped == [(2, "no right option is given")]
    with pytest.raises(DataError, match="whether it counts from 0 or from 1") as caught:
        load_source(write(lines(rows[0])))
    assert_is_for_people(caught.value)


def test_pubmedqa_becomes_abstract_and_question_then_decision_and_conclusion(write) -> None:
    row = {"QUESTION": "Does it?", "CONTEXTS": ["One.", "Two."], "LONG_ANSWER": "It seems so.", "final_decision": "maybe"}
    hub = {"question": "Does it?", "context": {"contexts": ["One.", "Two."]}, "long_answer": "It seems so.", "final_decision": "maybe"}
    for content in (json.dumps({"123": row}), json.dumps([hub])):
        assert load_source(write(content, "data.json")).examples[0].messages == pair("One.\nTwo.\n\nDoes it?", "Maybe. It seems so.")


def test_lines_of_doctor_and_patient_become_turns_and_lines_of_one_side_are_merged(write) -> None:
    text = "Doctor: Hello. \nDoctor: What is it?\nPatient: A cough.\nGuest_family: For weeks.\nDoctor: Any fever?\nPatient: No."
    source = load_source(write(lines({"dialogue": text}, {"dialogue": "no names"}, {"dialogue": "Patient: Hello?"})), max_dropped=0.9)
    assert source.examples[0].messages == pair("Hello, doctor.", "Hello.\nWhat is it?") + pair("A cough.\nFor weeks.", "Any fever?")
    assert [row for row, _ in source.dropped] == [1, 2]


@pytest.mark.parametrize("kind", ["csv", "semicolons.csv", "parquet"])
def test_anyones_own_table_is_read_with_a_column_mapping(tmp_path: Path, kind: str) -> None:
    import pyarrow as pa
    import pyarrow.parquet as parquet

    path = tmp_path / f"own.{kind}"
    if kind == "parquet":
        parquet.write_table(pa.table({"Frage": ["Was, bitte?"], "Antwort": ["Das\nda."], "Text": ["Dies."]}), path)
    else:
        mark = ";" if "semi" in kind else ","
        path.write_text(f'Frage{mark}Antwort{mark}Text\n"Was, bitte?"{mark}"Das\nda."{mark}Dies.\n')
    assert load_source(str(path), columns="question=Frage,answer=Antwort").examples[0].messages == pair("Was, bitte?", "Das\nda.")
    with_context = load_source(str(path), columns="question=Frage,answer=Antwort,context=Text")
    assert with_context.examples[0].messages == pair("Dies.\n\nWas, bitte?", "Das\nda.")


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("a.csv", "question,answer\nQ?\n", "no usable rows: all 1 were left out .1: empty answer"),
        ("a.csv", "question,answer\n", "no rows below its first line"),
        ("a.parquet", "no parquet", "cannot be read as Parquet"),
    ],
)
def test_a_table_that_cannot_be_read_is_refused_in_words(write, name: str, content: str, text: str) -> None:
    with pytest.raises(DataError, match=text) as caught:
        load_source(write(content, name))
    assert_is_for_people(caught.value)
