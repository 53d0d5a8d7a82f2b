"""What libraries say at every start is left out by its exact words, and nothing else is."""

import logging
import sys

import pytest

from app import quiet

UNSLOTHS_BANNER = """\
==((====))==  Unsloth 2026.10.9: Fast Llama patching. Transformers: 5.17.0.
   \\\\   /|    A card. Num GPUs = 1. Max memory: 79.1 GB. Platform: Linux.
O^O/ \\_/ \\    Torch: 2.13.0. CUDA: 9.0. Triton: 3.5.0
\\        /    Bfloat16 = TRUE. FA [Xformers = None. FA2 = False]
 "-____-"     Free license: http://github.com/unslothai/unsloth
"""


def test_a_greeting_is_left_out_and_what_is_said_beside_it_comes_whole(capsys: pytest.CaptureFixture[str]) -> None:
    with quiet.printed():
        for said in (UNSLOTHS_BANNER, "Unsloth: this model already has LoRA adapters.\n", "step 2: ", "validation loss 1.5\n", "no end"):
            sys.stdout.write(said)
    assert capsys.readouterr().out == "Unsloth: this model already has LoRA adapters.\nstep 2: validation loss 1.5\nno end"


def test_what_was_printed_before_a_failure_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyError), quiet.printed():
        sys.stdout.write("half a line")
        raise KeyError("x")
    assert capsys.readouterr().out == "half a line"


def test_a_librarys_log_is_shown_but_for_the_words_on_the_list(caplog: pytest.LogCaptureFixture) -> None:
    quiet.prepare()
    quiet.prepare()  # as app and finetune in one process
    logger = logging.getLogger("bitsandbytes.backends.cpu.ops")
    assert len(logger.filters) == 1
    with caplog.at_level(logging.WARNING):
        logger.warning("Failed to load CPU gemm_4bit_forward from kernels-community: %s.", "no module")
        logger.warning("Failed to load the weights")
    assert caplog.messages == ["Failed to load the weights"]


def test_of_libraries_the_warnings_alone_are_shown() -> None:
    def shown(name: str, level: int) -> bool:
        return quiet.ours_or_warnings(logging.LogRecord(name, level, "", 0, "text", None, None))

    assert [shown(name, logging.INFO) for name in ("root", "app.hub", "finetune.data", "datasets.config", "application")] == [
        *(True, True, True, False, False)
    ]
    assert shown("datasets.config", logging.WARNING)
