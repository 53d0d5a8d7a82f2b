"""The commands of this room: `python -m finetune train`, `adopt` and `dashboard`. Knows the command line alone."""

import argparse
import logging
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from app import quiet
from app.errors import ConfigError
from finetune.data.commands import add_reading

EXAMPLE_QUESTION = "What are the common symptoms of diabetes?"


def add(commands: Any) -> None:
    """Adds the parsers of this room to those of the command line."""
    train = commands.add_parser("train", help="train a LoRA adapter with Unsloth")
    train.add_argument("--config", default="seed", help="preset (seed, fast, t4, demo) or a YAML file [%(default)s]")
    train.add_argument("--base", help="base model: a hub id or a folder")
    train.add_argument("--base-id", metavar="OWNER/NAME", help="hub id by which the adapter names a base that is a folder")
    train.add_argument("--data", help="data set: a hub id, a file, a folder with files of splits, or one of data prepare")
    add_reading(train)
    train.add_argument("--output", help="folder to write the adapter into")
    train.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override one key of the configuration; may be repeated"
    )
    train.add_argument("--ship-cards", action="store_true", help="put the cards into the adapter directory, if their licence allows it")
    train.add_argument("--resume", action="store_true", help="go on from the last checkpoint of --output")
    train.set_defaults(run=_train)

    adopt = commands.add_parser("adopt", help="make an adapter directory of a LoRA trained elsewhere, or of a checkpoint")
    adopt.add_argument("directory", metavar="DIR", help="folder that PEFT, TRL, Unsloth or axolotl saved; it stays as it is")
    adopt.add_argument("--template", help="prompt format that it was trained with: native, medical or llama3; known of our own checkpoints")
    adopt.add_argument("--base", help="base model, a hub id or a folder [the one that it names]")
    adopt.add_argument("--base-id", metavar="OWNER/NAME", help="hub id by which it names a base that is a folder")
    adopt.add_argument("--output", type=Path, help="folder to write into [outputs/NAME]")
    adopt.add_argument("--max-length", type=int, metavar="TOKENS", help="tokens that prompt and answer may have together [1024]")
    adopt.set_defaults(run=_adopt)

    dashboard = commands.add_parser("dashboard", help="watch runs that were started with report_to=trackio, on this machine alone")
    dashboard.add_argument("--port", type=int, default=7861, help="port on 127.0.0.1 [%(default)s]")
    dashboard.add_argument("--no-browser", action="store_true", help="open no browser")
    dashboard.set_defaults(run=_dashboard)


def _train(args: argparse.Namespace) -> None:
    from finetune.config import load_config

    config = load_config(args.config, _overrides(args))
    if os.environ.get("RANK", "0") != "0":  # torchrun starts one process a card; the first one talks
        logging.getLogger().setLevel(logging.ERROR)
    logging.info("%s", "\n".join(f"  {key}: {value}" for key, value in config.model_dump().items()))
    try:
        with quiet.printed():
            # The first import of this process that brings transformers: Unsloth, which it begins with, patches what comes after it.
            from finetune.training import train as training

            output = training.train(config, resume=args.resume)
    except KeyboardInterrupt:
        from finetune.training.checkpoints import last_checkpoint

        kept = last_checkpoint(Path(config.output))
        logging.info(
            "\nStopped. %s", f"{kept} is kept: go on with the same command and --resume." if kept else "No checkpoint had been written yet."
        )
        sys.exit(130)
    if not training.checkpoints.is_first_process():
        return
    logging.info("\nThe adapter is in %s. It answers, opened without Unsloth:\n\n  %s", output, EXAMPLE_QUESTION)
    # Another process, so that the answer comes from the files and from unpatched libraries; not one of torchrun's.
    environment = {key: value for key, value in os.environ.items() if key not in ("RANK", "LOCAL_RANK", "WORLD_SIZE")}
    base = ["--base", config.base] if training.adapter.must_be_named(output, config.base) else []
    command = [sys.executable, "-m", "finetune", "ask", "--adapter", str(output), *base, EXAMPLE_QUESTION]
    code = subprocess.run(command, env=environment, check=False).returncode
    logging.info("\nChat with it in a browser: python -m app %s", shlex.join(["--adapter", str(output), *base]))
    sys.exit(code)


def _overrides(args: argparse.Namespace) -> dict[str, Any]:
    """What the command line sets, by flags of their own and by --set alike; two different values for one key are an error."""
    from finetune.config import parse_assignments

    values = parse_assignments(args.set)
    keys = ("base", "base_id", "data", "output", "columns", "encoding", "max_dropped")
    flags = {key: getattr(args, key) for key in keys} | {"ship_cards": args.ship_cards or None}
    for key, value in flags.items():
        if value is not None and values.setdefault(key, value) != value:
            flag = key.replace("_", "-")
            raise ConfigError(f"--{flag} {value} and --set {key}={values[key]} contradict each other. Give one of them.")
    return values


def _adopt(args: argparse.Namespace) -> None:
    from finetune.training.adapter import must_be_named
    from finetune.training.adopt import Options, adopt

    output = adopt(args.directory, Options(args.template, args.base, args.base_id, args.output, args.max_length))
    base = ["--base", args.base] if args.base and must_be_named(output, args.base) else []
    logging.info("The adapter is in %s. Chat with it: python -m app %s", output, shlex.join(["--adapter", str(output), *base]))


def _dashboard(args: argparse.Namespace) -> None:
    from app.settings import ROOT

    os.environ.setdefault("TRACKIO_DIR", str(ROOT / "outputs" / "trackio"))
    import trackio

    from finetune.config import PROJECT

    trackio.show(project=PROJECT, open_browser=not args.no_browser, server_port=args.port)
