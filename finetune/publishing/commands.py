"""The commands of this room: `python -m finetune push`, `approve`, `rollback` and `export`. Knows the command line alone."""

import argparse
import logging
from pathlib import Path
from typing import Any


def add(commands: Any) -> None:
    """Adds the parsers of this room to those of the command line."""
    push = commands.add_parser("push", help="publish an evaluated adapter on the Hugging Face Hub")
    push.add_argument("--adapter", required=True, help="folder that train and evaluate wrote")
    push.add_argument("--repo", required=True, help="OWNER/NAME; it is created if it does not exist")
    push.add_argument("--base", default="", metavar="FOLDER", help="where the base lies, if not where the adapter says")
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
    export.add_argument("--base", default="", metavar="FOLDER", help="where the base lies, if not where the adapter says")
    export.add_argument(
        "--format", choices=["merged", "gguf"], default="merged", help="16-bit safetensors, or GGUF for llama.cpp and Ollama"
    )
    export.add_argument("--output", type=Path, help="folder to write into [outputs/NAME-merged]")
    export.add_argument("--llama-cpp", type=Path, metavar="FOLDER", help="llama.cpp's source folder, where its converter is")
    export.set_defaults(run=_export)


def _push(args: argparse.Namespace) -> None:
    from finetune.publishing.publish import Options, push

    published = push(
        args.adapter, Options(args.repo, args.private, args.channel, args.base_id, args.licence, args.allow_regression or None, args.base)
    )
    logging.info("Published as commit %s, which `%s` points to now.\n%s", published.commit, args.channel, published.url)
    logging.info("Chat with it: python -m app --adapter %s@%s", args.repo, args.channel)
    logging.info("Give it to everybody: python -m finetune approve --repo %s --revision %s", args.repo, args.channel)


def _approve(args: argparse.Namespace) -> None:
    from finetune.publishing.card import compare
    from finetune.publishing.channels import approve, evaluation_at

    approved, proposed = (evaluation_at(args.repo, revision) for revision in ("approved", args.revision))
    logging.info("%s", compare(approved, proposed or {}))
    number, commit = approve(args.repo, args.revision)
    logging.info("approved-%d is commit %s, and `approved` points to it.", number, commit)


def _rollback(args: argparse.Namespace) -> None:
    from finetune.publishing.channels import rollback

    number, withdrawn, commit = rollback(args.repo)
    logging.info("%s", f"approved-{withdrawn} is withdrawn." if withdrawn else "A roll-back that was cut off is finished.")
    logging.info("`approved` points to approved-%d again, commit %s.", number, commit)


def _export(args: argparse.Namespace) -> None:
    from finetune.publishing.convert import export

    for line in export(args.adapter, args.format, args.output, args.llama_cpp, args.base):
        logging.info("%s", line)
