"""Blinded rating: the sheet tells nothing, the key tells all, and what the raters said is counted right."""

import csv
import json
from pathlib import Path

import pandas as pd
import pytest

from app.errors import DataError
from finetune.evaluation.ratings import COLUMNS, key_path, read_ratings, write_sheet
from finetune.evaluation.scoring import Item, Prediction
from tests.conftest import assert_is_for_people

ITEMS = [Item([{"role": "user", "content": f"question {i}"}], "reference", str(i)) for i in range(20)]


@pytest.fixture
def sheet(tmp_path: Path) -> Path:
    path = tmp_path / "sheet.csv"
    base = [Prediction(f"=first {i}", True) for i in range(20)]
    write_sheet(path, ITEMS, base, [Prediction(f"second {i}", True) for i in range(20)], {"adapter_revision": "r"})
    return path


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def fill(sheet: Path, name: str, votes: list[str], delimiter: str = ",") -> Path:
    path = sheet.with_name(name)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, delimiter=delimiter)
        writer.writeheader()
        for row, vote in zip(rows(sheet), votes, strict=False):
            writer.writerow(row | {"better": vote})
    return path


def tuned_votes(sheet: Path) -> list[str]:
    tuned_is = json.loads(key_path(sheet).read_text())["tuned_is"]
    return [tuned_is[row["id"]] for row in rows(sheet)]


def test_the_sheet_does_not_say_which_model_wrote_what(sheet: Path) -> None:
    found = rows(sheet)
    assert [row["question"] for row in found] != [item.messages[0]["content"] for item in ITEMS]
    assert {row["answer_a"].strip("'=").split()[0] for row in found} == {"first", "second"}  # both models stand in both columns
    assert not [word for word in ("base", "tuned", "adapter") if word in sheet.read_text(encoding="utf-8-sig")]
    for row, tuned in zip(found, tuned_votes(sheet), strict=True):
        assert row[f"answer_{tuned}"].startswith("second")


def test_an_answer_cannot_become_a_formula(sheet: Path) -> None:
    cells = [row[column] for row in rows(sheet) for column in ("answer_a", "answer_b")]
    assert not [cell for cell in cells if cell.startswith("=")]


def test_wins_and_agreement(sheet: Path) -> None:
    tuned = tuned_votes(sheet)
    other = ["b" if vote == "a" else "a" for vote in tuned]
    anna = fill(sheet, "anna.csv", [vote.upper() for vote in tuned[:10]] + other[10:])
    ben = fill(sheet, "ben.csv", tuned[:10] + other[10:15] + ["same"] * 5, ";")
    found = read_ratings([anna, ben], key_path(sheet))
    assert found["votes"] == {"tuned": 20, "same": 5, "base": 15}
    assert (found["raters"], found["questions"]) == (2, 20)
    assert found["win_rate"]["value"] == pytest.approx((10 * 1 + 5 * 0 + 5 * 0.25) / 20)
    assert 0.8 < found["agreement"] < 1
    assert read_ratings([anna, anna], key_path(sheet))["agreement"] == 1
    assert read_ratings([anna], key_path(sheet))["agreement"] is None
    assert read_ratings([fill(sheet, "half.csv", tuned[:7])], key_path(sheet))["questions"] == 7


@pytest.mark.parametrize("votes", [["c"], [""], []])
def test_a_sheet_that_is_not_filled_in_right_is_one_sentence(sheet: Path, votes: list[str]) -> None:
    with pytest.raises(DataError) as caught:
        read_ratings([fill(sheet, "bad.csv", votes)], key_path(sheet))
    assert_is_for_people(caught.value)


@pytest.mark.parametrize("sign", ["\u2028", "\x85", "\x0b", "\x0c"])
def test_an_answer_with_an_unusual_line_end_costs_no_rating(tmp_path: Path, sign: str) -> None:
    sheet = tmp_path / "sheet.csv"
    answers = [[Prediction(f"{name}{sign}{i}", True) for i in range(20)] for name in ("first", "second")]
    key = write_sheet(sheet, ITEMS, *answers, {"adapter_revision": "r"})
    text = sheet.read_text(encoding="utf-8-sig").replace(",,\n", ",A,\n")
    (tmp_path / "filled.csv").write_bytes(text.replace('"', "").encode())
    assert read_ratings([tmp_path / "filled.csv"], key)["questions"] == 20


def test_a_sheet_that_was_saved_as_a_workbook_is_read(sheet: Path) -> None:
    frame = pd.read_csv(sheet)
    frame["better"] = "same"
    frame.rename(columns={"better": " Better"}).to_excel(sheet.with_suffix(".xlsx"), index=False)
    assert read_ratings([sheet.with_suffix(".xlsx")], key_path(sheet))["votes"] == {"tuned": 0, "same": 20, "base": 0}
