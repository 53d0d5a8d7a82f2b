"""How the patterns of the rules are read: words, beginnings, numbers, gaps, groups and classes; and how slips in words are mended."""

import random
from functools import cache

import pytest

from app.notices.patterns import MOST_PLACES, REACH, Match, Patterns, lines
from app.notices.spelling import Spelling, _slips


def found(block: str, text: str, tags: dict[str, list[str]] | None = None, **classes: str) -> list[tuple[tuple[int, int], ...]]:
    words = text.split()
    matches = Patterns([("kind", "rule", block)], classes).find(words, [(tags or {}).get(word, []) for word in words])
    return [match.places for match in matches]


def test_a_block_has_a_pattern_a_line_and_indented_lines_go_on() -> None:
    assert lines("a & b\nc|\n  d\n  & e\nf\n  |g\n") == ["a & b", "c|d & e", "f|g"]


def test_a_match_says_its_rule_and_from_where_to_where_it_goes() -> None:
    rules = [("emergency", "chest", "chest|heart & pain"), ("dosing", "dose", "how much")]
    words = ["how", "much", "pain", "in", "my", "heart"]
    matches = list(Patterns(rules, {}).find(words, [[] for _ in words]))
    assert matches == [Match("emergency", "chest", ((5, 6), (2, 3))), Match("dosing", "dose", ((0, 2),))]
    assert [match.span for match in matches] == [(2, 6), (0, 2)]


@pytest.mark.parametrize(
    ("block", "text", "places"),
    [
        ("pain", "a pain is a pain", [((1, 2),), ((4, 5),)]),
        ("pain", "a painful one", []),
        ("pain*", "a painful pain", [((1, 2),), ((2, 3),)]),
        ("chest pain", "my chest pain", [((1, 3),)]),
        ("chest pain", "my chest has pain", []),
        ("chest pain*", "chest pains", [((0, 2),)]),
        ("chest ... pain", "chest pain", [((0, 2),)]),
        ("chest ... pain", "chest a b c pain", [((0, 5),)]),
        ("chest ... pain", "chest a b c d pain", []),
        ("a ... b c", "a x b c", [((0, 4),)]),
        ("a ... b c", "a x b x c", []),
        ("chest pain", "chest", []),
        ("not breathing", "aint breathing isnt breathing not breathing", [((0, 2),), ((2, 4),), ((4, 6),)]),
        ("not breathing", "breathing", []),
        ("bp [5-8]#/##", "bp 75/40", [((0, 2),)]),
        ("## mg", "5 mg 50 mg 500 mg", [((2, 4),)]),
        ("[5-8]#", "4 55 98 555", [((1, 2),)]),
        ("#* mg", "5 mg 50 mg 2.5 mg mg", [((0, 2),), ((2, 4),), ((4, 6),)]),
        ("3#.5", "39.5 3995 39.51", [((0, 1),)]),
        ("sats ##", "sats 76", [((0, 2),)]),
        ("chest & pain", "pain in chest", [((2, 3), (0, 1))]),
        ("chest & pain", "chest", []),
        ("pain & pain", "pain", []),
        ("pain & pain", "pain pain", [((0, 1), (1, 2)), ((1, 2), (0, 1))]),
        ("chest pain & pain", "chest pain", []),
        ("a|b & c", "c b", [((1, 2), (0, 1))]),
        ("  a | b c ", "b c a", [((0, 2),), ((2, 3),)]),
    ],
)
def test_a_pattern_finds_its_words_where_they_stand(block: str, text: str, places: list[tuple[tuple[int, int], ...]]) -> None:
    assert sorted(found(block, text)) == sorted(places)


def test_the_groups_of_a_pattern_lie_within_reach() -> None:
    for between, places in ((REACH - 2, [((0, 1), (REACH - 1, REACH))]), (REACH - 1, [])):
        assert found("chest & pain", f"chest {'and ' * between}pain") == places


def test_of_a_long_text_only_the_first_places_are_looked_at() -> None:
    assert len(found("pain", "pain " * 50)) == MOST_PLACES


def test_a_class_stands_for_its_members_and_a_tag_for_what_the_text_says_of_a_word() -> None:
    assert found("_pain_ & _part_", "my chest aches", _pain_="ache*|hurts", _part_="_upper_|foot", _upper_="chest|arm") == [
        ((2, 3), (1, 2))
    ]
    assert found("_count_ tablets", "thirty tablets", {"thirty": ["_count_"]}) == [((0, 2),)]
    assert found("took _count_", "took thirty", {"thirty": ["_count_"]}) == [((0, 2),)]
    assert found("took _count_", "took thirty") == []


def test_the_words_that_patterns_name_are_known_but_for_mere_beginnings() -> None:
    rules = [("k", "r", "chest ... pain & not breath*\n_part_ & hurt\n## mg")]
    assert Patterns(rules, {"_part_": "arm"}).vocabulary() == {"chest", "pain", "not", "isnt", "arent", "aint", "arm", "hurt"}


@pytest.fixture
def spelling() -> Spelling:
    words = {"seizure", "unconscious", "breath", "speech", "slurred", "collapse", "stop"}
    return Spelling([("cannot", "can ?not|cant"), ("mother", "mum|mom")], ["choroid"], words, {"ibuprofen", "warfarin", "ozempi"})


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("siezure", "seizure"),  # two letters swapped
        ("seizur", "seizure"),  # one left out
        ("seizzure", "seizure"),  # one put in
        ("seixure", "seizure"),  # one mistaken
        ("speach", "speech"),
        ("unconcious", "unconscious"),
        ("unconsious", "unconscious"),
        ("unkonshious", "unconscious"),  # two, in a long word
        ("unkonshous", "unkonshous"),  # three
        ("ibuprofin", "ibuprofen"),
        ("ibuprophen", "ibuprofen"),
        ("zeizure", "zeizure"),  # the first letter is never a slip
        ("collapsed", "collapsed"),  # an ending
        ("collapsing", "collapsing"),
        ("stopped", "stopped"),
        ("seizures", "seizures"),
        ("choroid", "choroid"),
        ("house", "house"),
        ("ozempy", "ozempy"),  # too short for a name
        ("gout", "gout"),
    ],
)
def test_a_slip_in_a_word_that_counts_is_mended_and_a_right_word_left_alone(spelling: Spelling, written: str, meant: str) -> None:
    assert spelling.word(written) == meant


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("zorned", "zorned"),  # zorn with an ending, though one letter from zorner
        ("zorns", "zorns"),
        ("zarping", "zarping"),  # zarpe
        ("flibbed", "flibbed"),  # flib, its last letter doubled
        ("flobted", "flobter"),  # of which only the half is a word
        ("zornet", "zorner"),
        ("mulk", "mulk"),  # four letters are too few to have a slip in them
        ("mulkk", "mulkk"),
    ],
)
def test_a_known_word_with_an_ending_is_no_slip(written: str, meant: str) -> None:
    words = {"zorn", "zorner", "zarpe", "zarpong", "flib", "flibber", "flob", "flobter", "mul"}
    assert Spelling([], [], words, set()).word(written) == meant


def test_short_words_have_no_slips_and_short_names_none_either() -> None:
    spelling = Spelling([], [], {"gasp", "chok"}, {"zovira", "zovirax"})
    assert spelling.word("gaspp") == "gasp", "four letters suffice in a word that a rule names"
    assert [spelling.word(word) for word in ("zoviraxx", "zovirx")] == ["zovirax", "zovirax"]
    assert Spelling([], [], set(), {"zovira"}).word("zovirra") == "zovirra", "six do not in a name"
    assert Spelling([], [], set(), {"zovirax"}).word("zovirrax") == "zovirax"


def slips(word: str, other: str) -> int:
    """Damerau's distance with neighbours swapped once, by its definition."""

    @cache
    def of(left: int, right: int) -> int:
        if not left or not right:
            return left + right
        ways = [of(left - 1, right) + 1, of(left, right - 1) + 1, of(left - 1, right - 1) + (word[left - 1] != other[right - 1])]
        if left > 1 and right > 1 and word[left - 1] == other[right - 2] and word[left - 2] == other[right - 1]:
            ways.append(of(left - 2, right - 2) + 1)
        return min(ways)

    return of(len(word), len(other))


def test_slips_are_letters_left_out_put_in_mistaken_or_swapped() -> None:
    draw = random.Random(0)
    for _ in range(400):
        word, other = ("".join(draw.choice("abc") for _ in range(draw.randrange(6))) for _ in range(2))
        assert _slips(word, other) == slips(word, other), (word, other)


def test_usual_forms_and_slips_are_mended_in_a_text_word_by_word(spelling: Spelling) -> None:
    assert spelling.usual("my mum cant breathhh, siezure") == "my mother cannot breath, seizure"
    assert spelling.usual("cantor, can not") == "cantor, cannot"
    assert spelling.usual("noooo") == "noo"
