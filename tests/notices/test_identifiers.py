"""What counts as identifying a patient; the browser's half of the same patterns is tried in tests/browser."""

import json
import random
import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from app.notices.identifiers import PATTERNS_FILE, Identifier, find, is_nhs_number, labels, redact
from app.settings import ROOT
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
    "Mrs McDonald coughs": "name",
    "saw Dr. O'Neill-Fitzgerald": "name",
    "Mr van der Merwe has gout": "name",
    "mrs abernathy has gout": "name",
    "mr de la fuente is dizzy": "name",
    "my name is odalys brantwhistle and i cough": "name",
    "Patient: Ludo Castlebar, 61": "name",
    "our son Barnaby has asthma": "name",
    "Castlebar, Ludo DOB 3/4/61": "name",
    "Ms Nguy\u1ec5n from Hu\u1ebf": "name",
    "Prof. al-Rashidi's clinic letter": "name",
    "dob 3.4.51": "birth",
    "born on the third of April nineteen fifty-one": "birth",
    "he was born 3-Apr-51": "birth",
    "date of birth: the twenty first of june 1980": "birth",
    "ring 07700900123": "phone",
    "+49 (0)30 901820": "phone",
    "call me on 2065550149": "phone",
    "whatsapp 98765 43210": "phone",
    "01 42 68 53 00": "phone",
    "passport no. 533380006": "record",
    "lab number 24/118832": "record",
    "driving licence BRANT 651043 O99XX": "record",
    "national insurance QQ 12 34 56 C": "record",
    "number plate AB12 CDE": "plate",
    "4111 1111 1111 1111": "card",
    "o dot brant at clinic dot com": "email",
    "12 rue de la Paix": "address",
    "Lindenstra\u00dfe 12": "address",
    "Calle Mayor 5": "address",
    "lives at 3 the paddocks": "address",
    "postcode sw1a1aa": "address",
    "K1A 0B6": "address",
    "Springfield, IL 62704": "address",
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
    "Dr Bouchard's nodes and Dr. Heberden's nodes differ",
    "On 11 March 2020 the pandemic was declared; the trial began on 01/02/2019",
    "admitted 12/11/2024 with fever, discharged 15/11/2024",
    "ICD-10 code E11.9, gene BRCA1 c.5266dupC, HLA-DRB1*15:01, PPSV23",
    "a drug called Humira, a trial named BRAVE-2, a protein named LEMD3",
    "MR imaging, an MRI scan and my dr prescribed 500 mg",
    "mr scan of the knee, ms relapse, miss the dose",
    "sodium 138, potassium 4.1, creatinine 88, eGFR 61, chi = 10.2",
    "5 days on the road, 2 hours of drive, 10 minutes to the square",
    "my name is not important",
    "Patient Activation Measure, Patient Safety Board",
    "NCT01234567, PMID 31234567, doi 10.1000/182",
]

HERE = Path(__file__).parent
CLEAN = (HERE / "clean.txt").read_text(encoding="utf-8").splitlines()


def _marked() -> list[tuple[str, list[tuple[str, int, int]]]]:
    """The sentences of identifiers.txt without their marks, each with (kind, start, end) in characters of what identifies somebody."""
    sentences = []
    for line in (HERE / "identifiers.txt").read_text(encoding="utf-8").splitlines()[1:]:
        text, spans = "", []
        for before, kind, marked in re.findall(r"([^{]*)(?:\{(\w+):([^}]*)\})?", line):
            text += before
            if kind:
                spans.append((kind, len(text), len(text) + len(marked)))
            text += marked
        sentences.append((text, spans))
    return sentences


def test_of_many_countries_forms_nine_in_ten_of_each_kind_are_found_whole() -> None:
    whole: dict[str, list[bool]] = {}
    for text, spans in _marked():
        covered = {place for found in find(text) for place in range(found.start, found.end)}
        for kind, start, end in spans:
            whole.setdefault(kind, []).append(all(place in covered for place in range(start, end) if text[place].isalnum()))
    assert {kind: sum(found) / len(found) for kind, found in whole.items() if sum(found) < 0.9 * len(found)} == {}


@pytest.mark.parametrize(("text", "kind"), IDENTIFYING.items())
def test_identifiers_are_found_and_replaced(text: str, kind: str) -> None:
    assert kind in [identifier.kind for identifier in find(text)]
    assert find(redact(text)) == []


@pytest.mark.parametrize("text", [*HARMLESS, *CLEAN])
def test_medicine_is_full_of_numbers_that_identify_nobody(text: str) -> None:
    assert find(text) == []


def test_our_cards_hold_no_identifiers_but_an_invented_ms_jones() -> None:
    rows = [json.loads(line) for line in FLASHCARDS.read_text(encoding="utf-8").splitlines()]
    found = [text for row in rows for text in (row["question"], row["answer"], *row["rewordings"]) if find(text)]
    assert [text for text in found if not text.startswith("Ms Jones ")] == []


def test_real_cards_hold_hardly_any(real_data: Path) -> None:
    rows = [json.loads(line) for line in (real_data / "flashcards" / "train.jsonl").read_text(encoding="utf-8").splitlines()]
    assert sum(bool(find(row["input"])) for row in rows) <= len(rows) / 1000


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("Mrs McDonald has gout", "[name] has gout"),
        ("Mr O'Brien-Van Houten's knee", "[name]'s knee"),
        ("mr von trapp and mrs smith", "[name] and [name]"),
        ("\u00d6zdemir, Roland DOB 03/04/1961", "[name] [date of birth]"),
    ],
)
def test_a_name_is_replaced_whole_or_not_at_all(text: str, clean: str) -> None:
    assert redact(text) == clean


@pytest.mark.skipif(shutil.which("node") is None, reason="needs Node, which runs the page's own search")
def test_the_browser_finds_the_same_in_the_same_strings() -> None:
    script = (ROOT / "assets" / "page.js").read_text(encoding="utf-8")
    search = script[script.index("  const { parts, patterns }") : script.index("  let allowed")]
    texts = [
        *IDENTIFYING,
        *HARMLESS,
        *CLEAN,
        *(text for text, _ in _marked()),
        *(row["question"] for row in map(json.loads, FLASHCARDS.read_text(encoding="utf-8").splitlines())),
    ]
    program = f"""
      const find = () => ({{ textContent: require("fs").readFileSync({json.dumps(str(PATTERNS_FILE))}, "utf8") }});
      {search}
      const texts = JSON.parse(require("fs").readFileSync(0, "utf8"));
      process.stdout.write(JSON.stringify(texts.map((text) => identifiers(text).map(({{ label, start, end }}) => [label, start, end]))));
    """
    done = subprocess.run(["node", "-e", program], input=json.dumps(texts), capture_output=True, text=True, check=True, timeout=60)
    for text, found in zip(texts, json.loads(done.stdout), strict=True):
        assert [[one.label, one.start, one.end] for one in find(text)] == found, text


def test_only_the_identifier_is_replaced() -> None:
    assert redact("Mrs Abernathy, DOB 03/04/1951, coughs") == "[name], [date of birth], coughs"
    assert labels("Mrs Abernathy, DOB 03/04/1951, MRN 00482913") == "name, date of birth and record number"
    assert labels("What is asthma?") == ""


def test_what_was_found_is_named_in_the_order_in_which_it_stands_each_kind_once() -> None:
    assert labels("Mrs Abernathy") == "name"
    assert labels("MRN 00482913 of Mrs Abernathy") == "record number and name"
    assert labels("Mrs Abernathy and Mr Crumb, MRN 00482913, DOB 03/04/1951, o.brant@clinic.example") == (
        "name, record number, date of birth and e-mail address"
    )


def test_an_identifier_says_where_it_stands() -> None:
    assert find("Mrs Abernathy, DOB 03/04/1951") == [
        Identifier("name", "name", 0, 13),
        Identifier("birth", "date of birth", 15, 29),  # of which a date alone would be one, too
    ]
    assert [(found.kind, found.start, found.end) for found in find("Mr Crumb(212) 555-0148")] == [("name", 0, 8), ("phone", 8, 22)]
    assert [found.kind for found in find("o.brant@clinic.example+44 7700 900123")] == ["email", "phone"]
    assert redact("Mr Crumb(212) 555-0148 Mr Crumb") == "[name][phone number] [name]"


def test_capitals_matter_where_a_pattern_says_so_and_nowhere_else() -> None:
    assert find("sw1a 1aa") == [] and [found.label for found in find("SW1A 1AA")] == ["postcode"]
    assert {found.kind for text in ("dob 03/04/1951", "DOB 03/04/1951", "Dob 03/04/1951") for found in find(text)} == {"birth"}


@pytest.mark.parametrize("seed", range(3))
def test_an_nhs_number_is_one_whose_weighted_digits_add_up_to_a_multiple_of_eleven(seed: int) -> None:
    draw = random.Random(seed)
    numbers = ["".join(draw.choice("0123456789") for _ in range(9)) for _ in range(60)]
    for number in (start + check for start in numbers for check in "0123456789"):
        assert is_nhs_number(number) == (sum(int(digit) * weight for digit, weight in zip(number, range(10, 0, -1), strict=True)) % 11 == 0)


def test_the_check_digit_tells_nhs_numbers_from_others() -> None:
    assert not is_nhs_number("943 476 591") and not is_nhs_number("943 476 5919 0") and not is_nhs_number("0000000000")
    assert is_nhs_number("NHS 943-476-5919")
    assert is_nhs_number("943 476 5919")
    assert not is_nhs_number("943 476 5918")
    assert not is_nhs_number("1111111111")


@pytest.mark.parametrize("piece", ["1 a ", "a.", "0 ", "12/", "Mr A", "+1 23", "@a.", "MRN 1a-", "my son a", "Al ", "Pt: ", "x/", "van "])
def test_a_long_text_is_searched_quickly(piece: str) -> None:
    started = time.process_time()
    find((piece * 4000)[:16000])
    assert time.process_time() - started < 5
