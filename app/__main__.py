"""Starts the chat: `python -m app [serve] [--adapter PATH_OR_REPO] [--base FOLDER] [--host 127.0.0.1] [--port 7860]`.

`python -m app replay FILE [--adapter PATH_OR_REPO]` makes the answers of a saved conversation again and says where they differ.
`python -m app cost --price-per-hour X --currency EUR --as-of DATE` measures the speed and says what 1,000 answers cost.

`python -m app deploy check|plan|apply|status|logs|down` runs the app on a Hugging Face Space, as spaces.yaml says.

Also runs by path, `python app/__main__.py`, as Hugging Face Spaces does.
"""

if not __package__:  # run by path: only this folder is on sys.path, and its modules must not shadow others
    import pathlib
    import sys

    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[1])

import argparse
import errno
import logging
import os
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from app import prepare_environment
from app.errors import ConfigError, UserError, of_system
from app.logs import configure
from app.settings import ROOT, Settings, load_settings

log = logging.getLogger("app")

# Settings that the command line sets, too.
OPTIONS = {"adapter": "--adapter", "base_folder": "--base", "more_adapters": "--more-adapters", "host": "--host", "port": "--port"}


def parser() -> argparse.ArgumentParser:
    """The command line; its help comes from the settings."""
    result = argparse.ArgumentParser(prog="python -m app", description="Chat in a browser with a fine-tuned model.")
    result.add_argument(
        "command", nargs="?", choices=["serve", "replay", "cost", "deploy"], default="serve", help="what to do; serve is the default"
    )
    result.add_argument(
        "argument",
        nargs="?",
        metavar="FILE|ACTION",
        help="for replay: a conversation that the page saved as JSON; for deploy: check, plan, apply, status, logs or down",
    )
    result.add_argument("--config", type=Path, metavar="FILE", help="for deploy: the deployment file. Default: spaces.yaml.")
    result.add_argument("--renew-secrets", action="store_true", help="for deploy: set secrets again that the Space has already.")
    group = result.add_argument_group("cost")
    group.add_argument("--price-per-hour", type=float, metavar="PRICE", help="what the machine costs an hour, as you looked it up")
    group.add_argument("--currency", help="of that price, such as EUR")
    group.add_argument("--as-of", metavar="DATE", help="the day on which you looked it up, such as 2026-11-22")
    group.add_argument("--tokens-per-second", type=float, metavar="N", help="a speed measured elsewhere; measured here when left out")
    group.add_argument("--tokens-per-answer", type=float, metavar="N", help="goes with --tokens-per-second")
    for name, option in OPTIONS.items():
        field = Settings.model_fields[name]
        default = f" Default: {field.default}." if field.default != "" else ""
        result.add_argument(option, dest=name, metavar=name.rpartition("_")[2].upper(), help=f"{field.description}{default}")
    return result


def listen(host: str, port: int) -> socket.socket:
    """Takes the address before anything slow begins, so that a port in use is known at once and an early browser just waits.

    Raises:
        ConfigError: The address cannot be had.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=128)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ConfigError(f"Port {port} of {host} is in use. Stop the program that uses it, or choose another with --port.") from error
        reason = error.strerror or type(error).__name__
        raise ConfigError(f"Cannot listen on {host}, port {port}: {reason}. Choose another address with --host and --port.") from error


def address(host: str, port: int) -> str:
    """The address that a browser on this machine opens."""
    name = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104 - compared, not bound
    return f"http://{name}:{port}"


def replay(settings: Settings, file: str | None) -> int:
    """Makes the answers of a saved conversation again.

    Returns:
        The exit status: 0 when every answer came out the same, 1 when one differs.

    Raises:
        ConfigError: No file was named.
        UserError: The file is no record, or the adapter cannot be opened.
    """
    if not file:
        raise ConfigError("replay needs the JSON file that the page saved: python -m app replay medical-qa.json.")
    from app.conversation import record

    saved = record.read(Path(file))
    if not record.same_adapter(saved, settings.adapter):
        log.warning("The record was made with another adapter than %s; name it with --adapter to compare like with like.", settings.adapter)
    from app.web.server import build_chat

    generator = build_chat(settings).generator
    try:
        generator.wait_until_ready()
        same = True
        for sentence, equal in record.replay(saved, generator):
            log.info("%s", sentence)
            same = same and equal
        return 0 if same else 1
    finally:
        generator.close()


def cost(settings: Settings, options: dict[str, Any]) -> int:
    """Says what answers cost, at the price that was entered and a speed that was entered or is measured now.

    Raises:
        UserError: The price is incomplete, or the adapter cannot be opened.
    """
    from app.space import cost as costs

    price = costs.read_price(options["price_per_hour"], options["currency"], options["as_of"])
    speed = costs.read_speed(options["tokens_per_second"], options["tokens_per_answer"])
    if speed is None:
        from app.web.server import build_chat

        generator = build_chat(settings).generator
        try:
            generator.wait_until_ready()
            speed = costs.measure(generator)
        finally:
            generator.close()
    for sentence in costs.report(price, speed):
        log.info("%s", sentence)
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
        arguments: The command line without the program; `sys.argv` when None.

    Returns:
        The exit status: 0 at a normal end, 1 after an error that was logged as one sentence, 130 after Ctrl-C.
    """
    options = vars(parser().parse_args(arguments))
    prepare_environment()
    configure("text")
    try:
        if options["command"] == "deploy":
            from app.space import deploy

            return deploy.run(options["argument"], options["config"] or ROOT / "spaces.yaml", options["renew_secrets"])
        settings = load_settings(**{name: options[name] for name in OPTIONS})
        configure(settings.log_format)
        if options["command"] == "replay":
            return replay(settings, options["argument"])
        if options["command"] == "cost":
            return cost(settings, options)
        if os.environ.get("SPACE_ID"):
            from app.web.server import serve_on_space

            return serve_on_space(settings)
        with listen(settings.host, settings.port) as listener:
            log.info("Open %s in a browser. Ctrl-C ends the server.", address(settings.host, listener.getsockname()[1]))
            from app.web.server import serve

            return serve(settings, listener)
    except UserError as error:
        log.error("%s", error)
        return 1
    except OSError as error:
        log.error("%s", of_system(error))
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    raise SystemExit(main())
