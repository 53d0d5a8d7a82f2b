"""What counts as identifying a patient; the browser's half of the same patterns is tried in tests/browser."""

import json
import time
from pathlib import Path

import pytest

from app.notices.identifiers import find, is_nhs_number, labels, redact
from tests.conftest import FLASHCARDS

# Made up, all of them; the numbers are from ranges kept for examples where there are such ranges.
IDENTIFYING = {
    "Mrs. Abernathy-Quill has a cough": "name",
    "Saw Mr Tobias Fennimore today": "name",
    "Dr. R. Plunkett referred her": "name",
    "My name is Odalys Brantwhistle": "name",
    "patient Wilhelmina Castlebar has gout": "name",
    "her name is Perpetua": "name",
    "my husband, Thaddeus Crumb, snores": "name",
    "DOB 03/04/1951, what now?": "birth",
    "born on 3 April 1951": "birth",
    "date of birth: 1951-04-03": "birth",
    "born April 3rd, 1951": "birth",
    "admitted 12/11/2024 with fever": "date",
    "MRN 00482913": "record",
    "hospital number: H-553201": "record",
    "patient ID 8839201": "record",
    "insurance no. ZX 4433221": "record",
    "SSN 219-09-9999": "ssn",
    "social security number is 219099999": "ssn",
    "NHS number 943 476 5919": "nhs",
    "943 476 5919": "nhs",
    "call her on 555-010-0199": "phone",
    "(212) 555-0148": "phone",
    "+44 7700 900123": "phone",
    "07700 900123": "phone",
    "mobile: 07700900123": "phone",
    "write to o.brant@clinic.example": "email",
    "lives at 14 Larkspur Avenue": "address",
    "9 elm tree road": "address",
    "221B Baker St": "address",
    "postcode SW1A 1AA": "address",
}
HARMLESS = [
    "What is the dose of paracetamol, 15 mg/kg every 4-6 hours up to 4 times a day?",
    "BP 120/80, pulse 72, SpO2 98%, HbA1c 48 mmol/mol",
    "In 2019 the guideline changed; the trial had 10 251 patients and a follow-up of 3.5 years",
    "Is B12 1000 mcg enough?",
    "Which HLA types, such as HLA-B27 or HLA-B*57:01, matter?",
    "What are Mr. and Mrs. to a child?",
    "MR angiography or MS plaques",
    "Her born-alive rate; 24/7 care; a ratio of 1:10 000",
    "What is the Patient Health Questionnaire?",
    "CD4 below 200/mm3 and a platelet count of 150 000",
    "chromosome 22q11.2 deletion",
    "My daughter is 3 years old and my mother has Parkinson disease",
]


@pytest.mark.parametrize(("text", "kind"), IDENTIFYING.items())
def test_identifiers_are_found_and_replaced(text: str, kind: str) -> None:
    assert kind in [identifier.kind for identifier in find(text)]
    assert find(redact(text)) == []


@pytest.mark.parametrize("text", HARMLESS)
def test_medicine_is_full_of_numbers_that_identify_nobody(text: str) -> None:
    assert find(text) == []


def test_our_cards_hold_no_identifiers_but_an_invented_ms_jones() -> None:
    rows = [json.loads(line) for line in FLASHCARDS.read_text(encoding="utf-8").splitlines()]
    found = [text for row in rows for text in (row["question"], row["answer"], *row["rewordings"]) if find(text)]
    assert [text for text in found if not text.startswith("Ms Jones ")] == []


def test_real_cards_hold_hardly_any(real_data: Path) -> None:
    rows = [json.loads(line) for line in (real_data / "flashcards" / "train.jsonl").read_text(encoding="utf-8").splitlines()]
    assert sum(bool(find(row["input"])) for row in rows) <= len(rows) / 500


def test_only_the_identifier_is_replaced() -> None:
    assert redact("Mrs Abernathy, DOB 03/04/1951, coughs") == "[name], [date of birth], coughs"
    assert labels("Mrs Abernathy, DOB 03/04/1951, MRN 00482913") == "name, date of birth and record number"
    assert labels("What is asthma?") == ""


def test_the_check_digit_tells_nhs_numbers_from_others() -> None:
    assert is_nhs_number("943 476 5919")
    assert not is_nhs_number("943 476 5918")
    assert not is_nhs_number("1111111111")


@pytest.mark.parametrize("piece", ["1 a ", "a.", "0 ", "12/", "Mr A", "+1 23", "@a."])
def test_a_long_text_is_searched_quickly(piece: str) -> None:
    started = time.process_time()
    find((piece * 4000)[:16000])
    assert time.process_time() - started < 5
