"""Command line of the training side: `python -m finetune data|train|adopt|dashboard|ask|evaluate|push|approve|rollback|export`."""

import argparse
import logging
import sys

from app import prepare_environment, quiet
from finetune.data import commands as data
from finetune.evaluation import commands as evaluation
from finetune.publishing import commands as publishing
from finetune.training import commands as training


def main() -> None:
    """Parses the command line, runs a command, and turns errors that a person can act on into one line and exit code 1."""
    parser = argparse.ArgumentParser(prog="python -m finetune", description="From medical questions to a LoRA adapter.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for room in (data, training, evaluation, publishing):
        room.add(commands)
    args = parser.parse_args()
    prepare_environment()
    handler = logging.StreamHandler()
    handler.setLevel(logging.INFO)  # bm25s sets its own logger to DEBUG
    handler.addFilter(quiet.ours_or_warnings)
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[handler])
    from app.errors import UserError, of_system

    try:
        args.run(args)
    except UserError as error:
        logging.error("%s", error)
        sys.exit(1)
    except OSError as error:
        logging.error("%s", of_system(error))
        sys.exit(1)


if __name__ == "__main__":
    main()
