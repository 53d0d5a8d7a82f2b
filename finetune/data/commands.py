"""The commands of this room: `python -m finetune data inspect|prepare|audit|feedback`. Knows the command line alone."""

import argparse
import logging
import os
from pathlib import Path
from typing import Any


def add_reading(parser: argparse.ArgumentParser, of: str = "the data") -> None:
    """Adds the options of every command that reads data sets: what its columns are, its encoding, and how much of it may be unusable."""
    parser.add_argument(
        "--columns", metavar="FIELD=COLUMN,...", help=f"which columns of {of} are question, answer and so on: question=Frage,..."
    )
    parser.add_argument("--encoding", help="encoding of text files that state none and are not UTF-8, such as windows-1252")
    parser.add_argument("--max-dropped", type=_part, help="stop when a larger share of the rows would go [0.3]")


def add(commands: Any) -> None:
    """Adds the parsers of this room to those of the command line."""
    data = commands.add_parser("data", help="look at data sets, clean and split them, compare them")
    actions = data.add_subparsers(required=True, metavar="ACTION", dest="action")
    for name, text in (("inspect", "write a page about data sets"), ("prepare", "write a folder that --data of train accepts")):
        action = actions.add_parser(name, help=text)
        action.add_argument(
            "--data", action="append", help="hub id, data file, or folder with files of splits; may be repeated [that of --config]"
        )
        action.add_argument(
            "--data-weight", action="append", type=float, default=[], metavar="W", help="share of each --data in the mixture"
        )
        action.add_argument("--data-revision", action="append", default=[], metavar="REV", help='commit of each --data, "" for a file')
        action.add_argument(
            "--data-licence", action="append", default=[], metavar="ID", help='licence of each --data, "" to keep what it states'
        )
        add_reading(action)
        action.add_argument("--rows", type=_above_zero, help="up to 1 a share of the usable rows, above it their number [all]")
        action.add_argument("--validation", type=_share, default=0.05, help="share of the rows for validation [%(default)s]")
        action.add_argument("--test", type=_share, default=0.05, help="share of the rows for the test [%(default)s]")
        action.add_argument("--max-length", type=int, help="tokens a conversation may have [that of --config]")
        action.add_argument("--seed", type=int, help="seed of the draw and the splits [that of --config]")
        action.add_argument("--config", default="seed", help="preset or YAML file: base, template, max_length, seed [%(default)s]")
        action.add_argument("--base", help="base model whose tokenizer counts: a hub id or a folder [that of --config]")
        is_folder = name == "prepare"
        action.add_argument(
            "--output", type=Path, required=is_folder, help="folder to write" if is_folder else "page to write [outputs/data.html]"
        )
        action.set_defaults(run=_data)
    audit = actions.add_parser("audit", help="compare any evaluation set with any training set")
    audit.add_argument("--train", required=True, help="file, hub id or prepared folder (its training rows)")
    audit.add_argument("--evaluate", required=True, help="file, hub id or prepared folder (its test rows)")
    add_reading(audit, "both")
    audit.add_argument("--listed", type=int, default=20, help="closest pairs to list [%(default)s]")
    audit.set_defaults(run=_audit)
    feedback = actions.add_parser("feedback", help="clinicians' ratings -> training rows and preference pairs, after a review")
    feedback.add_argument(
        "ratings", type=Path, nargs="?", default=Path("outputs/feedback/ratings.jsonl"), help="ratings, or a folder of them [%(default)s]"
    )
    feedback.add_argument("--output", type=Path, default=Path("outputs/feedback"), help="folder for review and results [%(default)s]")
    feedback.set_defaults(run=_feedback)


def _data(args: argparse.Namespace) -> None:
    from finetune.config import load_config
    from finetune.data.data_page import write_page
    from finetune.data.prepare import Settings, prepare, table, write
    from finetune.data.tokens import open_tokenizer

    os.environ["TOKENIZERS_PARALLELISM"] = "true"  # nothing forks here
    config = load_config(args.config, {"base": args.base, "max_length": args.max_length, "seed": args.seed})
    settings = Settings(
        data=args.data or [config.data],
        revisions=args.data_revision,
        licences=args.data_licence,
        weights=args.data_weight,
        columns=args.columns or config.columns,
        encoding=args.encoding or config.encoding,
        rows=args.rows,
        validation=args.validation,
        test=args.test,
        max_length=config.max_length,
        max_dropped=config.max_dropped if args.max_dropped is None else args.max_dropped,
        seed=config.seed,
        base=config.base,
        template=config.template,
    )
    tokenizer = open_tokenizer(config.base, config.base_revision, config.template)
    prepared = prepare(settings, tokenizer, strict=args.action == "prepare")
    page = args.output or Path("outputs/data.html")
    if args.action == "prepare":
        write(prepared, args.output)
        page = args.output / "data.html"
    write_page(prepared, tokenizer, page)
    logging.info("%s\n\nThe page is %s%s", table(prepared), page, f"; train with --data {args.output}" if args.action == "prepare" else "")


def _audit(args: argparse.Namespace) -> None:
    from finetune.data.sources import MAX_DROPPED, load_source
    from finetune.data.split import audit

    most = MAX_DROPPED if args.max_dropped is None else args.max_dropped
    train, evaluated = (load_source(data, None, args.columns, args.encoding, most) for data in (args.train, args.evaluate))
    found = audit(evaluated.test or evaluated.examples, train.examples, args.listed)
    for close in found.closest:
        logging.info(
            "%.2f  row %s: %.70s  |  row %s: %.70s",
            close.similarity,
            close.evaluated.row,
            close.evaluated.question,
            close.trained.row,
            close.trained.question,
        )
    logging.info("%d of %d rows have a relative among %d training rows.", len(found.leaked), found.evaluated, found.trained)


def _feedback(args: argparse.Namespace) -> None:
    from finetune.data.feedback import run

    run(args.ratings, args.output)


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"{text} is no share: give a number from 0 to below 1")
    return value


def _part(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is no share: give a number from 0 to 1")
    return value


def _above_zero(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not above 0: give a share up to 1, or a number of rows")
    return value
