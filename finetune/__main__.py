"""Command line of the training side: `python -m finetune data|train|dashboard|ask|evaluate|push|approve|rollback|export`."""

import argparse
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from app import prepare_environment
from finetune.gate import DEFAULT_RULES

EXAMPLE_QUESTION = "What are the common symptoms of diabetes?"


def _train(args: argparse.Namespace) -> None:
    from finetune.config import load_config, parse_assignments

    overrides = parse_assignments(args.set) | {key: getattr(args, key) for key in ("base", "data", "output")}
    overrides["ship_cards"] = True if args.ship_cards else overrides.get("ship_cards")
    config = load_config(args.config, overrides)
    if os.environ.get("RANK", "0") != "0":  # torchrun starts one process a card; the first one talks
        logging.getLogger().setLevel(logging.ERROR)
    logging.info("%s", "\n".join(f"  {key}: {value}" for key, value in config.model_dump().items()))
    try:
        from finetune.checkpoints import is_first_process, last_checkpoint
        from finetune.train import train

        output = train(config, resume=args.resume)
    except KeyboardInterrupt:
        kept = last_checkpoint(Path(config.output))
        logging.info(
            "\nStopped. %s", f"{kept} is kept: go on with the same command and --resume." if kept else "No checkpoint had been written yet."
        )
        sys.exit(130)
    if not is_first_process():
        return
    logging.info("\nThe adapter is in %s. It answers, opened without Unsloth:\n\n  %s", output, EXAMPLE_QUESTION)
    # Another process, so that the answer comes from the files and from unpatched libraries; not one of torchrun's.
    environment = {key: value for key, value in os.environ.items() if key not in ("RANK", "LOCAL_RANK", "WORLD_SIZE")}
    command = [sys.executable, "-m", "finetune", "ask", "--adapter", str(output), EXAMPLE_QUESTION]
    code = subprocess.run(command, env=environment, check=False).returncode
    logging.info("\nChat with it in a browser: python -m app --adapter %s", output)
    sys.exit(code)


def _dashboard(args: argparse.Namespace) -> None:
    from app.settings import ROOT

    os.environ.setdefault("TRACKIO_DIR", str(ROOT / "outputs" / "trackio"))
    import trackio

    from finetune.config import PROJECT

    trackio.show(project=PROJECT, open_browser=not args.no_browser, server_port=args.port)


def _ask(args: argparse.Namespace) -> None:
    from app.answer import GenerationRequest
    from app.generation import LocalGenerator
    from app.model import load

    generator = LocalGenerator(load, args.adapter)
    try:
        generator.wait_until_ready()
        request = GenerationRequest(
            messages=[{"role": "user", "content": args.question}], use_adapter=not args.base, max_new_tokens=args.max_new_tokens
        )
        for delta in generator.submit(request):
            sys.stdout.write(delta)
            sys.stdout.flush()
        sys.stdout.write("\n")
    finally:
        generator.close()


def _evaluate(args: argparse.Namespace) -> None:
    from finetune.evaluate import Options, evaluate, output_path, rating_sheet, read_evaluation, with_ratings, write
    from finetune.exams import parse_columns
    from finetune.gate import gate, load_rules

    output = args.output or output_path(args.adapter)
    rules = load_rules(args.gate) if args.gate else None
    if args.ratings:
        evaluation = with_ratings(read_evaluation(output), args.ratings, args.rating_key)
    else:
        judges = {"embedding_cosine": args.embedding_model, "bert_score": args.bertscore_model}
        options = Options(
            data=args.data or Options().data,
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


def _push(args: argparse.Namespace) -> None:
    from finetune.publish import Options, push

    published = push(
        args.adapter, Options(args.repo, args.private, args.channel, args.base_id, args.licence, args.allow_regression or None)
    )
    logging.info("Published as commit %s, which `%s` points to now.\n%s", published.commit, args.channel, published.url)
    logging.info("Chat with it: python -m app --adapter %s@%s", args.repo, args.channel)
    logging.info("Give it to everybody: python -m finetune approve --repo %s --revision %s", args.repo, args.channel)


def _approve(args: argparse.Namespace) -> None:
    from finetune.card import compare
    from finetune.channels import approve, evaluation_at

    approved, proposed = (evaluation_at(args.repo, revision) for revision in ("approved", args.revision))
    logging.info("%s", compare(approved, proposed or {}))
    number, commit = approve(args.repo, args.revision)
    logging.info("approved-%d is commit %s, and `approved` points to it.", number, commit)


def _rollback(args: argparse.Namespace) -> None:
    from finetune.channels import rollback

    number, withdrawn, commit = rollback(args.repo)
    logging.info("%s", f"approved-{withdrawn} is withdrawn." if withdrawn else "A roll-back that was cut off is finished.")
    logging.info("`approved` points to approved-%d again, commit %s.", number, commit)


def _export(args: argparse.Namespace) -> None:
    from finetune.convert import export

    for line in export(args.adapter, args.format, args.output, args.llama_cpp):
        logging.info("%s", line)


def _data(args: argparse.Namespace) -> None:
    from finetune.config import load_config
    from finetune.data_page import write_page
    from finetune.prepare import Settings, prepare, table, write
    from finetune.tokens import open_tokenizer

    os.environ["TOKENIZERS_PARALLELISM"] = "true"  # nothing forks here
    config = load_config(args.config, {"base": args.base, "max_length": args.max_length, "seed": args.seed})
    settings = Settings(
        data=args.data or [config.data],
        revisions=args.data_revision,
        licences=args.data_licence,
        weights=args.data_weight,
        columns=args.columns,
        rows=args.rows,
        validation=args.validation,
        test=args.test,
        max_length=config.max_length,
        max_dropped=args.max_dropped,
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
    write_page(prepared, tokenizer, page, config.per_device_train_batch_size)
    logging.info("%s\n\nThe page is %s%s", table(prepared), page, f"; train with --data {args.output}" if args.action == "prepare" else "")


def _audit(args: argparse.Namespace) -> None:
    from finetune.sources import load_source
    from finetune.split import audit

    train, evaluated = load_source(args.train), load_source(args.evaluate)
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


def _add_data(commands: Any) -> None:
    data = commands.add_parser("data", help="look at data sets, clean and split them, compare them")
    actions = data.add_subparsers(required=True, metavar="ACTION", dest="action")
    for name, text in (("inspect", "write a page about data sets"), ("prepare", "write a folder that --data of train accepts")):
        action = actions.add_parser(name, help=text)
        action.add_argument(
            "--data", action="append", help="hub id, or JSON, JSONL, CSV or Parquet file; may be repeated [that of --config]"
        )
        action.add_argument(
            "--data-weight", action="append", type=float, default=[], metavar="W", help="share of each --data in the mixture"
        )
        action.add_argument("--data-revision", action="append", default=[], metavar="REV", help='commit of each --data, "" for a file')
        action.add_argument(
            "--data-licence", action="append", default=[], metavar="ID", help='licence of each --data, "" to keep what it states'
        )
        action.add_argument(
            "--columns", metavar="FIELD=COLUMN,...", help="which columns are question, answer, context, messages or dialogue"
        )
        action.add_argument("--rows", type=_above_zero, help="up to 1 a share of the usable rows, above it their number [all]")
        action.add_argument("--validation", type=_share, default=0.05, help="share of the rows for validation [%(default)s]")
        action.add_argument("--test", type=_share, default=0.05, help="share of the rows for the test [%(default)s]")
        action.add_argument("--max-length", type=int, help="tokens a conversation may have [that of --config]")
        action.add_argument("--max-dropped", type=_share, default=0.3, help="stop when a larger share of the rows would go [%(default)s]")
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
    audit.add_argument("--listed", type=int, default=20, help="closest pairs to list [%(default)s]")
    audit.set_defaults(run=_audit)
    feedback = actions.add_parser("feedback", help="clinicians' ratings -> training rows and preference pairs, after a review")
    feedback.add_argument(
        "ratings", type=Path, nargs="?", default=Path("outputs/feedback/ratings.jsonl"), help="ratings, or a folder of them [%(default)s]"
    )
    feedback.add_argument("--output", type=Path, default=Path("outputs/feedback"), help="folder for review and results [%(default)s]")
    feedback.set_defaults(run=_feedback)


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"{text} is no share: give a number from 0 to below 1")
    return value


def _above_zero(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not above 0: give a share up to 1, or a number of rows")
    return value


def _feedback(args: argparse.Namespace) -> None:
    from finetune.feedback import run

    run(args.ratings, args.output)


def main() -> None:
    """Parses the command line, runs a command, and turns errors that a person can act on into one line and exit code 1."""
    parser = argparse.ArgumentParser(prog="python -m finetune", description="From medical questions to a LoRA adapter.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    _add_data(commands)

    train = commands.add_parser("train", help="train a LoRA adapter with Unsloth")
    train.add_argument("--config", default="seed", help="preset (seed, fast, t4, demo) or a YAML file [%(default)s]")
    train.add_argument("--base", help="base model: a hub id or a folder")
    train.add_argument("--data", help="data set: a hub id, a JSON, JSONL, CSV or Parquet file, or a folder of data prepare")
    train.add_argument("--output", help="folder to write the adapter into")
    train.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override one key of the configuration; may be repeated"
    )
    train.add_argument("--ship-cards", action="store_true", help="put the cards into the adapter directory, if their licence allows it")
    train.add_argument("--resume", action="store_true", help="go on from the last checkpoint of --output")
    train.set_defaults(run=_train)

    dashboard = commands.add_parser("dashboard", help="watch runs that were started with report_to=trackio, on this machine alone")
    dashboard.add_argument("--port", type=int, default=7861, help="port on 127.0.0.1 [%(default)s]")
    dashboard.add_argument("--no-browser", action="store_true", help="open no browser")
    dashboard.set_defaults(run=_dashboard)

    ask = commands.add_parser("ask", help="ask an adapter one question")
    ask.add_argument("--adapter", required=True, help="folder, or OWNER/NAME[@REVISION] of a Hub repository")
    ask.add_argument("--base", action="store_true", help="answer with the adapter switched off")
    ask.add_argument("--max-new-tokens", type=int, default=200, help="tokens the answer may have [%(default)s]")
    ask.add_argument("question")
    ask.set_defaults(run=_ask)

    evaluate = commands.add_parser("evaluate", help="measure an adapter, base against tuned, and write a report")
    evaluate.add_argument("--adapter", required=True, help="folder, or OWNER/NAME[@REVISION] of a Hub repository")
    evaluate.add_argument(
        "--data",
        action="append",
        help="questions with answers: our flashcards, a prepared folder, a JSON or JSONL file, or a hub id; may be repeated "
        "[assets/flashcards.jsonl]",
    )
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

    push = commands.add_parser("push", help="publish an evaluated adapter on the Hugging Face Hub")
    push.add_argument("--adapter", required=True, help="folder that train and evaluate wrote")
    push.add_argument("--repo", required=True, help="OWNER/NAME; it is created if it does not exist")
    push.add_argument("--private", action="store_true", help="only its owner may see the repository")
    push.add_argument("--channel", default="candidate", help="tag that is moved to the new commit [%(default)s]")
    push.add_argument("--base-id", metavar="OWNER/NAME", help="where the base can be had, for an adapter trained on a folder")
    push.add_argument("--licence", metavar="ID", help="licence of the base, where its repository states none")
    push.add_argument("--allow-regression", metavar="REASON", help="publish although a measure got worse; the card gives the reason")
    push.set_defaults(run=_push)

    approve = commands.add_parser("approve", help="make a published revision the one that apps open")
    approve.add_argument("--repo", required=True, help="OWNER/NAME")
    approve.add_argument("--revision", default="candidate", help="channel, tag or commit [%(default)s]")
    approve.set_defaults(run=_approve)

    rollback = commands.add_parser("rollback", help="withdraw what is approved and return to the approval before it")
    rollback.add_argument("--repo", required=True, help="OWNER/NAME")
    rollback.set_defaults(run=_rollback)

    export = commands.add_parser("export", help="write base and adapter as one model, for other programs")
    export.add_argument("--adapter", required=True, help="folder, or OWNER/NAME[@REVISION] of a Hub repository")
    export.add_argument(
        "--format", choices=["merged", "gguf"], default="merged", help="16-bit safetensors, or GGUF for llama.cpp and Ollama"
    )
    export.add_argument("--output", type=Path, help="folder to write into [outputs/NAME-merged]")
    export.add_argument("--llama-cpp", type=Path, metavar="FOLDER", help="llama.cpp's source folder, where its converter is")
    export.set_defaults(run=_export)

    args = parser.parse_args()
    prepare_environment()
    handler = logging.StreamHandler()
    handler.setLevel(logging.INFO)  # bm25s sets its own logger to DEBUG
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[handler])
    logging.getLogger("httpx").setLevel(logging.WARNING)
    from app.errors import UserError

    try:
        args.run(args)
    except UserError as error:
        logging.error("%s", error)
        sys.exit(1)


if __name__ == "__main__":
    main()
