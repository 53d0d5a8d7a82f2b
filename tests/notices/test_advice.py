"""What notices say: the numbers of the owner's country, one idea a line, and where to call in other languages."""

import re

import pytest

from app.errors import ConfigError
from app.notices.advice import SEVERAL, advice, check_country, foreign, numbers
from app.notices.safety import read
from app.page.fragments import notice

COUNTRIES = list(read("helplines"))


@pytest.mark.parametrize("country", COUNTRIES)
def test_every_country_has_an_emergency_number_and_a_crisis_line(country: str) -> None:
    entry = read("helplines")[country]
    assert re.fullmatch(r"\d{2,5}( or \d{2,5})?", entry["emergency"])
    assert entry["crisis"] and all(re.search(r"\b(?:call|text) ", line) for line in entry["crisis"])
    assert advice("emergency", country).splitlines()[1] == f"Call {entry['emergency']} first, and do what they tell you."
    told = advice("self_harm", country)
    assert all(line in told for line in entry["crisis"][:3])
    assert entry["poison"] in advice("overdose", country) and entry["crisis"][0] in advice("overdose", country)


def test_without_a_country_several_are_named() -> None:
    told = advice("self_harm")
    assert all(read("helplines")[country]["name"] in told for country in SEVERAL)
    assert "findahelpline.com" in told and "local emergency number" in told


@pytest.mark.parametrize("country", ["", *COUNTRIES])
def test_who_is_given_a_list_of_numbers_hears_that_they_change(country: str) -> None:
    for name in ("overdose", "self_harm", "means"):
        assert advice(name, country).splitlines()[-1].startswith("Numbers change")


def test_a_clinician_is_told_of_her_team_first() -> None:
    assert "resuscitation" in advice("clinician", "GB").splitlines()[1]


def test_numbers_can_be_dialled_and_words_to_text_cannot() -> None:
    assert numbers("Samaritans: call 116 123") == ["116 123"]
    assert numbers("Call 112 or 999 first") == ["112", "999"]
    assert numbers("Shout: text SHOUT to 85258") == []
    assert numbers("Take 2 or call it a day") == []


def test_the_page_links_every_number_once_and_nothing_else() -> None:
    shown = notice("Call 112 or 999 first.\n988 Lifeline: call 988, or text 988\n<b>call 13 11 14", kind="emergency")
    links = re.findall(r'<a href="tel:(\d+)">([\d ]+)</a>', shown)
    assert links == [("112", "112"), ("999", "999"), ("988", "988"), ("131114", "13 11 14")]
    assert "<b>" not in shown and shown.count("<p>") == 3
    assert "tel:" not in notice("call 988", kind="far")


def test_an_unknown_country_is_refused_with_the_known_ones() -> None:
    check_country("GB")
    check_country("")
    with pytest.raises(ConfigError, match="COUNTRY=ZZ .* GB"):
        check_country("ZZ")


@pytest.mark.parametrize(
    ("message", "number"),
    [
        ("me duele mucho el pecho y no puedo respirar", "112"),
        ("j'ai mal à la poitrine et je ne respire pas bien", "112"),
        ("mein Kind hat Fieber und ich habe Angst", "112"),
        ("meu filho está com muita dor e não sei o que fazer", "112"),
        ("mi fa molto male il petto e non riesco a respirare", "112"),
        ("ik heb heel veel pijn op de borst en het is erg", "112"),
        ("bardzo mnie boli i nie wiem co jest z moja corka", "112"),
        ("göğsüm çok ağrıyor ne yapmalıyım yardım edin", "112"),
        ("ma doare foarte tare in piept si nu pot respira ajutor", "112"),
        ("jag har mycket ont i bröstet och det är inte bra", "112"),
        ("tôi bị đau ngực và khó thở", "115"),
        ("dada saya sakit dan sesak tolong saya", "112"),
        ("у меня болит в груди", "112"),
        ("πονάει το στήθος μου", "112"),
        ("صدري يؤلمني", "112"),
        ("כואב לי בחזה", "101"),
        ("मेरे सीने में दर्द है", "112"),
        ("胸がとても痛いです", "119"),
        ("가슴이 너무 아파요", "119"),
        ("我的胸口很痛", "120"),
    ],
)
def test_twenty_languages_are_told_where_to_call(message: str, number: str) -> None:
    call = foreign(message)
    assert call and number in call


@pytest.mark.parametrize(
    "text", ["What is asthma?", "pt c/o SOB x3d", "La Niña and el Niño", "α-blockers and β-blockers", "de novo AML", "in vitro", "hi", ""]
)
def test_english_stays_english(text: str) -> None:
    assert foreign(text) is None
