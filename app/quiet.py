"""What libraries say at every start and nobody can act on: left out by its exact words, each with the reason. Knows no library itself.

Whatever is not listed here is shown. What is ours to mend is mended where it comes from, and does not belong here.
"""

import logging
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import TextIO

# Seconds that a piece of work takes before a bar is drawn for it, by tqdm's own variable: the bars of quick work are only flicker.
BAR_SECONDS = "2"

# The logger that speaks, and what it says.
LOGGED = (
    # A kernel for 4-bit weights on a CPU, where no base is ever opened in 4 bits.
    ("bitsandbytes.backends.cpu.ops", r"Failed to load CPU gemm_4bit_forward from kernels-community"),
    # Llama 3's own tokenizer_config.json asks for it, and to ignore it is what everybody wants.
    ("transformers.tokenization_utils_tokenizers", r"Ignoring clean_up_tokenization_spaces=True for BPE tokenizer"),
    # The model in training is told which token ends an answer; the adapter's contract says so to whoever opens it.
    ("transformers.trainer_utils", r"The tokenizer has new PAD/BOS/EOS tokens that differ from the model config"),
    # Which layers were patched, and the banner of a run: sizes that our own lines and the progress bar tell.
    ("unsloth.models.llama", r"Unsloth \S+ patched \d+ layers with \d+ QKV layers, \d+ O layers and \d+ MLP layers\.$"),
    ("transformers.trainer", r"==\(\(====\)\)==  Unsloth"),
    # The template `medical` opens the answer with the question itself, so that there is nothing left to add for a prompt.
    ("transformers.models.llama.modeling_llama", r"Unsloth: The tokenizer `.*` does not have a \{% if add_generation_prompt %\} block"),
    # True of validation alone, where nothing is accumulated.
    ("unsloth_zoo.log", r"Unsloth: Not an error, but `num_items_in_batch` could not be counted"),
)

# What Unsloth prints: its greeting, and the device, which our own line tells. Warnings of its own have other words, and are shown.
PRINTED = (
    r".{0,2}Unsloth: Will patch your computer to enable 2x faster free finetuning\.",
    r"Unsloth \S+: no GPU found, training on CPU \(",
    r"Unsloth \(CPU\): \w+ on \d+ CPU threads\. dtype = ",
    r"==\(\(====\)\)==  Unsloth",
    r"   \\\\   /\|    ",
    r"O\^O/ \\_/ \\    ",
    r"\\        /    ",
    r' "-____-"     ',
    r"Unsloth: Will smartly offload gradients to save VRAM!",
    r".{0,2}Unsloth Zoo will now patch everything to make training faster!",
    r"Unsloth: compiling each transformer block as one region \(",
    r".{0,2}Unsloth: Padding-free (auto-)?enabled, enabling faster training\.",
)


def prepare() -> None:
    """Leaves out what is listed of the logs, and bars of quick work; before the libraries are imported."""
    os.environ.setdefault("TQDM_DELAY", BAR_SECONDS)
    for name, words in LOGGED:
        logger = logging.getLogger(name)
        if not any(isinstance(known, _Without) for known in logger.filters):
            logger.addFilter(_Without(words))


class _Without(logging.Filter):
    """Lets pass what does not begin with the words."""

    def __init__(self, words: str) -> None:
        super().__init__()
        self._words = re.compile(words)

    def filter(self, record: logging.LogRecord) -> bool:
        return not self._words.match(record.getMessage())


def ours_or_warnings(record: logging.LogRecord) -> bool:
    """A handler's filter: what we log at its level, and of libraries their warnings alone."""
    return record.levelno >= logging.WARNING or record.name.partition(".")[0] in ("root", "app", "finetune")


@contextmanager
def printed(words: Sequence[str] = PRINTED) -> Iterator[None]:
    """Leaves lines that begin with the words out of what is printed meanwhile, whole lines alone; other lines come as they are."""
    kept = _Lines(sys.stdout, re.compile("|".join(words)))
    with redirect_stdout(kept):
        try:
            yield
        finally:
            kept.close_line()


class _Lines:
    """A text stream that hands on whole lines, but for those that begin with certain words."""

    def __init__(self, stream: TextIO, words: re.Pattern[str]) -> None:
        self._stream, self._words, self._line = stream, words, ""

    def write(self, text: str) -> int:
        *lines, self._line = (self._line + text).split("\n")
        for line in lines:
            if not self._words.match(line):
                self._stream.write(line + "\n")
        return len(text)

    def close_line(self) -> None:
        """Hands on a line that has not ended."""
        if self._line and not self._words.match(self._line):
            self._stream.write(self._line)
        self._line = ""
        self._stream.flush()

    def flush(self) -> None:
        self._stream.flush()

    def __getattr__(self, name: str) -> object:  # isatty, encoding, fileno
        return getattr(self._stream, name)
