"""Measures what a CPU will find of an adapter whose base training quantised: the golden answer's NLL with the weights of the files.

    python -m finetune.training.unquantised ADAPTER BASE_FOLDER

Runs beside a training, in a process of its own, so that neither Unsloth nor the card is in it; knows adapters and not how they are trained.
"""

import logging
import subprocess
import sys
from pathlib import Path

from app.adapter import contract as contracts
from app.adapter.base import find_base
from app.adapter.behaviour import golden_nll
from app.adapter.directory import open_tokenizer
from app.engine.model import open_base, put_adapter
from app.errors import UserError

log = logging.getLogger(__name__)

SECONDS = 1800  # a base of 8 billion parameters on a slow disk and two cores


def measure(directory: Path, base: Path) -> float:
    """Opens an adapter as a CPU does, and adds to its contract how likely the golden answer is there.

    Args:
        directory: The adapter directory.
        base: The folder of its base.

    Returns:
        Mean NLL, nats per token.

    Raises:
        UserError: Adapter or base cannot be opened.
    """
    contract = contracts.read(directory)
    tokenizer = open_tokenizer(directory.name, directory, contract)
    folder, name, _ = find_base(contract, directory, "cpu", given=str(base))
    model = put_adapter(directory.name, directory, "default", open_base(contract, folder, name, "cpu"))
    nll = golden_nll(model, tokenizer, contract.golden_answer)
    contracts.save(contract.model_copy(update={"unquantised_nll": nll}), directory)
    return nll


def measure_beside(directory: Path, base: Path) -> None:
    """Runs `measure` in a process of its own where training quantised the base; where that fails, the contract states no figure."""
    if contracts.read(directory).base.quantisation is None:
        return
    log.info("Measuring the adapter on the 16-bit weights, as a CPU opens them.")
    command = [sys.executable, "-m", __name__, str(directory), str(base)]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
        failed = f"status {result.returncode}" if result.returncode else ""
    except subprocess.TimeoutExpired:
        failed = f"more than {SECONDS} seconds"
    if failed:
        log.warning("That failed (%s), so the contract does not say how the adapter does on a CPU.", failed)


if __name__ == "__main__":
    try:
        measure(Path(sys.argv[1]), Path(sys.argv[2]))
    except UserError as error:
        sys.exit(str(error))
