"""The bytes of a file, unpacked, and their text in the encoding that the file itself states. Never guesses among alphabets."""

import codecs
import gzip
import re
import zlib
from pathlib import Path

from app.errors import DataError

# Marks at the beginning that state an encoding; the longer ones first, because one is the beginning of another.
_MARKS = [
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
]
# A first line such as "# -*- coding: windows-1252 -*-", as editors and Python (PEP 263) read it.
_STATED = re.compile(rb"^(?:#|//).*?(?:coding|charset)[:=]\s*([-\w.]+)[^\n]*\n")
GZIP = b"\x1f\x8b"


def read_bytes(path: Path) -> bytes:
    """The content of a file, unpacked where it is gzip, whatever its name.

    Raises:
        DataError: It cannot be read or unpacked.
    """
    try:
        data = path.read_bytes()
        return gzip.decompress(data) if data.startswith(GZIP) else data
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path} is a damaged gzip file ({type(error).__name__}). Fetch or pack it again.") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}). Check the path and its permissions.") from error


def decode(data: bytes, path: Path, encoding: str | None = None) -> str:
    """The text of a file: UTF-8, or what a byte order mark, a first line or the user states.

    Args:
        data: Its bytes.
        path: Its name, for messages.
        encoding: What the user says, by Python's name; it goes before what the file says.

    Raises:
        DataError: The bytes are no text of that encoding, or there is no such encoding.
    """
    stated = _STATED.match(data)
    name = encoding or next((name for mark, name in _MARKS if data.startswith(mark)), None)
    if name is None and stated:
        name, data = stated[1].decode("ascii"), data[stated.end() :]
    name = name or _utf_16(data) or "utf-8"
    try:
        return data.decode(name)
    except LookupError as error:
        raise DataError(f"There is no encoding {name!r}. Give one such as utf-8, utf-16 or windows-1252.") from error
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        cure = (
            f"Give its true encoding with --encoding, or save {path.name} as UTF-8."
            if encoding
            else "Older spreadsheets save Windows-1252: save it as UTF-8, or say --encoding windows-1252."
        )
        raise DataError(f"{path} is not {name.upper()} text (byte {error.start}, line {line}). {cure}") from error


def _utf_16(data: bytes) -> str | None:
    """UTF-16 without a mark: every second byte of its ASCII part is zero, which no other text has."""
    start = data[:200]
    if start[1::2].count(0) > len(start) / 4 and not start[::2].count(0):
        return "utf-16-le"
    return "utf-16-be" if start[::2].count(0) > len(start) / 4 and not start[1::2].count(0) else None
