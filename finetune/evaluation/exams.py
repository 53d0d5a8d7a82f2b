"""Multiple-choice exams, scored by how likely the model finds each option, as lm-evaluation-harness does.

The option with the highest summed log-likelihood is the model's choice (`accuracy`); divided by its number of characters it is the
choice of `accuracy_norm`, which is fairer where options differ in length. https://github.com/EleutherAI/lm-evaluation-harness
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from app.engine.model import LoadedModel
from app.errors import DataError
from finetune.data.files import Row
from finetune.data.forms import listed, renamed
from finetune.data.rows import read_table
from finetune.data.sources import Card
from finetune.data.values import Unusable, is_empty, text_of, unpacked
from finetune.evaluation.metrics import compare, mcnemar, proportion, rounded
from finetune.evaluation.scoring import Journal, answer_completion, log_likelihoods

LETTERS = "ABCDEFGHIJ"
CARD_OPTIONS = 4


@dataclass(frozen=True)
class Question:
    """A question with its options.

    Attributes:
        prompt: What the model is asked, options included where they are chosen by letter.
        options: The answers whose likelihood is compared.
        answer: Index of the right one.
        subject: What the per-subject table groups by.
    """

    prompt: str
    options: list[str]
    answer: int
    subject: str = ""


@dataclass(frozen=True)
class Exam:
    """An exam.

    Attributes:
        name: Used in keys and tables.
        dropped: Row and reason of every row left out.
    """

    name: str
    questions: list[Question]
    dropped: list[tuple[int, str]] = field(default_factory=list)

    def first(self, limit: int | None) -> "Exam":
        """The same exam with at most `limit` questions, drawn by a fixed seed."""
        short = limit is not None and limit < len(self.questions)
        return replace(self, questions=random.Random(0).sample(self.questions, limit)) if short else self  # type: ignore[arg-type]


def _by_letter(question: str, options: list[str], answer: int, subject: str) -> Question:
    texts = [question, *options]
    if not all(text.strip() for text in texts) or not 2 <= len(options) <= len(LETTERS) or not 0 <= answer < len(options):
        raise ValueError(f"the question or an option is empty, there are not 2 to {len(LETTERS)} options, or none is marked as right")
    letters = list(LETTERS[: len(options)])
    listed = "\n".join(f"{letter}. {option}" for letter, option in zip(letters, options, strict=True))
    return Question(f"{question}\n{listed}\nAnswer with the letter.", letters, answer, subject)


def _medmcqa(rows: list[Row]) -> Callable[[Row], Question]:
    # The original files count the right option from 1, the Hub's copy from 0; -1 marks a hidden answer.
    first = 0 if any(_text(row.get("cop")) == "0" for row in rows) else 1

    def read(row: Row) -> Question:
        options = [_text(row[name]) for name in ("opa", "opb", "opc", "opd")]
        return _by_letter(_text(row["question"]), options, int(_text(row["cop"])) - first, _text(row.get("subject_name")))

    return read


def _pubmedqa(rows: list[Row]) -> Callable[[Row], Question]:
    def read(row: Row) -> Question:
        contexts = unpacked(row["contexts"]) if "contexts" in row else unpacked(row["context"])["contexts"]
        options = ["yes", "no", "maybe"]
        asked = "\n".join([*map(_text, contexts), "", _text(row["question"]), "Answer yes, no or maybe."])
        return Question(asked, options, options.index(_text(row["final_decision"]).strip().lower()))

    return read


def _mapped(columns: dict[str, str]) -> Callable[[list[Row]], Callable[[Row], Question]]:
    def read(row: Row) -> Question:
        names = columns["options"].split("+")
        options = [_text(option) for option in ([row[name] for name in names] if len(names) > 1 else unpacked(row[names[0]]))]
        answer = _text(row[columns["answer"]]).strip()
        subject = _text(row.get(columns["subject"])) if "subject" in columns else ""
        if answer in options:
            index = options.index(answer)
        elif answer.upper() in set(LETTERS):
            index = LETTERS.index(answer.upper())
        else:
            index = int(answer)
        return _by_letter(_text(row[columns["question"]]), options, index, subject)

    return lambda rows: read


def _text(value: Any) -> str:
    return "" if is_empty(value) else text_of(value, [])


def parse_columns(text: str) -> dict[str, str]:
    """Reads a column mapping such as `question=stem,options=a+b+c+d,answer=key,subject=topic`.

    Raises:
        DataError: It is not of that form.
    """
    pairs = [part.partition("=")[::2] for part in text.split(",")]
    columns = {name.strip(): "+".join(column.strip() for column in theirs.split("+")) for name, theirs in pairs}
    if not {"question", "options", "answer"} <= columns.keys() <= {"question", "options", "answer", "subject"} or not all(columns.values()):
        raise DataError(
            f"--exam-columns {text} is not a column mapping. Give question, options and answer, as in "
            "question=stem,options=a+b+c+d,answer=key; options is one column with a list, or several joined by +."
        )
    return columns


def read_exam(path: Path, columns: dict[str, str] | None = None, encoding: str | None = None) -> Exam:
    """Reads an exam: MedMCQA's or PubMedQA's own files, or any data file with a column mapping.

    Args:
        path: The file, or a folder with files of splits, of which the one for the test is taken.
        columns: `question`, `options` and `answer` (letter, text, or index from 0), optionally `subject`: names of columns, in any case.
        encoding: As in `finetune.data.rows.read_table`.

    Raises:
        DataError: The file cannot be read, its columns are unknown, or no row can be used.
    """
    splits = read_table(str(path), encoding=encoding).splits
    part = next(splits[name] for name in ("test", "validation", "train") if name in splits)
    theirs = set().union(*part.rows)
    rows = renamed(part.rows, theirs, path.name, {})
    present = set().union(*rows)
    if columns:
        make = _mapped({name: column.casefold() for name, column in columns.items()})
    elif {"question", "opa", "opb", "opc", "opd", "cop"} <= present:
        make = _medmcqa
    elif {"question", "final_decision"} <= present and present & {"contexts", "context"}:
        make = _pubmedqa
    else:
        raise DataError(
            f"{path} has the columns {listed(theirs)}, which are neither MedMCQA's nor PubMedQA's. "
            "Say what they mean with --exam-columns question=...,options=...,answer=..."
        )
    read, questions, dropped = make(rows), [], []
    for number, row in enumerate(rows):
        try:
            if number in part.refused:
                raise Unusable(part.refused[number])
            questions.append(read(row))
        except KeyError as error:
            dropped.append((number, f"no column {error}"))
        except (TypeError, ValueError, AttributeError, Unusable) as error:
            dropped.append((number, str(error)))
    if not questions:
        raise DataError(f"{path} holds no usable question: row 0 was left out because of {dropped[0][1]}.")
    return Exam(path.stem, questions, dropped)


def card_exam(cards: list[Card], seed: int = 0) -> Exam:
    """An exam from our own cards: the held-out wording, and the card's answer among those of other cards of its specialty."""
    rng = random.Random(seed)
    questions = []
    for card in cards:
        others = list(dict.fromkeys(other.answer for other in cards if other.specialty == card.specialty and other.answer != card.answer))
        if len(others) < CARD_OPTIONS - 1:
            continue
        options = [card.answer, *rng.sample(others, CARD_OPTIONS - 1)]
        rng.shuffle(options)
        questions.append(Question(card.held_out, options, options.index(card.answer), card.specialty))
    return Exam("flashcards", questions)


def choices(loaded: LoadedModel, exam: Exam, use_adapter: bool, journal: Journal | None = None) -> list[tuple[int, int]]:
    """For each question the index of the chosen option, by summed log-likelihood and by log-likelihood a character."""
    completions = [
        answer_completion(loaded, [{"role": "user", "content": question.prompt}], option)
        for question in exam.questions
        for option in question.options
    ]
    scores = log_likelihoods(loaded, completions, use_adapter, name=f"exam {exam.name}", journal=journal)
    chosen, start = [], 0
    for question in exam.questions:
        part = scores[start : start + len(question.options)]
        start += len(question.options)
        by_character = [score / len(option) for score, option in zip(part, question.options, strict=True)]
        chosen.append((part.index(max(part)), by_character.index(max(by_character))))
    return chosen


def run_exam(loaded: LoadedModel, exam: Exam, journal: Journal | None = None) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Base against tuned on one exam.

    Questions longer than the model's context are left out and counted.

    Returns:
        The exam's entry of `evaluation.json`, and its measures by key.
    """
    room = loaded.contract.context_length
    fitting = [
        question
        for question in exam.questions
        if all(len(answer_completion(loaded, [{"role": "user", "content": question.prompt}], o).ids) <= room for o in question.options)
    ]
    entry: dict[str, Any] = {
        "name": exam.name,
        "n": len(fitting),
        "left_out": len(exam.dropped),
        "too_long": len(exam.questions) - len(fitting),
    }
    if not fitting:
        return entry, {}
    base, tuned = (choices(loaded, replace(exam, questions=fitting), use_adapter, journal) for use_adapter in (False, True))
    right = {
        (model, index): [choice[index] == question.answer for choice, question in zip(chosen, fitting, strict=True)]
        for model, chosen in (("base", base), ("tuned", tuned))
        for index in (0, 1)
    }
    entry["chance"] = round(sum(1 / len(question.options) for question in fitting) / len(fitting), 4)
    entry["mcnemar"] = mcnemar(right["base", 0], right["tuned", 0])
    entry["subjects"] = _subjects(fitting, right["base", 0], right["tuned", 0])
    measures = {
        f"exam:{exam.name}/{key}": compare(name, right["base", index], right["tuned", index], higher_is_better=True, unit="share")
        for index, key, name in ((0, "accuracy", "Accuracy"), (1, "accuracy_norm", "Accuracy, per character of the option"))
    }
    return entry, measures


def _subjects(questions: list[Question], base: list[bool], tuned: list[bool]) -> list[dict[str, Any]]:
    rows = []
    for subject in sorted({question.subject for question in questions}):
        places = [i for i, question in enumerate(questions) if question.subject == subject]
        parts = {name: rounded(proportion([right[i] for i in places])) for name, right in (("base", base), ("tuned", tuned))}
        rows.append({"subject": subject or "not stated", "n": len(places), **parts})
    return sorted(rows, key=lambda row: -row["n"]) if len(rows) > 1 else []
