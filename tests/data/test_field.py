"""Data as people have it: each kind of file is read as it is meant, or its rows are left out for their true reasons."""

import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from openpyxl import Workbook

from app.errors import DataError, UserError
from finetune.data.rows import split_of
from finetune.data.sources import load_source
from finetune.data.turns import pair
from tests.conftest import assert_is_for_people

CARDS = [
    ("What is scurvy?", "A lack of vitamin C."),
    ("What is rickets?", "Soft bones; vitamin D."),
    ("What is goitre?", "A large thyroid, often."),
]
QUESTIONS = [pair(*card) for card in CARDS]
ROWS = [{"question": question, "answer": answer} for question, answer in CARDS]
TABLE = [["question", "answer"], *map(list, CARDS)]


def lines(*rows: Any) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def delimited(separator: str, rows: list[list[str]], end: str = "\n") -> str:
    return "".join(separator.join(f'"{cell}"' if cell else "" for cell in row) + end for row in rows)


def said(*messages: tuple[str, Any], **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content} for role, content in messages]} | more


def workbook(*sheets: list[list[Any]]) -> bytes:
    book, file = Workbook(), io.BytesIO()
    book.remove(book.active)
    for number, rows in enumerate(sheets, 1):
        sheet = book.create_sheet(f"Sheet{number}")
        for row in rows:
            sheet.append(row)
    book.save(file)
    return file.getvalue()


def table_bytes(write: Callable[[io.BytesIO], object]) -> bytes:
    file = io.BytesIO()
    write(file)
    return file.getvalue()


def arrow(stream: bool) -> bytes:
    table = pa.Table.from_pylist(ROWS)

    def write(file: io.BytesIO) -> None:
        with (pa.ipc.new_stream if stream else pa.ipc.new_file)(file, table.schema) as writer:
            writer.write_table(table)

    return table_bytes(write)


FRAME = pd.DataFrame(ROWS)
FILES: dict[str, tuple[str, str | bytes]] = {
    "JSON": ("cards.json", json.dumps(ROWS)),
    "an ending in capitals": ("CARDS.JSON", json.dumps(ROWS)),
    "JSON lines": ("cards.jsonl", lines(*ROWS)),
    "JSON lines called JSON": ("cards.json", lines(*ROWS)),
    "JSON lines called text": ("cards.txt", lines(*ROWS)),
    "objects over several lines": ("cards.ndjson", "\n".join(json.dumps(row, indent=2) for row in ROWS)),
    "columns of lists": ("cards.json", json.dumps({name: [row[name] for row in ROWS] for name in ROWS[0]})),
    "pandas, columns": ("cards.json", FRAME.to_json()),
    "pandas, split": ("cards.json", FRAME.to_json(orient="split")),
    "pandas, index": ("cards.json", FRAME.to_json(orient="index")),
    "pandas, table": ("cards.json", FRAME.to_json(orient="table")),
    "pandas, values with an index": ("cards.csv", FRAME.to_csv()),
    "rows under a name": ("cards.json", json.dumps({"version": "1", "data": ROWS})),
    "gzip": ("cards.jsonl.gz", gzip.compress(lines(*ROWS).encode())),
    "gzip without the ending": ("cards.jsonl", gzip.compress(lines(*ROWS).encode())),
    "gzip of CSV": ("cards.csv.gz", gzip.compress(delimited(",", TABLE).encode())),
    "gzip of Parquet": ("cards.parquet.gz", gzip.compress(table_bytes(FRAME.to_parquet))),
    "commas": ("cards.csv", delimited(",", TABLE)),
    "semicolons": ("cards.csv", delimited(";", TABLE)),
    "tabs": ("cards.tsv", delimited("\t", TABLE)),
    "tabs called CSV": ("cards.csv", delimited("\t", TABLE)),
    "the line of Excel": ("cards.csv", "sep=;\r\n" + delimited(";", TABLE, "\r\n")),
    "a mark and Windows line ends": ("cards.CSV", b"\xef\xbb\xbf" + delimited(";", TABLE, "\r\n").encode()),
    "old Mac line ends": ("cards.csv", delimited(",", TABLE, "\r").encode()),
    "UTF-16": ("cards.csv", delimited(",", TABLE).encode("utf-16")),
    "UTF-16 without a mark": ("cards.jsonl", lines(*ROWS).encode("utf-16-le")),
    "UTF-32": ("cards.csv", delimited(",", TABLE).encode("utf-32")),
    "names in capitals and with blanks": ("cards.csv", delimited(",", [[" Question ", "ANSWER"], *TABLE[1:]])),
    "blank columns and rows at the end": ("cards.csv", delimited(",", [[*row, "", ""] for row in TABLE]) + ",,,\n,,,\n\n"),
    "the last cells missing": ("cards.csv", delimited(",", [[*TABLE[0], "source", "note"], *TABLE[1:]])),
    "an empty column of the same name": ("cards.csv", delimited(",", [[*TABLE[0], "answer"], *([*row, ""] for row in TABLE[1:])])),
    "Parquet": ("cards.parquet", table_bytes(FRAME.to_parquet)),
    "Parquet under another name": ("cards", table_bytes(FRAME.to_parquet)),
    "Arrow": ("cards.arrow", arrow(stream=False)),
    "an Arrow stream": ("cards.arrow", arrow(stream=True)),
    "Feather": ("cards.feather", table_bytes(FRAME.to_feather)),
    "a workbook": ("cards.xlsx", workbook(TABLE)),
    "a workbook in capitals, with blank lines": ("CARDS.XLSX", workbook([[], *TABLE, [None, None], [" "]], [])),
    "ShareGPT": ("c.json", json.dumps([{"conversations": [{"from": "human", "value": q}, {"from": "gpt", "value": a}]} for q, a in CARDS])),
    "ShareGPT under the name of messages": (
        "c.jsonl",
        lines(*({"messages": [{"from": "human", "value": q}, {"from": "gpt", "value": a}]} for q, a in CARDS)),
    ),
    "OpenAI": ("c.jsonl", lines(*(said(("user", q), ("assistant", a)) for q, a in CARDS))),
    "one conversation": ("c.json", json.dumps(said(("user", CARDS[0][0]), ("assistant", CARDS[0][1])))),
    "content in parts": (
        "c.jsonl",
        lines(*(said(("user", [{"type": "text", "text": q}]), ("assistant", [{"type": "text", "text": a}])) for q, a in CARDS)),
    ),
    "messages as JSON in a table": ("c.csv", pd.DataFrame([{"messages": json.dumps(pair(*card))} for card in CARDS]).to_csv(index=False)),
    "messages in Parquet": ("c.parquet", table_bytes(pd.DataFrame([{"messages": pair(*card)} for card in CARDS]).to_parquet)),
    "prompt and completion": ("c.jsonl", lines(*({"prompt": q, "completion": a} for q, a in CARDS))),
    "prompt and completion as messages": (
        "c.jsonl",
        lines(*({"prompt": pair(q, "")[:1], "completion": pair("", a)[1:]} for q, a in CARDS)),
    ),
    "Alpaca without input": ("c.json", json.dumps([{"instruction": q, "output": a} for q, a in CARDS])),
    "Alpaca with an empty input": ("c.json", json.dumps([{"instruction": q, "input": "", "output": a} for q, a in CARDS])),
    "Medical Meadow": (
        "c.json",
        json.dumps([{"instruction": "Answer this question truthfully", "input": q, "output": a} for q, a in CARDS]),
    ),
    "a context that is null": ("c.jsonl", lines(*(row | {"context": None} for row in ROWS))),
    "columns that begin late": ("c.jsonl", lines(*[{"id": n} for n in range(1)], *ROWS, *ROWS, *ROWS)),
}  # fmt: skip


@pytest.mark.parametrize("kind", FILES)
def test_a_file_of_each_kind_is_read_as_it_is_meant(tmp_path: Path, kind: str) -> None:
    name, content = FILES[kind]
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    source = load_source(str(tmp_path / name))
    found = [example.messages for example in source.examples]
    if kind == "one conversation":
        assert found == QUESTIONS[:1]
    elif kind == "columns that begin late":
        assert found == QUESTIONS * 3 and source.dropped == [(0, "empty question")]
    else:
        assert (found, source.dropped, source.mended) == (QUESTIONS, [], [])


FORMS: dict[str, tuple[list[dict[str, Any]], list[list[str]], list[str]]] = {
    "instruction and input": (
        [{"instruction": "Say it in German.", "input": "Fever", "output": "Fieber"}],
        [["Say it in German.\n\n### Input:\nFever", "Fieber"]],
        [],
    ),
    "a system message": (
        [said((role, "Be brief."), ("user", "Q?"), ("assistant", "A.")) for role in ("system", "developer")],
        [["Be brief.\n\nQ?", "A."]] * 2,
        ["system message kept as a note before the question"] * 2,
    ),
    "a system column": (
        [{"system": "Be brief.", "instruction": "Q?", "output": "A."}],
        [["Be brief.\n\nQ?", "A."]],
        ["system message kept as a note before the question"],
    ),
    "SQuAD": (
        [{"context": "Iron carries it.", "question": "What does?", "answers": {"text": ["Iron", "iron it is"], "answer_start": [0, 0]}}],
        [["Iron carries it.\n\nWhat does?", "Iron"]],
        [],
    ),
    "other values": (
        [
            {"question": "How many?", "answer": 4},
            {"question": "How many?", "answer": 2.5},
            {"question": "How many?", "answer": 12.0},
            {"question": "Is it so?", "answer": False},
            {"question": "Which?", "answer": ["mumps", "rubella"]},
            {"question": "Which?", "answer": ["mumps"]},
            {"question": "Which?", "answer": {"text": "K1", "start": 3}},
            {"question": "Which?", "answer": {"dose": "5 mg", "times": 2}},
            {"question": "Is 3 &lt; 5?", "answer": "Yes &amp; always&nbsp;so."},
            {"question": "Q\r\n?", "answer": "AT&T; none"},
        ],
        [
            ["How many?", "4"], ["How many?", "2.5"], ["How many?", "12"], ["Is it so?", "false"], ["Which?", "- mumps\n- rubella"],
            ["Which?", "mumps"], ["Which?", "K1"], ["Which?", "dose: 5 mg\ntimes: 2"], ["Is 3 < 5?", "Yes & always so."],
            ["Q\n?", "AT&T; none"],
        ],
        [
            *["a number written as text"] * 3, "true or false written as text", "a list written as lines", "the text of an object taken",
            "an object written as lines", "a number written as text", "HTML entities written as characters",
        ],
    ),
    "an answer without weight": (
        [{"messages": [*pair("Q?", "Wrong."), *pair("Again?", "Right.")]}],
        [["Q?", "Wrong.", "Again?", "Right."]],
        [],
    ),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_rows_of_each_form_are_used_as_they_are_meant_and_what_is_written_otherwise_is_told(tmp_path: Path, form: str) -> None:
    rows, messages, notes = FORMS[form]
    path = tmp_path / "rows.jsonl"
    path.write_text(lines(*rows), encoding="utf-8")
    source = load_source(str(path))
    assert [[message["content"] for message in example.messages] for example in source.examples] == messages
    assert [note for _, note in source.mended] == notes


GOOD = [said(("user", f"Q{n}?"), ("assistant", "A.")) for n in range(9)]
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a tool call": (said(("user", "Q?"), ("assistant", None), ("tool", "found"), ("assistant", "A.")), "tool call"),
    "a call": ({"messages": [*pair("Q?", "A."), {"role": "assistant", "content": "", "tool_calls": [{"id": "1"}]}]}, "tool call"),
    "ShareGPT's observation": ({"messages": [{"from": "human", "value": "Q?"}, {"from": "observation", "value": "x"}]}, "tool call"),
    "a picture": (
        said(("user", [{"type": "image_url", "image_url": {"url": "x"}}, {"type": "text", "text": "What is it?"}]), ("assistant", "A.")),
        "a message with a part that is no text (image_url)",
    ),
    "a late system message": (said(("user", "Q?"), ("system", "S"), ("assistant", "A.")), "system message after the first question"),
    "an answer first": (said(("assistant", "Hello."), ("user", "Q?"), ("assistant", "A.")), "begins with an answer"),
    "no answer": (said(("user", "Q?"), ("assistant", "A."), ("user", "And?")), "ends with a question that nobody answers"),
    "an empty message": (said(("user", "Q?"), ("assistant", " \n")), "empty message"),
    "a role of its own": (said(("user", "Q?"), ("critic", "A.")), "a message of the unknown role 'critic'"),
    "nothing to learn": (
        {"messages": [pair("Q?", "")[0], {"role": "assistant", "content": "A.", "weight": 0}]},
        "no answer is to be learned (weight 0)",
    ),
    "half a character": (said(("user", "Q?"), ("assistant", "A \ud83d")), "half a character (a lone surrogate)"),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_a_row_that_cannot_be_used_is_left_out_with_its_number_and_its_true_reason(tmp_path: Path, kind: str) -> None:
    row, reason = REFUSED[kind]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in [*GOOD[:4], row, *GOOD[4:]]), encoding="utf-8")
    source = load_source(str(path))
    assert source.dropped == [(4, reason)] and len(source.examples) == 9
    assert source.losses() == [f"rows.jsonl: 1 rows left out: {reason} (rows 4)"]


@pytest.mark.parametrize("mark", ["nan", "NaN", "NULL", "#N/A", "N/A", "None", "<NA>", "#VALUE!", " NaN "])
def test_marks_of_missing_values_are_no_answers_and_words_are(tmp_path: Path, mark: str) -> None:
    path = tmp_path / "rows.csv"
    rows = [
        *TABLE,
        ["Which electrolyte is high?", "Na"],
        ["What hurts?", "none"],
        ["What is given?", "None."],
        ["Which?", mark],
        ["What?", ""],
    ]
    path.write_text(delimited(",", rows), encoding="utf-8")
    source = load_source(str(path))
    assert source.dropped == [(6, "answer marked as missing, by a word such as NaN, NULL or #N/A"), (7, "empty answer")]
    assert [example.answer for example in source.examples][3:] == ["Na", "none", "None."]


@pytest.mark.parametrize("sign", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e"])
@pytest.mark.parametrize("ending", ["csv", "jsonl", "json", "tsv"])
def test_signs_that_some_programs_take_for_line_ends_cut_no_row(tmp_path: Path, sign: str, ending: str) -> None:
    rows = [[question.replace(" is", f"{sign}is"), answer + sign] for question, answer in CARDS]
    separator = "\t" if ending == "tsv" else ","
    quoted = [[f'"{cell}"' if "," in cell else cell for cell in row] for row in [TABLE[0], *rows]]
    table = "".join(separator.join(row) + "\n" for row in quoted)
    content = lines(*(dict(zip(TABLE[0], row, strict=True)) for row in rows)) if "json" in ending else table
    path = tmp_path / f"rows.{ending}"
    path.write_bytes(content.encode())
    assert [[m["content"] for m in example.messages] for example in load_source(str(path)).examples] == rows


def test_rows_with_too_many_cells_refuse_themselves_and_blank_ones_are_told(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("question,answer\nQ1?,A\nQ2?,A, or B\n,\nQ4?,A\nQ5?,A\nQ6?\nQ7?,A,\nQ8?,A\n,\n\n")
    source = load_source(str(path))
    assert [example.row for example in source.examples] == [0, 3, 4, 6, 7]
    assert source.dropped == [
        (1, "more fields than the first line has names (are texts with the separator in quotes?)"),
        (2, "blank row"),
        (5, "empty answer"),
    ]


WRONG: dict[str, tuple[str, str | bytes, str]] = {
    "Windows-1252": ("x.csv", "question;answer\nWas ist Müdigkeit?;Häufig.\n".encode("cp1252"), "byte 25, line 2.*--encoding windows-1252"),
    "a workbook cut off": ("x.xlsx", workbook(TABLE)[:400], "cannot be read as a workbook"),
    "a workbook of the old form": ("x.xls", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(99), "Save it as .xlsx"),
    "an empty workbook": ("x.xlsx", workbook([]), "holds no rows"),
    "two sheets": ("x.xlsx", workbook(TABLE, TABLE), "the filled sheets Sheet1, Sheet2.*x.xlsx:Sheet1"),
    "gzip cut off": ("x.jsonl.gz", gzip.compress(lines(*ROWS).encode())[:-9], "damaged gzip"),
    "Parquet cut off": ("x.parquet", table_bytes(FRAME.to_parquet)[:-30], "cannot be read as Parquet"),
    "columns of different lengths": ("x.json", '{"question": ["a", "b"], "answer": ["c"]}', "different lengths .question: 2, answer: 1"),
    "two filled columns of one name": ("x.csv", "question,answer,answer\nQ?,A,B\n", "two columns called 'answer'"),
    "many columns": ("x.csv", ",".join(f"c{n:02}" for n in range(40)) + "\n" + ",".join("x" * 40) + "\n", "c09 and 30 more. Training"),
    "only tool calls": ("x.jsonl", lines(*[REFUSED["a tool call"][0]] * 6), "all 6 were left out .6: tool call"),
    "JSON nested too deep": ("x.json", "[" * 100_000, "nested too deep|is not valid JSON"),
    "a number too long": ("x.jsonl", '{"question": 1' + "0" * 5000 + "}", "a number too long"),
    "an open quote": ("x.csv", 'question,answer\nQ?,"A\n', "is not valid CSV"),
    "a carriage return in the middle of a row": ("x.csv", b"question,answer\nQ?,A\rB\n", "line 2, new-line character seen"),
    "nothing": ("x.csv", "", "no rows below its first line"),
    "an encoding that is none": ("x.csv", "# coding: klingon\nquestion,answer\nQ?,A\n", "no encoding 'klingon'"),
}  # fmt: skip


@pytest.mark.parametrize("kind", WRONG)
def test_a_file_that_cannot_be_read_says_why_and_what_to_do(tmp_path: Path, kind: str) -> None:
    name, content, text = WRONG[kind]
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=text) as caught:
        load_source(str(tmp_path / name))
    assert_is_for_people(caught.value)


def test_windows_1252_is_read_where_the_user_or_the_file_says_so(tmp_path: Path) -> None:
    content = "question;answer\nWas ist Müdigkeit?;Ein Gefühl – häufig.\n"
    path = tmp_path / "x.csv"
    path.write_bytes(content.encode("cp1252"))
    wanted = [pair("Was ist Müdigkeit?", "Ein Gefühl – häufig.")]
    assert [example.messages for example in load_source(str(path), encoding="windows-1252").examples] == wanted
    path.write_bytes(b"# -*- coding: cp1252 -*-\n" + content.encode("cp1252"))
    assert [example.messages for example in load_source(str(path)).examples] == wanted


def test_one_of_several_sheets_is_named_after_the_file(tmp_path: Path) -> None:
    (tmp_path / "x.xlsx").write_bytes(workbook([["note"], ["Read the second sheet."]], TABLE))
    assert [example.messages for example in load_source(str(tmp_path / "x.xlsx:Sheet2")).examples] == QUESTIONS
    with pytest.raises(DataError, match="the filled sheets Sheet1, Sheet2"):
        load_source(str(tmp_path / "x.xlsx:Sheet3"))


def test_labels_are_read_by_their_names_where_the_file_has_them(tmp_path: Path) -> None:
    import datasets

    features = datasets.Features({"question": datasets.Value("string"), "answer": datasets.ClassLabel(names=["benign", "malignant"])})
    found = datasets.Dataset.from_dict({"question": ["Which?", "And this?"], "answer": [1, 0]}, features=features)
    found.to_parquet(tmp_path / "named.parquet")
    parquet.write_table(pa.table({"question": ["Which?"], "answer": [1]}), tmp_path / "bare.parquet")
    assert [example.answer for example in load_source(str(tmp_path / "named.parquet")).examples] == ["malignant", "benign"]
    bare = load_source(str(tmp_path / "bare.parquet"))
    assert (bare.examples[0].answer, bare.mended) == ("1", [(0, "a number written as text")])
    found.save_to_disk(tmp_path / "saved")
    assert [example.answer for example in load_source(str(tmp_path / "saved")).examples] == ["malignant", "benign"]
    datasets.DatasetDict({"train": found, "test": found}).save_to_disk(tmp_path / "both")
    both = load_source(str(tmp_path / "both"))
    assert (len(both.examples), len(both.test)) == (2, 2)


def test_a_folder_with_files_of_splits_keeps_them_apart(tmp_path: Path) -> None:
    (tmp_path / "train-00000.jsonl").write_text(lines(*ROWS[:1]))
    (tmp_path / "train-00001.csv").write_text(delimited(",", [TABLE[0], TABLE[2]]))
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "Test.JSON").write_text(json.dumps(ROWS[2:]))
    (tmp_path / "valid.tsv").write_text(delimited("\t", TABLE))
    (tmp_path / "README.md").write_text("# Cards of a training course")
    source = load_source(str(tmp_path))
    assert [example.messages for example in source.examples] == QUESTIONS[:2]
    assert [(example.row, example.messages) for example in source.test] == [("test/0", QUESTIONS[2])]
    assert [example.row for example in source.validation] == ["validation/0", "validation/1", "validation/2"]
    assert source.rows_read == 6 and [card["id"] for card in source.cards] == ["0", "1"]
    (tmp_path / "more.jsonl").write_text(lines(*ROWS))
    with pytest.raises(DataError, match="the name of more.jsonl does not say which split it is") as caught:
        load_source(str(tmp_path))
    assert_is_for_people(caught.value)


@pytest.mark.parametrize(
    ("name", "split"),
    [("train", "train"), ("cards_dev.csv", "validation"), ("VAL.json", "validation"), ("a/test/0.parquet", "test"), ("evaluation", "test"),
     ("restraints.json", None), ("latest.jsonl", None), ("train_sft", "train"), ("pretraining.json", None)],
)  # fmt: skip
def test_the_name_of_a_file_says_which_split_it_is(name: str, split: str | None) -> None:
    assert split_of(name) == split


@pytest.mark.parametrize("data", ["no such folder/x", "a/b/c", "x.pdf/", "cards.xls"])
def test_what_is_neither_file_nor_hub_id_is_refused(data: str) -> None:
    with pytest.raises(UserError) as caught:
        load_source(data)
    assert_is_for_people(caught.value)
