"""Data is cleaned in the open, relatives never straddle a split, and a folder that was prepared is what training reads."""

import json
import random
import re
from pathlib import Path

import numpy as np
import pytest

from app.errors import ConfigError, DataError, StorageError
from app.notices.words import words
from finetune.data import clean as cleaning
from finetune.data.clean import clean, cut_repetition
from finetune.data.data_page import render
from finetune.data.families import FAMILY, components, jaccard, similar_pairs, word_sets
from finetune.data.prepare import Prepared, Settings, prepare, write
from finetune.data.sources import Example, Origin, Source, check_may_travel, load_source
from finetune.data.split import audit, draw, split
from finetune.data.tokens import open_tokenizer, tokenize
from tests.bench_data import make, together
from tests.conftest import FLASHCARDS, assert_is_for_people

BASE = "assets/demo/base"


def example(question: str, answer: str, row: int | str = 0, source: str = "a") -> Example:
    return Example([{"role": "user", "content": question}, {"role": "assistant", "content": answer}], row, source)


def settings(*data: Path | str, **changes: object) -> Settings:
    return Settings(**({"data": [str(path) for path in data], "revisions": [], "licences": [], "weights": [], "base": BASE} | changes))


@pytest.fixture(scope="module")
def tokenizer():
    return open_tokenizer(BASE, None, "medical")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[tuple[int, int]]]:
    """400 recombined rows with planted duplicates."""
    path = tmp_path_factory.mktemp("made") / "made.jsonl"
    return path, make(path, 400, str(FLASHCARDS))


@pytest.fixture(scope="module")
def prepared(made: tuple[Path, list[tuple[int, int]]], tokenizer) -> Prepared:
    return prepare(settings(made[0], validation=0.1, test=0.1), tokenizer)


def test_similar_pairs_are_those_of_comparing_each_with_each(made) -> None:
    texts = [example.text for example in load_source(str(made[0])).examples]
    sets = [set(words(text)) for text in texts]
    expected = {(i, j) for j in range(len(texts)) for i in range(j) if jaccard(sets[i], sets[j]) >= FAMILY}
    pairs = similar_pairs(word_sets(texts))
    assert set(made[1]) <= expected
    assert set(zip(pairs.left.tolist(), pairs.right.tolist(), strict=True)) == expected
    assert all(jaccard(sets[i], sets[j]) == pytest.approx(s) for i, j, s in zip(pairs.left, pairs.right, pairs.similarity, strict=True))


def test_two_lists_are_compared_in_full(made) -> None:
    texts = [example.text for example in load_source(str(made[0])).examples]
    rows = word_sets(texts)
    pairs = similar_pairs(rows[:150], 0.2, rows[150:])
    expected = {(i, j) for i, a in enumerate(texts[:150]) for j, b in enumerate(texts[150:]) if jaccard(words(a), words(b)) >= 0.2}
    assert expected and set(zip(pairs.left.tolist(), pairs.right.tolist(), strict=True)) == expected


@pytest.mark.parametrize("texts", [[], ["", ""], ["one"], ["?", "word"], ["same word", "word same", "Same, word!"]])
def test_texts_with_few_words_do_no_harm(texts: list[str]) -> None:
    sets = word_sets(texts)
    assert len(similar_pairs(sets).left) == (3 if len(texts) == 3 else 0)
    assert len(similar_pairs(sets, others=sets).left) == {1: 1, 3: 9}.get(len(texts), 1 if "word" in texts else 0)


@pytest.mark.parametrize(
    ("question", "answer", "left"),
    [
        ("What is gout?", "What is gout? Gout is crystals in joints.", "Gout is crystals in joints."),
        ("What are the symptoms of gout ?", "What are the signs and symptoms of gout? Pain.", "Pain."),
        ("What is gout?", "what is gout", ""),
        ("What is gout?", "Gout is what? Crystals.", "Crystals."),
        ("What is gout?", "Who gets it most often? Men.", "Who gets it most often? Men."),
        ("What is gout?", "Gout is crystals in joints.", "Gout is crystals in joints."),
    ],
)
def test_a_question_at_the_beginning_of_its_answer_is_cut_off(question: str, answer: str, left: str) -> None:
    assert cut_repetition(question, answer) == left


@pytest.mark.parametrize(
    ("question", "answer", "reason"),
    [
        ("What is gout?", "As per the information provided, it is crystals.", cleaning.ABSENT_TEXT),
        ("What is the rash shown in the image?", "Measles.", cleaning.ABSENT_TEXT),
        ("What is it?", "According to the statement mentioned, gout.", cleaning.ABSENT_TEXT),
        ("What is gout?", "The Original Question asks for crystals.", cleaning.ABSENT_TEXT),
        ("What is marked in the diagram?", "The aorta.", cleaning.ABSENT_TEXT),
        ("What do the pictures below have in common?", "Measles.", cleaning.ABSENT_TEXT),
        ("What causes gout? {{C1::Urate}}", "Crystals.", cleaning.LEFTOVER),
        ("What is gout? [sound:gout.mp3]", "Crystals.", cleaning.LEFTOVER),
        ("What is gout?", "Crystals&NBSP;of urate.", cleaning.LEFTOVER),
        ("What is gout?", "As an AI language model I say: crystals.", cleaning.LEFTOVER),
        ("What is gout?", "Crystals. Click here.", cleaning.LEFTOVER),
        ("What is gout? Bonus: why?", "Crystals.", cleaning.LEFTOVER),
        ("What is gout?", "Crystals.<br>Of urate.", cleaning.MARKUP),
        ("What is gout?", "<p class='x'>Crystals.</p>", cleaning.MARKUP),
        ("What is gout?", "Which joint hurts?", cleaning.ANOTHER_QUESTION),
        ("痛风是什么？", "哪个关节疼？", cleaning.ANOTHER_QUESTION),
        ("What is gout?", "Whose? The king's, once: a <b and c> d.", None),
        ("What is gout?", "What is gout?", cleaning.ONLY_QUESTION),
        ("What is shown on X-ray in gout?", "Erosions, from the information in the joints; a p < 0.05 & more.", None),
    ],
)
def test_a_defect_is_dropped_with_its_row_and_reason(question: str, answer: str, reason: str | None) -> None:
    cleaned = clean([example("What causes anaemia?", "Lack of iron."), example(question, answer, 7, "b")])
    assert [(found.row, found.source, found.reason) for found in cleaned.dropped] == ([(7, "b", reason)] if reason else [])


def test_duplicates_and_conflicts_name_the_row_that_stays() -> None:
    long = "a treatment of long standing for pain in the joints of the hands and of the feet"
    cleaned = clean(
        [
            example("What is colchicine?", f"Colchicine is {long}.", 0),
            example("What is COLCHICINE", f"colchicine is {long}", 1),
            example("What is colchicine?", f"Colchicine is {long} too.", 40),
            example("What is colchicine?", "A plant.", 80),
            example("What is allopurinol?", f"Allopurinol is {long}.", 120),
        ]
    )
    assert [(found.row, found.reason, found.other) for found in cleaned.dropped] == [
        (1, cleaning.SAME, "a, row 0"),
        (40, cleaning.NEAR, "a, row 0"),
        (80, cleaning.CONFLICT, "a, row 0"),
    ]
    assert [kept.row for kept in cleaned.examples] == [0, 120], "another drug in the same words is no duplicate"
    assert cleaned.families[0] == cleaned.families[1], "but it is a relative"


def test_wordings_of_one_card_are_one_family_and_no_duplicates() -> None:
    source = load_source(str(FLASHCARDS))
    cleaned = clean(source.examples[:200])
    assert len(cleaned.examples) >= 198
    by_card: dict[object, set[int]] = {}
    for kept, family in zip(cleaned.examples, cleaned.families.tolist(), strict=True):
        by_card.setdefault(kept.row, set()).add(family)
    assert all(len(families) == 1 for families in by_card.values())


def test_rewordings_next_to_each_other_are_relatives_and_patterns_far_apart_are_not() -> None:
    first, second = "Which nerve is injured in a humeral neck fracture?", "Which nerve is injured in a humeral shaft fracture?"
    near = clean([example(first, "Axillary.", 0), example(second, "Radial.", 2)]).families
    far = clean([example(first, "Axillary.", 0), example(second, "Radial.", 900)]).families
    assert near[0] == near[1]
    assert jaccard(words(first + " Axillary."), words(second + " Radial.")) >= FAMILY or far[0] != far[1]


def test_no_family_straddles_and_nothing_is_lost(prepared: Prepared, made) -> None:
    places = [(e.source, e.row) for examples in prepared.splits.values() for e in examples]
    assert len(places) == len(set(places))
    assert len(places) + len(prepared.dropped) + prepared.not_drawn == prepared.rows_read == 400
    assert prepared.audit.leaked == []
    assert prepared.random_leak[0] > 0, "the planted duplicates leak when rows are split at random"
    texts = {name: [set(words(e.text)) for e in examples] for name, examples in prepared.splits.items()}
    for name, other in (("test", "train"), ("test", "validation"), ("validation", "train")):
        assert max(jaccard(a, b) for a in texts[name] for b in texts[other]) < FAMILY
    assert all(0.05 * 400 < len(prepared.splits[name]) <= 40 for name in ("validation", "test"))


def test_a_leak_that_the_grouping_missed_goes_to_the_training_rows() -> None:
    rng = random.Random(0)
    examples = [example(f"q{i} w{rng.random()}", f"x{i // 2} y{i // 2} z{i // 2} v{i // 2} u{i // 2} t{i // 2}", i) for i in range(40)]
    places = split(examples, np.arange(40), word_sets([e.text for e in examples]), {"validation": 0.2, "test": 0.2}, 1)
    splits = {name: [examples[place] for place in chosen] for name, chosen in places.items()}
    assert sum(map(len, splits.values())) == 40
    for name, others in (("test", splits["train"] + splits["validation"]), ("validation", splits["train"])):
        assert audit(splits[name], others).leaked == []


def test_the_audit_names_the_closest_pairs_and_equal_questions() -> None:
    trained = [example("What is gout?", "Crystals of urate in joints.", 1), example("What is anaemia?", "Little haemoglobin.", 2)]
    found = audit([example("What is gout ?", "A king's disease, once.", 9), example("Who sweats?", "Everybody, in summer.", 8)], trained)
    assert found.leaked == [0]
    assert audit(trained, trained).closest[0].similarity == 1
    assert components(3, [0], [2]).tolist() == [0, 1, 0]


def test_a_draw_follows_size_and_weights_and_seed() -> None:
    examples = [example("q", "a", i, "big" if i < 80 else "small") for i in range(100)]
    assert draw(examples, {}, 0.1, 1) == draw(examples, {}, 10, 1) != draw(examples, {}, 10, 2)
    assert draw(examples, {}, None, 1) == list(range(100))
    drawn = draw(examples, {"big": 1, "small": 1}, None, 1)
    assert len(set(drawn)) == len(drawn) == 40 and sum(place >= 80 for place in drawn) == 20
    drawn = draw(examples, {"big": 3, "small": 1}, 20, 1)
    assert sum(place >= 80 for place in drawn) == 5
    with pytest.raises(DataError, match="asks for 60 conversations, and 40 can be had") as caught:
        draw(examples, {"big": 1, "small": 1}, 60, 1)
    assert_is_for_people(caught.value)


def test_a_prepared_folder_is_what_training_reads(prepared: Prepared, made, tmp_path: Path) -> None:
    folder = tmp_path / "data" / "mine"
    write(prepared, folder)
    source = load_source(str(folder))
    assert [e.messages for e in source.examples] == [e.messages for e in prepared.splits["train"]]
    assert (len(source.validation), len(source.test)) == (len(prepared.splits["validation"]), len(prepared.splits["test"]))
    assert together(folder, made[1]) == len(made[1]) > 5
    about = json.loads((folder / "data.json").read_text())
    dropped = [json.loads(line) for line in (folder / "dropped.jsonl").read_text().splitlines()]
    assert about["counts"]["dropped"] == len(dropped) and all({"source", "row", "reason"} <= row.keys() for row in dropped)
    assert str(tmp_path) not in (folder / "data.json").read_text() and str(made[0].parent) not in (folder / "data.json").read_text()
    assert source.rows_by_origin(source.examples)[0]["id"] == "made.jsonl"
    with pytest.raises(StorageError, match="exists already") as caught:
        write(prepared, folder)
    assert_is_for_people(caught.value)
    with pytest.raises(DataError, match="has been prepared already") as again:
        prepare(settings(folder), None)
    assert_is_for_people(again.value)
    (folder / "test.jsonl").write_text("{")
    with pytest.raises(DataError, match="is damaged") as damaged:
        load_source(str(folder))
    assert_is_for_people(damaged.value)


def test_losing_too_many_rows_stops_with_the_reasons(tmp_path: Path, tokenizer) -> None:
    path = tmp_path / "bad.jsonl"
    rows = [{"question": f"Why {i}?", "answer": "" if i % 2 else f"Because of {i}."} for i in range(20)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(DataError, match=r"10 of 20 rows would be dropped, more than 30% \(10: empty answer\)") as caught:
        prepare(settings(path), tokenizer)
    assert_is_for_people(caught.value)
    assert len(prepare(settings(path), tokenizer, strict=False).dropped) == 10
    assert len(prepare(settings(path, max_dropped=0.6), tokenizer).dropped) == 10


def test_rows_longer_than_max_length_are_dropped_and_listed(prepared: Prepared, made, tokenizer) -> None:
    limit = int(np.median(prepared.tokens))
    short = prepare(settings(made[0], max_length=limit, max_dropped=0.95), tokenizer)
    assert short.reasons["longer than max_length"] > 10
    assert all(len(tokenize(tokenizer, e.messages)["input_ids"]) <= limit for examples in short.splits.values() for e in examples)


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"weights": [1.0, 2.0]}, ConfigError, "--data stands 1 times and --data-weight 2 times"),
        ({"weights": [0.0]}, ConfigError, "must be above 0"),
        ({"columns": "question=Frage"}, DataError, "has no column 'Frage'; it has answer, question"),
        ({"columns": "frage"}, DataError, "Give field=column"),
        ({"rows": 5000}, DataError, "--rows 5000 asks for 5000"),
    ],
)
def test_settings_that_cannot_be_met_are_refused_in_words(made, tokenizer, changes: dict, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text) as caught:
        prepare(settings(made[0], **changes), tokenizer)
    assert_is_for_people(caught.value)


def test_the_page_stands_alone_and_escapes_what_it_shows(tmp_path: Path, tokenizer) -> None:
    path = tmp_path / "hostile.jsonl"
    rows = [{"question": f"<script>alert({i})</script> topic{i}?", "answer": f"One thing{i} & another{i}."} for i in range(30)]
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, rows[0], {"question": "", "answer": "x"}]))
    found = prepare(settings(path, test=0.2), tokenizer)
    page = render(found, tokenizer)
    assert "<script" not in page and "&lt;script&gt;" in page
    assert not re.search(r"(?:src|href)=[\"'](?!#)", page)
    assert page.count('class="conversation"') == 10
    marked = re.findall(r"<mark>(.*?)</mark>", page.split("10 rows as they will be trained")[1], flags=re.DOTALL)[1:]
    assert len(marked) == 10 and all("thing" in text and text.endswith("&lt;|eot_id|&gt;") for text in marked)
    assert "same conversation as another row" in page and "<svg" in page and len(page) < 200_000


def test_the_counts_on_real_flashcards(real_data: Path, tokenizer) -> None:
    found = prepare(settings(real_data / "flashcards" / "train.jsonl"), tokenizer)
    assert found.rows_read == 2000
    assert 10 <= found.reasons[cleaning.ABSENT_TEXT] <= 20
    assert 30 <= len(found.mended) <= 50
    assert found.random_leak[0] > 0 and found.audit.leaked == []


@pytest.mark.parametrize("licences", [(None,), ("cc-by-nc-4.0",), ("mit", None), ("mit, gpl-3.0",)])
def test_cards_do_not_travel_without_a_licence_that_allows_it(licences: tuple[str | None, ...]) -> None:
    origins = [Origin(f"somebody/set{i}", "abc", licence) for i, licence in enumerate(licences)]
    with pytest.raises(DataError, match="may not travel with the adapter") as caught:
        check_may_travel(Source([], "mixture", None, None, 0, origins=origins))
    assert_is_for_people(caught.value)


def test_cards_travel_where_every_licence_allows_it_and_rows_can_be_found_again_where_not() -> None:
    check_may_travel(load_source(str(FLASHCARDS)))
    check_may_travel(Source([], "mixture", None, None, 0, origins=[Origin("a", None, "MIT"), Origin("b", None, "cc-by-4.0")]))
    examples = [example("q", "a", 10, "b"), example("q", "a", 9, "b"), example("q", "a", "card", "a")]
    source = Source(examples, "mixture", None, None, 3, origins=[Origin("a", "r1", None), Origin("b", "r2", "mit")])
    assert source.rows_by_origin(examples) == [
        {"id": "b", "revision": "r2", "licence": "mit", "rows": [9, 10]},
        {"id": "a", "revision": "r1", "licence": None, "rows": ["card"]},
    ]


def test_a_text_that_the_question_brings_is_not_missed_and_a_picture_is(tmp_path: Path) -> None:
    asked = "Based on the given information, what is it?"
    long = "A man of forty has had a swollen toe since yesterday. " * 6 + asked
    options = "Which of the following options is it, based on the given options? (a) gout (b) flu"
    rows = [
        {"question": asked, "answer": "Gout.", "context": "The toe is red."},
        {"question": asked + " Or not?", "answer": "Flu, as per the information provided.", "context": "It is winter."},
        {"question": long, "answer": "A swollen joint."},
        {"question": options, "answer": "The first of them."},
        {"question": asked, "answer": "Measles."},
        {"question": "What is shown in the image?", "answer": "A rash.", "context": "The patient is ill."},
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    cleaned = clean(load_source(str(path)).examples)
    assert [(found.row, found.reason) for found in cleaned.dropped] == [(4, cleaning.ABSENT_TEXT), (5, cleaning.ABSENT_TEXT)]


def chinese(disease: str) -> dict[str, str]:
    return {"question": f"{disease}应该怎样预防？", "answer": f"预防{disease}要注意饮食卫生，保持适量运动，按时接种疫苗，并且定期体检。"}


def test_near_duplicates_in_scripts_without_spaces_are_found(tmp_path: Path, tokenizer) -> None:
    patterns = [chinese(name) for name in "流感 麻疹 水痘 肝炎 肺炎 霍乱 伤寒 白喉 破伤风 百日咳 腮腺炎 风疹".split()]  # noqa: SIM905
    rng = random.Random(0)
    signs = [chr(code) for code in range(0x4E00, 0x4E00 + 3000)]
    others = [{"question": "".join(rng.sample(signs, 12)) + "？", "answer": "".join(rng.sample(signs, 40)) + "。"} for _ in range(60)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in [*others[:30], *patterns, *others[30:]]))
    found = prepare(settings(path, validation=0.2, test=0.2), tokenizer)
    assert found.random_leak[0] > 0 and found.audit.leaked == []
    homes = {name for name, examples in found.splits.items() for e in examples if 30 <= int(e.row) < 42}
    assert len(homes) == 1 and len(found.splits["test"]) > 5
    page = render(found, tokenizer)
    assert re.search(r"<td>Chinese</td><td class=\"number\">\d+\.\d%</td>", page)


def test_the_splits_of_a_folder_are_kept_and_what_is_like_them_is_not_trained_on(tmp_path: Path, tokenizer) -> None:
    rng = random.Random(1)
    pool = [f"{a}{b}" for a in ("ka", "lo", "mi", "nu", "pe", "ro", "su", "ti") for b in ("ba", "de", "fi", "go", "hu", "ja", "ke", "la")]
    rows = [{"question": " ".join(rng.sample(pool, 8)) + "?", "answer": " ".join(rng.sample(pool, 14)) + "."} for _ in range(60)]
    near = {"question": rows[50]["question"].replace("?", " then?"), "answer": rows[50]["answer"]}
    for name, part in (("train", [*rows[:40], near, rows[55]]), ("validation", rows[40:48]), ("test", rows[48:])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    found = prepare(settings(tmp_path), tokenizer)
    assert [e.row for e in found.splits["test"]] == [f"test/{n}" for n in range(12)]
    assert [e.row for e in found.splits["validation"]] == [f"validation/{n}" for n in range(8)]
    assert [e.row for e in found.splits["train"]] == list(range(40)) and found.audit.leaked == []
    assert {(f.row, f.source) for f in found.dropped} == {(40, tmp_path.name), (41, tmp_path.name)}
    write(found, tmp_path / "out")
    assert [e.row for e in load_source(str(tmp_path / "out")).test] == [f"test/{n}" for n in range(12)]


def test_the_page_shows_languages_shares_and_columns_that_are_not_read(tmp_path: Path, tokenizer) -> None:
    rows = [
        {"question": f"What are the usual signs of illness {n} in a child?", "answer": f"Fever and cough for {n} days.", "Autor": "x"}
        for n in range(12)
    ]
    rows += [
        {"question": f"Was sind die üblichen Zeichen der Krankheit {n}?", "answer": f"Fieber und Husten seit {n} Tagen."} for n in range(4)
    ]
    rows += [{"question": "What is missing?", "answer": "NaN"}] * 4
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    page = render(prepare(settings(path), tokenizer), tokenizer)
    assert ">English</td>" in page and ">German</td>" in page
    assert "4 dropped, 20.0% of the rows" in page and "Columns that are not read: Autor." in page
