"""What a contract is checked by on a model: that the adapter changes it, and that both say what they said in training.

Knows models and tokenizers, but not where they come from and not who asks.
"""

import logging

import torch
from pydantic import BaseModel, ConfigDict
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from app.adapter import prompts
from app.adapter.contract import GOLDEN_ANSWER, GOLDEN_CONVERSATIONS, Contract
from app.errors import ContractViolation

log = logging.getLogger(__name__)

# How far the mean NLL of the golden answer (nats per token) may lie from the trained one. A 4-bit base was quantised, so serving
# it in 16 bits moves every logit a little; 16-bit formats differ from float32 by rounding alone.
NLL_TOLERANCE = {"float32": 0.02, "bfloat16": 0.1, "float16": 0.05, "4bit": 0.3}
# Relative change of the golden prompt's logits below which an adapter counts as inactive: a few units of rounding of each dtype.
NOISE = {"float32": 1e-5, "float16": 4e-3, "bfloat16": 2e-2}


class Probe(BaseModel):
    """What the check on load measured.

    Attributes:
        logit_change: ||on - off|| / ||off|| of the golden prompt's last logits.
        threshold: The change below which the adapter would count as inactive.
        nll: Mean NLL of the golden answer here, nats per token.
        trained_nll: The same in training.
        expected_nll: What it should be here: as in training, or as training measured it for weights that are not quantised.
        tolerance: Allowed difference of what is and what should be.
    """

    model_config = ConfigDict(frozen=True)
    logit_change: float
    threshold: float
    nll: float
    trained_nll: float
    expected_nll: float
    tolerance: float


@torch.inference_mode()
def golden_nll(model: torch.nn.Module, tokenizer: PreTrainedTokenizerBase, answer: str = GOLDEN_ANSWER) -> float:
    """Mean NLL of the golden answer and its EOS after the first golden prompt, nats per token."""
    messages = [*GOLDEN_CONVERSATIONS[0], {"role": "assistant", "content": answer}]
    encoded = torch.tensor(prompts.encode(tokenizer, messages), device=next(model.parameters()).device)
    ids, mask = encoded[:1], encoded[1:].bool()
    labels = torch.where(mask, ids, -100)
    return float(model(input_ids=ids, labels=labels, use_cache=False).loss)


def verify_behaviour(contract: Contract, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, serving_dtype: str) -> Probe:
    """Proves that the adapter changes the model, and that model and adapter together behave as in training.

    Args:
        contract: The adapter's contract.
        model: A PEFT model with the adapter active.
        tokenizer: Its tokenizer.
        serving_dtype: dtype of the weights here ("bfloat16", "float16", "float32"), or "4bit".

    Raises:
        ContractViolation: The adapter changes nothing, or the golden answer is not as likely as it was.
    """
    device = next(model.parameters()).device
    ids = torch.tensor([contract.golden[0].prompt_ids], device=device)
    with torch.inference_mode():
        on = model(input_ids=ids, use_cache=False).logits[0, -1].float()
        with model.disable_adapter():
            off = model(input_ids=ids, use_cache=False).logits[0, -1].float()
    change = float((on - off).norm() / off.norm())
    compute_dtype = str(model.dtype).removeprefix("torch.")
    threshold = NOISE.get(compute_dtype, NOISE["bfloat16"])
    if not change > threshold:  # also refuses NaN
        raise ContractViolation(
            f"The adapter does not change the model: the golden prompt's logits move by {change:.2e}, noise is up to {threshold:.0e}. "
            "Its weights are empty or do not belong to this base; train it again or choose another."
        )
    nll = golden_nll(model, tokenizer, contract.golden_answer)
    expected, tolerance = _expected_nll(contract, serving_dtype)
    if not abs(nll - expected) <= tolerance:
        raise ContractViolation(_other_behaviour(contract, nll, expected, tolerance, serving_dtype))
    probe = Probe(
        logit_change=change, threshold=threshold, nll=nll, trained_nll=contract.golden_nll, expected_nll=expected, tolerance=tolerance
    )
    if _unlike_training(contract, serving_dtype):
        log.warning(
            "The adapter was trained on its base in 4 bits and is opened on 16-bit weights: the golden answer's mean NLL is %.3f here "
            "and was %.3f in training. A GPU opens it as it was trained.",
            *(nll, contract.golden_nll),
        )
    return probe


def _unlike_training(contract: Contract, serving_dtype: str) -> bool:
    return contract.trained_dtype == "4bit" != serving_dtype


def _expected_nll(contract: Contract, serving_dtype: str) -> tuple[float, float]:
    """The golden answer's NLL with the weights that are served, and how far from it this machine's may lie."""
    serving = NLL_TOLERANCE.get(serving_dtype, 0.1)
    if _unlike_training(contract, serving_dtype) and contract.unquantised_nll is not None:
        return contract.unquantised_nll, max(NLL_TOLERANCE["bfloat16"], serving)
    return contract.golden_nll, max(NLL_TOLERANCE.get(contract.trained_dtype, 0.1), serving)


def _other_behaviour(contract: Contract, nll: float, expected: float, tolerance: float, serving_dtype: str) -> str:
    if _unlike_training(contract, serving_dtype) and contract.unquantised_nll is None:
        return (
            f"The adapter was trained on its base in 4 bits, and on the 16-bit weights the golden answer's mean NLL is {nll:.3f} instead "
            f"of {expected:.3f} (allowed difference {tolerance}). Open it on a GPU, as it was trained, or train it with load_in_4bit=false."
        )
    return (
        f"The model does not behave as in training: the golden answer's mean NLL is {nll:.3f} here and {expected:.3f} in the contract "
        f"(allowed difference {tolerance}). The base or the adapter weights differ; fetch both again."
    )
