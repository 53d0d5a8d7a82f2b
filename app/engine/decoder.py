"""Llama's forward pass for one conversation at a time, written for the speed of a single token.

A `Decoder` keeps a second copy of the layers' weights - those that read the same input side by side, the adapter merged into
them - and a key-value cache of fixed length. On a CUDA card a token is one launch of a graph that was captured at load, and so
is a prompt, at a few fixed lengths; switching the adapter refills the copy in place, so that the graphs stay as they are. The
model itself is left untouched: `use(None)` copies its own weights, 4-bit ones as the 16-bit values that they stand for.

Knows one model; nothing of requests, text or threads. Must always be called from the same thread.
"""

import logging
from collections.abc import Callable, Generator
from functools import cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from torch import Tensor
from transformers import LlamaForCausalLM

log = logging.getLogger(__name__)

# Lengths of a prompt, in tokens, for which graphs are captured: a prompt is padded to the next one, or cut into pieces of the longest.
PROMPT_LENGTHS = (512, 256, 128, 64, 32)
# Bytes that a merged copy may have on a CPU: a small model gains from it, a large one is bound by memory either way.
CPU_COPY_BYTES = 2**30
# Part of a card's free memory that merged copy and cache may take; the rest is for graphs, the first pass and other programs.
CUDA_SHARE = 0.8

Choose = Callable[[Tensor, Tensor], Tensor]


class _Layer(NamedTuple):
    """Merged weights, (out, in), norms, and the cache, (2, key-value heads, slots, head size): keys and values."""

    qkv: Tensor
    out: Tensor
    gate_up: Tensor
    down: Tensor
    norm1: Tensor
    norm2: Tensor
    cache: Tensor


class _Graph(NamedTuple):
    """A captured pass over a fixed number of tokens, and the tensors that it reads."""

    graph: Any
    ids: Tensor
    positions: Tensor
    last: Tensor


def supports(model: Any) -> str | None:
    """Why there can be no decoder for a model with its adapters, or None when there can be one."""
    llama = model.get_base_model()
    config = llama.config
    if type(llama) is not LlamaForCausalLM or config.hidden_act != "silu" or config.attention_bias or config.mlp_bias:
        return f"it is a {type(llama).__name__} of another make"
    kinds = {kind for layer in _lora_layers(model) for kind in layer.lora_variant.values()}
    outside = [name for name, module in llama.named_modules() if isinstance(module, LoraLayer) and ".layers." not in f".{name}."]
    if kinds or outside or any(any(layer.lora_bias.values()) for layer in _lora_layers(model)):
        return "its adapter is more than LoRA on the projections"
    more = ("modules_to_save", "trainable_token_indices", "target_parameters")
    if any(getattr(config_, name) for config_ in model.peft_config.values() for name in more):
        return "its adapter brings layers or tokens of its own"
    return None


def lacks_room(model: Any) -> str | None:
    """Why a decoder's copy of a model's weights would not fit here, or None when it would."""
    llama = model.get_base_model()
    cuda = llama.device.type == "cuda"
    needed, room = _copy_bytes(llama), CUDA_SHARE * torch.cuda.mem_get_info(llama.device)[0] if cuda else CPU_COPY_BYTES
    return f"a copy of {needed / 2**30:.1f} GiB has no room" if needed > room else None


def _lora_layers(model: Any) -> list[LoraLayer]:
    return [module for module in model.modules() if isinstance(module, LoraLayer)]


def _copy_bytes(llama: Any) -> int:
    """Bytes of the merged projections of all layers."""
    config = llama.config
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    attention = 2 * (config.num_attention_heads + config.num_key_value_heads) * size * config.hidden_size
    return config.num_hidden_layers * (attention + 3 * config.hidden_size * config.intermediate_size) * llama.dtype.itemsize


@cache
def _side_stream(device: torch.device) -> Any:
    """The one stream that graphs are captured on: cuBLAS keeps 32 MiB of work space for each stream that it has seen."""
    return torch.cuda.Stream(device)


def _dequantised(layer: Any) -> Tensor:
    """A projection's weight, (out, in), without its adapter; of a 4-bit one the values that it stands for."""
    weight = (layer.get_base_layer() if isinstance(layer, LoraLayer) else layer).weight
    state = getattr(weight, "quant_state", None)
    if state is None:
        return weight
    from bitsandbytes.functional import dequantize_4bit  # of use only where there are 4-bit weights: on a CUDA card

    return dequantize_4bit(weight.data, state)


def _layer_pass(
    x: Tensor,
    layer: _Layer,
    at: tuple[Tensor, Tensor, Tensor],
    mask: Tensor | None,
    slots: int,
    eps: float,
) -> Tensor:
    """One layer.

    Args:
        x: (T, H).
        layer: Its weights and cache.
        at: Positions (T,) int64, and cosines and sines for them, (T, 1, D).
        mask: (heads per key-value head x T, slots) bool, True where a token may look; None: everywhere.
        slots: Slots of the cache to look at.
        eps: Of the norms.

    Returns:
        (T, H).
    """
    positions, cos, sin = at
    tokens, (_, heads, _, size) = x.shape[0], layer.cache.shape
    qkv = F.linear(F.rms_norm(x, x.shape[-1:], layer.norm1, eps), layer.qkv).view(tokens, -1, size)
    qk, v = qkv[:, :-heads], qkv[:, -heads:]
    qk = qk * cos + torch.cat((-qk[..., size // 2 :], qk[..., : size // 2]), -1) * sin
    layer.cache.index_copy_(2, positions, torch.stack((qk[:, -heads:], v)).transpose(1, 2))
    # All query heads that share a key-value head are queries of it, so nothing is repeated.
    q = qk[:, :-heads].view(tokens, heads, -1, size).permute(1, 2, 0, 3)
    keys, values = layer.cache[:, None, :, :slots]
    y = F.scaled_dot_product_attention(q.flatten(1, 2)[None], keys, values, attn_mask=mask)
    x = x + F.linear(y.view(q.shape).permute(2, 0, 1, 3).reshape(tokens, -1), layer.out)
    gate, up = F.linear(F.rms_norm(x, x.shape[-1:], layer.norm2, eps), layer.gate_up).chunk(2, -1)
    return x + F.linear(F.silu(gate) * up, layer.down)


class Decoder:
    """See the top of the file.

    Args:
        model: A Llama with LoRA adapters, for which `supports` says None.
        length: Tokens that a conversation may have.
        origin: Name and revision of the base.

    Attributes:
        with_kernels: Whether a token is made by `app.kernels`; else by PyTorch's, which are slower.
    """

    def __init__(self, model: PeftModel, length: int, origin: tuple[str, str | None] = ("", None)) -> None:
        llama: Any = model.get_base_model()
        config = llama.config
        self.model = model
        self.length = length
        self.origin = origin
        self.device, self.dtype = llama.device, llama.dtype
        self._embedding, self._norm, self._head = llama.model.embed_tokens.weight, llama.model.norm.weight, llama.lm_head.weight
        self._eps = config.rms_norm_eps
        self._group = config.num_attention_heads // config.num_key_value_heads
        slots = -(-(length + 1) // 64) * 64  # at least one more than tokens: padding is written to the last one
        self._slots = torch.arange(slots, device=self.device)
        cos, sin = llama.model.rotary_emb(self._embedding, self._slots[None])
        self._cos, self._sin = cos[0, :, None].contiguous(), sin[0, :, None].contiguous()
        self._parts: list[tuple[Tensor, Any]] = []  # rows of a merged weight, and the layer of the model that they come from
        self._layers = []
        for layer in llama.model.layers:
            attention, mlp = layer.self_attn, layer.mlp
            self._layers.append(
                _Layer(
                    self._merged(attention.q_proj, attention.k_proj, attention.v_proj),
                    self._merged(attention.o_proj),
                    self._merged(mlp.gate_proj, mlp.up_proj),
                    self._merged(mlp.down_proj),
                    layer.input_layernorm.weight,
                    layer.post_attention_layernorm.weight,
                    torch.zeros(2, config.num_key_value_heads, slots, cos.shape[-1], device=self.device, dtype=self.dtype),
                )
            )
        self._adapter: str | None = ""  # nothing has been merged yet
        self._graphs: dict[int, _Graph] = {}
        self.with_kernels = False
        self._work: Any = None
        self._logits = torch.zeros(1, config.vocab_size, device=self.device, dtype=self.dtype)

    def _merged(self, *sources: Any) -> Tensor:
        rows = [source.out_features for source in sources]
        weight = torch.empty(sum(rows), sources[0].in_features, device=self.device, dtype=self.dtype)
        self._parts += zip(weight.split(rows), sources, strict=True)
        return weight

    @property
    def nbytes(self) -> int:
        """Bytes of the copy of the weights and of the cache."""
        return sum(tensor.nbytes for layer in self._layers for tensor in (*layer[:4], layer.cache))

    @torch.inference_mode()
    def use(self, adapter: str | None) -> None:
        """Has an adapter of the model answer from now on, or with None the base alone, exactly as it is; nothing if it does already."""
        if adapter == self._adapter:
            return
        self._adapter = ""
        for rows, source in self._parts:
            weight = _dequantised(source)
            if adapter is not None and isinstance(source, LoraLayer) and adapter in source.lora_A:
                a, b = source.lora_A[adapter].weight, source.lora_B[adapter].weight
                torch.addmm(weight, b.to(self.dtype), a.to(self.dtype), alpha=source.scaling[adapter], out=rows)
            else:
                rows.copy_(weight)
        self._adapter = adapter

    def forget(self, adapter: str) -> None:
        """Says that an adapter is closed: one that is opened later under the same name is another."""
        if self._adapter == adapter:
            self._adapter = ""

    @torch.inference_mode()
    def tokens(self, prompt: Tensor, choose: Choose, most: int) -> Generator[int, None, None]:
        """Writes on from a prompt, token by token.

        On a CUDA card the next step is under way before a token is given out, so that the card does not wait for whoever reads it.

        Args:
            prompt: (T,) int64 on the decoder's device.
            choose: Picks a token, (1,) int64, from the tokens so far, (1, T) int64, and logits, (1, V) float32.
            most: Tokens to write at most.

        Yields:
            Token ids; end-of-sequence is like any other.
        """
        cuda = self.device.type == "cuda"
        end = prompt.shape[0] + most
        ids = torch.empty(1, end, dtype=torch.long, device=self.device)
        ids[0, : prompt.shape[0]] = prompt
        if cuda:
            read, host = torch.cuda.Event(), torch.empty(1, dtype=torch.long, pin_memory=True)
            for layer in self._layers:
                layer.cache.zero_()  # what is masked out still has to be a number, and nobody's
        logits = self.logits(prompt, 0)
        for place in range(prompt.shape[0], end):
            token = choose(ids[:, :place], logits.float())
            ids[0, place : place + 1] = token
            more = place + 1 < end
            if cuda:
                host.copy_(token, non_blocking=True)
                read.record()
                if more:
                    logits = self.logits(token, place)
                read.synchronize()
                yield int(host)
            else:
                yield int(token)
                if more:
                    logits = self.logits(token, place)

    @torch.inference_mode()
    def logits(self, ids: Tensor, start: int) -> Tensor:
        """Passes tokens through the model.

        Args:
            ids: (T,) int64, the tokens at `start` and after it; those before it have been passed.
            start: Tokens before these.

        Returns:
            The logits after the last one, (1, V), which stand until the next call.
        """
        if not self._graphs:
            slots = start + ids.shape[0]
            positions = self._slots[start:slots]
            mask = None if ids.shape[0] == 1 else self._mask(positions, slots)
            return self._pass(ids, positions, slice(-1, None), mask, slots)
        for piece in ids.split(max(self._graphs)):
            tokens = piece.shape[0]
            graph = self._graphs[min(length for length in self._graphs if length >= tokens)]
            graph.ids[:tokens].copy_(piece)
            graph.positions.fill_(self._slots[-1] if tokens > 1 else start)
            graph.positions[:tokens].copy_(self._slots[start : start + tokens])
            graph.last.fill_(tokens - 1)
            graph.graph.replay()
            start += tokens
        return self._logits

    def _mask(self, positions: Tensor, slots: int) -> Tensor:
        return (self._slots[:slots] <= positions[:, None]).repeat(self._group, 1)

    def _pass(self, ids: Tensor, positions: Tensor, last: Tensor | slice, mask: Tensor | None, slots: int) -> Tensor:
        x = F.embedding(ids, self._embedding)
        at = positions, self._cos[positions], self._sin[positions]
        for layer in self._layers:
            x = _layer_pass(x, layer, at, mask, slots, self._eps)
        return F.linear(F.rms_norm(x[last], x.shape[-1:], self._norm, self._eps), self._head)

    @torch.inference_mode()
    def warm_up(self) -> None:
        """Captures the graphs on a CUDA card; elsewhere there is nothing to do."""
        if self.device.type != "cuda" or self._graphs:
            return
        pool = torch.cuda.graph_pool_handle()
        graphs = {length: self._capture(length, pool, self._pass_all) for length in PROMPT_LENGTHS if length < 2 * self.length}
        try:
            graphs[1] = self._capture(1, pool, self._kernels())
            self.with_kernels = True
        except Exception as error:  # no Triton, no C compiler, a card that it does not know: each fails in a way of its own
            log.info("no kernels of our own here (%s: %s); PyTorch's are used", type(error).__name__, str(error).partition("\n")[0][:200])
            graphs[1] = self._capture(1, pool, self._pass_all)
        self._graphs = graphs

    def _capture(self, tokens: int, pool: Any, run: Callable[[Tensor, Tensor, Tensor], None]) -> _Graph:
        inputs = [torch.zeros(length, dtype=torch.long, device=self.device) for length in (tokens, tokens, 1)]
        side = _side_stream(self.device)
        side.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(side):  # the first passes compile, choose kernels and take work space, which a capture may not
            run(*inputs)
            run(*inputs)
        torch.cuda.current_stream(self.device).wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool, stream=side):
            run(*inputs)
        return _Graph(graph, *inputs)

    def _pass_all(self, ids: Tensor, positions: Tensor, last: Tensor) -> None:
        """A pass over all slots, with PyTorch's kernels."""
        slots = self._slots.shape[0]
        self._logits.copy_(self._pass(ids, positions, last, self._mask(positions, slots), slots))

    def _kernels(self) -> Callable[[Tensor, Tensor, Tensor], None]:
        """A pass of one token, with kernels of our own.

        Raises:
            ImportError: There is no Triton here.
        """
        from app.engine import kernels

        _, heads, slots, size = self._layers[0].cache.shape
        widths = self._group * heads, heads, size, self._layers[0].down.shape[1], slots
        self._work = work = kernels.Workspace(*widths, like=self._embedding)  # lives as long as the graph that writes into it

        def run(ids: Tensor, positions: Tensor, last: Tensor) -> None:
            x = F.embedding(ids, self._embedding)[0]
            for layer in self._layers:
                kernels.layer_step(x, layer, positions, self._cos, self._sin, self._eps, work)
            kernels.multiply(x, self._head, self._logits[0], self._norm, self._eps)

        return run
