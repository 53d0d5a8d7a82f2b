"""Log lines: plain sentences for a person at a terminal, or one JSON object a line for a machine (`LOG_FORMAT=json`).

Never holds a word of a chat: our own messages have none, and of an exception its kind and stack are written, not its message.
"""

import json
import logging
import re
import secrets
import traceback
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

# The id of the request that is being served; what is logged meanwhile carries it.
request_id: ContextVar[str] = ContextVar("request_id", default="")

ID_HEADER = "X-Request-ID"

# One line for each request and answer: of use to a machine, noise to a person.
EACH = "app.each"
OURS = "medical-qa"  # the name of our handler

# A proxy's own ids are taken over so that its log and ours can be laid side by side. Hexadecimal ones alone: words could be a chat's.
_ID = re.compile(r"[0-9a-fA-F-]{8,64}")


def new_request_id(given: str = "") -> str:
    """The id that a request came with, where it is a hexadecimal number or a UUID; else a new one."""
    return given if _ID.fullmatch(given) else secrets.token_hex(16)


class JsonLines(logging.Formatter):
    """One JSON object a record: time, level, logger, message, the request's id, and what `extra={"facts": {...}}` adds."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        fields: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if known := getattr(record, "request_id", "") or request_id.get():
            fields["request_id"] = known
        fields |= getattr(record, "facts", {})
        if record.exc_info and record.exc_info[0]:
            fields["exception"] = record.exc_info[0].__name__
            fields["stack"] = "".join(traceback.format_tb(record.exc_info[2]))
        return json.dumps(fields, ensure_ascii=False, default=str)


def configure(style: str) -> None:
    """Sends the log to the standard error stream, unless somebody else has said where it goes; may be called again.

    Args:
        style: "text" or "json".
    """
    root = logging.getLogger()
    if not root.handlers:
        ours = logging.StreamHandler()
        ours.name = OURS
        ours.setLevel(logging.INFO)  # bm25s sets its own logger to DEBUG
        root.addHandler(ours)
    for handler in root.handlers:
        if handler.name == OURS:
            handler.setFormatter(JsonLines() if style == "json" else logging.Formatter("%(message)s"))
    logging.getLogger("app").setLevel(logging.INFO)  # ours alone: other libraries log requests with their addresses at this level
    logging.getLogger(EACH).setLevel(logging.INFO if style == "json" else logging.WARNING)
