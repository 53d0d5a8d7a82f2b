"""Writes the tokens of one answer: by the decoder, or by the library's own loop. Knows no queue and no thread."""

from collections.abc import Callable
from contextlib import closing, nullcontext

import torch
from transformers import (
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    StoppingCriteriaList,
    TemperatureLogitsWarper,
    TopPLogitsWarper,
)

from app.engine.answer import Answer, GenerationRequest, StopWhen, Streamer
from app.engine.decoder import Decoder
from app.engine.model import LoadedModel


def write(loaded: LoadedModel, answer: Answer, ids: torch.Tensor, most: int, streamer: Streamer, stop: StopWhen) -> int:
    """Writes an answer into its streamer, the adapter on or off as the request says.

    Args:
        loaded: The open model.
        answer: What is asked, and with which seed.
        ids: Prompt, (1, T) int64 on the model's device.
        most: Tokens that the answer may have.
        streamer: Takes the prompt, then each token.
        stop: Says after each token whether to stop.

    Returns:
        The last token.
    """
    if loaded.decoder is None:
        return _with_the_model(loaded, answer, ids, most, streamer, stop)
    return _with_the_decoder(loaded, loaded.decoder, answer, ids, most, streamer, stop)


def _with_the_decoder(
    loaded: LoadedModel, decoder: Decoder, answer: Answer, ids: torch.Tensor, most: int, streamer: Streamer, stop: StopWhen
) -> int:
    """The lean way: one captured graph a token on a CUDA card. Returns the last token."""
    decoder.use(loaded.adapter_name if answer.request.use_adapter else None)
    streamer.put(ids)
    token = -1
    with closing(decoder.tokens(ids[0], _chooser(answer.request, answer.seed, decoder.device), most)) as tokens:
        for token in tokens:
            ended = stop.after_token() or token in loaded.contract.eos_token_ids
            streamer.write(token)
            if ended:
                break
    streamer.end()
    return token


def _with_the_model(loaded: LoadedModel, answer: Answer, ids: torch.Tensor, most: int, streamer: Streamer, stop: StopWhen) -> int:
    """The library's own way, for models that the decoder does not know or has no room for. Returns the last token."""
    request, model = answer.request, loaded.model
    sampling = (
        {"do_sample": True, "temperature": request.temperature, "top_p": request.top_p, "top_k": 0}
        if request.temperature > 0
        else {"do_sample": False}
    )
    torch.manual_seed(answer.seed)
    if model.active_adapter != loaded.adapter_name:
        model.set_adapter(loaded.adapter_name)
    with nullcontext() if request.use_adapter else model.disable_adapter():
        output = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            streamer=streamer,
            stopping_criteria=StoppingCriteriaList([stop]),
            max_new_tokens=most,
            repetition_penalty=request.repetition_penalty,
            eos_token_id=loaded.contract.eos_token_ids,
            pad_token_id=loaded.tokenizer.pad_token_id,
            **sampling,
        )
    return int(output[0, -1])


def _chooser(request: GenerationRequest, seed: int, device: torch.device) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """Picks the next token, (1,) int64, from the tokens so far, (1, T) int64, and the logits, (1, V) float32, as `generate` would.

    Its random numbers come from a generator of its own, so that nothing else that draws some changes an answer.
    """
    processors = LogitsProcessorList()
    if request.repetition_penalty != 1.0:
        processors.append(RepetitionPenaltyLogitsProcessor(float(request.repetition_penalty)))
    if request.temperature == 0:
        return lambda ids, logits: processors(ids, logits).argmax(-1)
    processors.append(TemperatureLogitsWarper(float(request.temperature)))
    if request.top_p < 1.0:
        processors.append(TopPLogitsWarper(request.top_p))
    generator = torch.Generator(device).manual_seed(seed)
    return lambda ids, logits: torch.multinomial(processors(ids, logits).softmax(-1), 1, generator=generator)[0]
