"""The commands of this room: `python -m finetune evaluate` and `ask`. Knows the command line alone."""

import argparse
import logging
import sys
from pathlib import Path
from typing import Any

from finetune.data.commands import add_reading
from finetune.evaluation.gate import DEFAULT_RULES


def add(commands: Any) -> None:
    """Adds the parsers of this room to those of the command line."""
    _add_ask(commands)
    _add_evaluate(commands)


def _add_ask(commands: Any) -> None:
    ask = commands.add_parser("ask", help="ask an adapter one question")
    ask.add_argument("--adapter", required=True, help="folder, or OWNER/NAME[@REVISION] of a Hub repository")
    ask.add_argument("--base", default="", metavar="FOLDER", help="where the base lies, if not where the adapter says")
    ask.add_argument("--without-adapter", action="store_true", help="let the base answer alone")
    ask.add_argument("--max-new-tokens", type=int, default=200, help="tokens the answer may have [%(default)s]")
    ask.add_argument("question")
    ask.set_defaults(run=_ask)


def _add_evaluate(commands: Any) -> None:
    evaluate = commands.add_parser("evaluate", help="measure an adapter, base against tuned, and write a report")
    evaluate.add_argument("--adapter", required=True, help="folder, or OWNER/NAME[@REVISION] of a Hub repository")
    evaluate.add_argument("--base", default="", metavar="FOLDER", help="where the base lies, if not where the adapter says")
    evaluate.add_argument(
        "--data",
        action="append",
        help="questions with answers: our flashcards, a prepared folder, another folder or file, or a hub id; may be repeated "
        "[assets/flashcards.jsonl]",
    )
    add_reading(evaluate, "--data")
    evaluate.add_argument("--suite", choices=["quick", "full"], default="quick", help="quick: 48 questions of each set; full: all")
    evaluate.add_argument("--limit", type=_positive, help="only N questions of each set, drawn by a fixed seed")
    evaluate.add_argument("--max-new-tokens", type=_positive, default=128, help="tokens an answer may have [%(default)s]")
    evaluate.add_argument("--exam", type=Path, action="append", default=[], help="file of MedMCQA, PubMedQA or other choices; repeatable")
    evaluate.add_argument("--exam-columns", metavar="MAPPING", help="other files' columns: question=stem,options=a+b+c+d,answer=key")
    evaluate.add_argument("--safety", type=Path, help="prompts of the safety suite [assets/safety_prompts.jsonl]")
    evaluate.add_argument(
        "--embedding-model", help="sentence-transformers model, hub id or folder, such as sentence-transformers/all-MiniLM-L6-v2"
    )
    evaluate.add_argument("--bertscore-model", help="model for BERTScore, hub id or folder, such as microsoft/deberta-large-mnli")
    evaluate.add_argument(
        "--beside", type=Path, action="append", default=[], metavar="JSON", help="show another evaluation's rows on questions it never saw"
    )
    evaluate.add_argument("--output", type=Path, help="where to write the figures; the page goes beside them [ADAPTER/evaluation.json]")
    evaluate.add_argument("--resume", action="store_true", help="go on where a run that was stopped or killed has ended")
    evaluate.add_argument(
        "--gate",
        type=Path,
        nargs="?",
        const=DEFAULT_RULES,
        metavar="RULES",
        help="exit with 1 when a measure named in the rules got worse",
    )
    evaluate.add_argument("--rating-sheet", type=Path, metavar="CSV", help="write a blinded sheet of answers for clinicians to rate")
    evaluate.add_argument("--ratings", type=Path, nargs="+", metavar="CSV", help="read filled-in sheets, one per rater, into the report")
    evaluate.add_argument("--rating-key", type=Path, metavar="JSON", help="the key that was written beside the sheet")
    evaluate.set_defaults(run=_evaluate)


def _ask(args: argparse.Namespace) -> None:
    from functools import partial

    from app.engine.answer import GenerationRequest
    from app.engine.generation import LocalGenerator
    from app.engine.model import load

    generator = LocalGenerator(partial(load, base=args.base), args.adapter)
    try:
        generator.wait_until_ready()
        request = GenerationRequest(
            messages=[{"role": "user", "content": args.question}], use_adapter=not args.without_adapter, max_new_tokens=args.max_new_tokens
        )
        for delta in generator.submit(request):
            sys.stdout.write(delta)
            sys.stdout.flush()
        sys.stdout.write("\n")
    finally:
        generator.close()


def _evaluate(args: argparse.Namespace) -> None:
    from finetune.evaluation.evaluate import Options, evaluate, output_path, rating_sheet, read_evaluation, with_ratings, write
    from finetune.evaluation.exams import parse_columns
    from finetune.evaluation.gate import gate, load_rules

    output = args.output or output_path(args.adapter)
    rules = load_rules(args.gate) if args.gate else None
    if args.ratings:
        evaluation = with_ratings(read_evaluation(output), args.ratings, args.rating_key)
    else:
        judges = {"embedding_cosine": args.embedding_model, "bert_score": args.bertscore_model}
        options = Options(
            base=args.base,
            data=args.data or Options().data,
            columns=args.columns,
            encoding=args.encoding,
            max_dropped=Options().max_dropped if args.max_dropped is None else args.max_dropped,
            suite=args.suite,
            limit=args.limit,
            exams=args.exam,
            exam_columns=parse_columns(args.exam_columns) if args.exam_columns else None,
            safety=args.safety or Options().safety,
            judges={key: model for key, model in judges.items() if model},
            beside=args.beside,
            max_new_tokens=args.max_new_tokens,
        )
        if args.rating_sheet:
            key = rating_sheet(args.adapter, options, args.rating_sheet)
            logging.info("\nSend %s to the raters, and keep %s from them.", args.rating_sheet, key)
            return
        try:
            evaluation = evaluate(args.adapter, options, output.with_suffix(".journal.jsonl"), args.resume)
        except KeyboardInterrupt:
            logging.info("\nStopped. Finished batches are kept: go on with the same command and --resume.")
            sys.exit(130)
    page = write(evaluation, output)
    logging.info("\n%s\n%s and %s", evaluation["verdict"], output, page)
    if rules:
        refused = gate(evaluation, rules)
        logging.info("\n%s", "The gate refuses this adapter:\n  " + "\n  ".join(refused) if refused else "The gate lets this adapter pass.")
        sys.exit(1 if refused else 0)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number above 0")
    return int(text)
