"""Words of every script, and signs that medicine tells apart."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.notices.quantities import contradictions, quantities
from app.notices.words import canonical_number, words


@pytest.mark.parametrize(
    "text",
    [
        "高血压是指动脉血压持续升高。",
        "高血圧とは、血圧が高い状態です。",
        "ความดันโลหิตสูงคืออะไร",
        "ارتفاع ضغط الدم مرض شائع.",
        "فشار خون بالا بیماری شایعی است.",
        "Гипертония повышает риск инсульта.",
        "Η υπέρταση αυξάνει τον κίνδυνο.",
        "उच्च रक्तचाप एक आम रोग है।",
        "יתר לחץ דם הוא מחלה שכיחה.",
        "고혈압은 흔한 병이다.",
        "Tăng huyết áp là bệnh thường gặp.",
    ],
)
def test_every_script_has_words(text: str) -> None:
    found = words(text)
    assert len(found) >= 3 and all(word.strip() for word in found)
    assert words(text.upper()) == words(text.lower()) == words(f"  {text}\n")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Give 5 µg daily.", "give 5\u03bcg daily"),  # the micro sign and the Greek letter
        ("5 mcg", "5 µg"),
        ("a β-blocker", "A beta blocker"),
        ("TNF-α", "TNFα"),
        ("BMI >= 30", "BMI ≥ 30"),
        ("20 per cent", "20%"),
        ("20 percent", "20 %"),
        ("37℃", "37 °C"),
        ("1,000 mL", "1000 ml"),
        ("0,5 mg", "0.50 mg"),
        (".5 mg", "0.5 mg"),
        ("10⁹/L", "10^9 / L"),
        ("Ca²⁺", "Ca2+"),
        ("1½ tablets", "1 1/2 tablets"),
        ("T-score −2.5", "T-score -2.5"),
        ("قرص ۵", "قرص 5"),
        ("كبد", "کبد"),
        ("می\u200cشود", "میشود"),
        ("ＡＢＣ", "abc"),
        ("Straße", "STRASSE"),
    ],
)
def test_what_means_the_same_has_the_same_words(one: str, other: str) -> None:
    assert words(one) == words(other) != []


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("5 µg", "5 g"),
        ("α-blocker", "β-blocker"),
        ("≥ 30", "< 30"),
        ("≥ 30", "> 30"),
        ("0.5 mg", "5 mg"),
        ("0.5 mg", "0 5 mg"),
        ("-2.5 SD", "2.5 SD"),
        ("10⁹", "109"),
        ("10^9", "10^6"),
        ("HER2+", "HER2-"),
        ("↑ K", "↓ K"),
        ("37 °C", "37 °F"),
        ("5 %", "5"),
        ("m²", "m³"),
        ("1.5", "15"),
        ("♀", "♂"),
        ("血压高", "血压低"),
    ],
)
def test_what_medicine_tells_apart_stays_apart(one: str, other: str) -> None:
    assert words(one) != words(other)


def test_scripts_without_spaces_give_pairs_of_neighbours() -> None:
    assert words("高血压") == ["高血", "血压"]
    assert words("CT检查, 痛") == ["ct", "检查", "痛"]
    assert words("5-10 days, pre- and post") == ["5", "10", "days", "pre", "-", "and", "post"]


def test_digits_that_this_python_does_not_know_yet_are_words_as_they_are() -> None:
    assert words("5 \U00010d45 days, \U0001ccf1") == ["5", "\U00010d45", "days", "\U0001ccf1"]


@given(st.text())
def test_any_text_has_words_that_do_not_change_when_taken_again(text: str) -> None:
    found = words(text)
    assert words(text) == found and all(found)
    letters = [sign for sign in text if sign.isalpha()]
    assert found or not letters or all(not words(sign) for sign in letters)


@given(st.text(alphabet="abc 0123456789.,-%<>=", max_size=40))
def test_a_sign_of_another_script_changes_no_other_word(text: str) -> None:
    assert words(text + " д") == [*words(text), "д"]


@pytest.mark.parametrize(
    ("written", "number"), [("007", "7"), ("1,234,567.80", "1234567.8"), ("1.234,5", "1234.5"), ("1.2.3", "1.2.3"), ("-0.0", "-0")]
)
def test_a_number_has_one_form(written: str, number: str) -> None:
    assert canonical_number(written) == number


@pytest.mark.parametrize(
    ("answer", "reference", "pairs"),
    [
        ("Give 5 µg.", "Give 5 g.", [("5 µg", "5 g")]),
        ("Give 50 mg.", "Give 500 mg twice.", [("50 mg", "500 mg")]),
        ("Give 500 mg.", "Give 0.5 g.", []),
        ("BMI ≥ 30", "BMI < 30", [("≥ 30", "< 30")]),
        ("at least 30 minutes", "≥ 30 min", []),
        ("age over 65 years", "age under 65 years", [("over 65 years", "under 65 years")]),
        ("An α-blocker.", "Beta-blockers.", [("α-blocker", "Beta-blockers")]),
        ("Type 2 diabetes", "Type 1 diabetes", [("2 diabetes", "1 diabetes")]),
        ("5 mg/dL", "5 mg/L", [("5 mg/dL", "5 mg/L")]),
        ("5-7 days", "5 to 7 days", []),
        ("5-10 days", "5 to 7 days", [("5-10 days", "5 to 7 days")]),
        ("every 8 hours", "for 5 days", []),
        ("for 5 weeks", "for 5 months", [("5 weeks", "5 months")]),
        ("5 mg/L", "5 mmol/L", [("5 mg/L", "5 mmol/L")]),
        ("a 30-year risk", "below 30 mL/min", []),
        ("Drink much.", "Drink 2 litres.", []),
        ("Drink 2 litres.", "Drink much.", []),
        ("по 10 мг", "по 100 мг", [("10 мг", "100 мг")]),
        ("In 2019 and 3 of 5.", "In 2020 and 4 of 5.", []),
        ("Give 2 g.", "Give 500 mg.", [("2 g", "500 mg")]),
        ("Give 2 g.", "Give 500 mL.", []),
        ("5 mg", "5 patients", []),
        ("5 years", "5 months", [("5 years", "5 months")]),
        ("5 nurses", "5 patients", []),
        ("8 hours/day", "30 minutes/day", []),
        ("10 mg/kg", "2 g/kg", [("10 mg/kg", "2 g/kg")]),
    ],
)
def test_an_answer_that_contradicts_its_reference_in_a_quantity_is_found(answer: str, reference: str, pairs: list[tuple[str, str]]) -> None:
    assert contradictions(answer, reference) == pairs
    assert len(contradictions(reference, answer)) == len(pairs)


@given(st.text())
def test_no_text_contradicts_itself(text: str) -> None:
    assert contradictions(text, text) == []
    assert all(quantity.text in text for quantity in quantities(text))
