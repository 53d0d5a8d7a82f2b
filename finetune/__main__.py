"""Command line of the training side: `python -m finetune train|ask|evaluate`."""

import argparse
import logging
import subprocess
import sys
from pathlib import Path

from app import prepare_environment

EXAMPLE_QUESTION = "What are the common symptoms of diabetes?"


def _train(args: argparse.Namespace) -> None:
    from finetune.config import load_config, parse_assignments

    overrides = parse_assignments(args.set) | {key: getattr(args, key) for key in ("base", "data", "output")}
    config = load_config(args.config, overrides)
    logging.info("%s", "\n".join(f"  {key}: {value}" for key, value in config.model_dump().items()))
    try:
        from finetune.train import last_checkpoint, train

        output = train(config, resume=args.resume)
    except KeyboardInterrupt:
        kept = last_checkpoint(Path(config.output))
        logging.info(
            "\nStopped. %s", f"{kept} is kept: go on with the same command and --resume." if kept else "No checkpoint had been written yet."
        )
        sys.exit(130)
    logging.info("\nThe adapter is in %s. It answers, opened without Unsloth:\n\n  %s", output, EXAMPLE_QUESTION)
    # Another process, so that the answer comes from the files and from unpatched libraries.
    code = subprocess.run([sys.executable, "-m", "finetune", "ask", "--adapter", str(output), EXAMPLE_QUESTION], check=False).returncode
    logging.info("\nChat with it in a browser: python -m app --adapter %s", output)
    sys.exit(code)


def _ask(args: argparse.Namespace) -> None:
    from app.generation import GenerationRequest, LocalGenerator
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
    from finetune.evaluate import evaluate, write

    write(evaluate(args.adapter, args.cards, args.limit), args.output or Path(args.adapter) / "evaluation.json")


def main() -> None:
    """Parses the command line, runs a command, and turns errors that a person can act on into one line and exit code 1."""
    parser = argparse.ArgumentParser(prog="python -m finetune", description="From medical questions to a LoRA adapter.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    train = commands.add_parser("train", help="train a LoRA adapter with Unsloth")
    train.add_argument("--config", default="seed", help="preset (seed, demo) or a YAML file [%(default)s]")
    train.add_argument("--base", help="base model: a hub id or a folder")
    train.add_argument("--data", help="data set: a hub id, or a JSON or JSONL file")
    train.add_argument("--output", help="folder to write the adapter into")
    train.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override one key of the configuration; may be repeated"
    )
    train.add_argument("--resume", action="store_true", help="go on from the last checkpoint of --output")
    train.set_defaults(run=_train)

    ask = commands.add_parser("ask", help="ask an adapter one question")
    ask.add_argument("--adapter", required=True, help="folder, or OWNER/NAME[@REVISION] of a Hub repository")
    ask.add_argument("--base", action="store_true", help="answer with the adapter switched off")
    ask.add_argument("--max-new-tokens", type=int, default=200, help="tokens the answer may have [%(default)s]")
    ask.add_argument("question")
    ask.set_defaults(run=_ask)

    evaluate = commands.add_parser("evaluate", help="measure an adapter on flashcards, adapter on against off")
    evaluate.add_argument("--adapter", required=True, help="folder, or OWNER/NAME[@REVISION] of a Hub repository")
    evaluate.add_argument("--cards", type=Path, default=Path("assets/flashcards.jsonl"), help="flashcards with rewordings [%(default)s]")
    evaluate.add_argument("--limit", type=int, help="only N cards, drawn by a fixed seed")
    evaluate.add_argument("--output", type=Path, help="where to write the report [ADAPTER/evaluation.json]")
    evaluate.set_defaults(run=_evaluate)

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
