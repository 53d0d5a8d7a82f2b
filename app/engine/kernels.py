"""A single token's pass through a layer of Llama, as six Triton kernels: `layer_step` does what `app.decoder` does in forty.

At batch 1 a token costs the time to read the weights once; what is won here is all the rest. Each weight is read by a kernel of
its own, which takes the norm before it, the activation or the residual sum after it along. Importing this needs Triton, which
comes with PyTorch for CUDA; it compiles at first use and needs a C compiler for that.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

# Rows that a program multiplies, the columns that it reads at a time, and its warps: the best of 33 on an H100 for 3072 to 8192 columns.
ROWS, COLUMNS, WARPS = 2, 1024, 4
SPLIT = 64  # slots of the cache that one program attends to
EPILOGUE_NONE, EPILOGUE_RESIDUAL, EPILOGUE_GATE = 0, 1, 2


@triton.jit
def _multiply(  # type: ignore[no-untyped-def]
    x,
    norm,
    weight,
    out,
    eps,
    K: tl.constexpr,
    N: tl.constexpr,
    NORM: tl.constexpr,
    EPILOGUE: tl.constexpr,
    R: tl.constexpr,
    C: tl.constexpr,
):
    # (K,) times (N, K). The norm's factor is the same for all columns, so it comes last and its sum is taken along.
    n = tl.program_id(0) * R + tl.arange(0, R)
    rows = n[:, None].to(tl.int64) * K
    columns = tl.arange(0, C)
    total = tl.zeros((R, C), tl.float32)
    total_up = tl.zeros((R, C), tl.float32)
    squares = tl.zeros((C,), tl.float32)
    for start in range(0, K, C):
        k = start + columns
        inside = k < K
        value = tl.load(x + k, mask=inside, other=0.0).to(tl.float32)
        if NORM:
            squares += value * value
            value = value * tl.load(norm + k, mask=inside, other=0.0).to(tl.float32)
        at = weight + rows + k[None, :]
        total += tl.load(at, mask=inside[None, :], other=0.0).to(tl.float32) * value[None, :]
        if EPILOGUE == 2:
            up = tl.load(at + N * K, mask=inside[None, :], other=0.0).to(tl.float32)
            total_up += up * value[None, :]
    result = tl.sum(total, 1)
    factor = 1.0
    if NORM:
        factor = tl.rsqrt(tl.sum(squares, 0) / K + eps)
        result = result * factor
    if EPILOGUE == 2:
        result = result * tl.sigmoid(result) * (tl.sum(total_up, 1) * factor)
    if EPILOGUE == 1:
        result = result + tl.load(out + n).to(tl.float32)
    tl.store(out + n, result.to(out.dtype.element_ty))


@triton.jit
def _attend(  # type: ignore[no-untyped-def]
    qkv, cos, sin, cache, place, sums, peaks, scale, slots, splits,
    HEADS: tl.constexpr, KV: tl.constexpr, D: tl.constexpr, S: tl.constexpr,
):  # fmt: skip
    # One key-value head and S slots: turns queries and the new key to their position, stores key and value, attends.
    head = tl.program_id(0)
    split = tl.program_id(1)
    position = tl.load(place)
    first = split * S
    if first <= position:
        d = tl.arange(0, D)
        other = (d + D // 2) % D
        c = tl.load(cos + position * D + d).to(tl.float32)
        s = tl.load(sin + position * D + d).to(tl.float32) * tl.where(d < D // 2, -1.0, 1.0)
        new = qkv + (HEADS + head) * D
        new_key = (tl.load(new + d).to(tl.float32) * c + tl.load(new + other).to(tl.float32) * s).to(cache.dtype.element_ty)
        new_value = tl.load(qkv + (HEADS + KV + head) * D + d)
        keys = cache + head * slots * D
        values = cache + (KV + head) * slots * D
        slot = first + tl.arange(0, S)
        at = slot[:, None] * D + d[None, :]
        before = (slot < position)[:, None]
        k = tl.load(keys + at, mask=before, other=0.0)
        k = tl.where((slot == position)[:, None], new_key[None, :], k).to(tl.float32)
        v = tl.load(values + at, mask=before, other=0.0)
        v = tl.where((slot == position)[:, None], new_value[None, :], v).to(tl.float32)
        if position < first + S:
            tl.store(keys + position * D + d, new_key)
            tl.store(values + position * D + d, new_value)
        for g in tl.static_range(HEADS // KV):
            row = head * (HEADS // KV) + g
            query = qkv + row * D
            q = tl.load(query + d).to(tl.float32) * c + tl.load(query + other).to(tl.float32) * s
            score = tl.where(slot <= position, tl.sum(k * q[None, :], 1) * scale, float("-inf"))
            peak = tl.max(score, 0)
            share = tl.exp(score - peak)
            part = row * splits + split
            tl.store(sums + part * D + d, tl.sum(share[:, None] * v, 0))
            tl.store(peaks + part * 2, peak)
            tl.store(peaks + part * 2 + 1, tl.sum(share, 0))


@triton.jit
def _combine(sums, peaks, place, out, splits, D: tl.constexpr, S: tl.constexpr, P: tl.constexpr):  # type: ignore[no-untyped-def]
    # The softmax over all slots of one query head, from those over S slots each.
    row = tl.program_id(0)
    used = tl.load(place) // S + 1
    split = tl.arange(0, P)
    d = tl.arange(0, D)
    part = row * splits + split
    peak = tl.load(peaks + part * 2, mask=split < used, other=float("-inf"))
    weight = tl.exp(peak - tl.max(peak, 0))
    total = tl.sum(weight * tl.load(peaks + part * 2 + 1, mask=split < used, other=0.0), 0)
    value = tl.load(sums + part[:, None] * D + d[None, :], mask=(split < used)[:, None], other=0.0)
    tl.store(out + row * D + d, (tl.sum(value * weight[:, None], 0) / total).to(out.dtype.element_ty))


def multiply(x: Tensor, weight: Tensor, out: Tensor, norm: Tensor | None, eps: float, epilogue: int = EPILOGUE_NONE) -> None:
    """Writes a product of one row into `out`.

    Args:
        x: (K,).
        weight: (N, K); with `EPILOGUE_GATE` (2N, K), gates above.
        out: (N,).
        norm: (K,), the weight of an RMS norm of `x`; None for none.
        eps: Of the norm.
        epilogue: Add to what is in `out`, or multiply silu of the gate with the rest.
    """
    rows = 1 if epilogue == EPILOGUE_GATE or out.shape[0] % ROWS else ROWS
    grid = (out.shape[0] // rows,)
    _multiply[grid](
        x, x if norm is None else norm, weight, out, eps, K=weight.shape[1], N=out.shape[0],
        NORM=norm is not None, EPILOGUE=epilogue, R=rows, C=COLUMNS, num_warps=WARPS,
    )  # fmt: skip


class Workspace:
    """Buffers between the kernels, shared by all layers.

    Args:
        heads: Query heads.
        kv_heads: Key-value heads.
        size: Of a head.
        intermediate: Width of the feed-forward part.
        slots: Of the cache.
        like: A tensor of the model's device and dtype.
    """

    def __init__(self, heads: int, kv_heads: int, size: int, intermediate: int, slots: int, like: Tensor) -> None:
        self.heads, self.kv_heads, self.splits = heads, kv_heads, -(-slots // SPLIT)
        self.qkv, self.attended = like.new_empty((heads + 2 * kv_heads) * size), like.new_empty(heads * size)
        self.activated = like.new_empty(intermediate)
        self.sums = torch.empty(heads * self.splits * size, device=like.device)
        self.peaks = torch.empty(heads * self.splits * 2, device=like.device)


def layer_step(x: Tensor, layer: Any, position: Tensor, cos: Tensor, sin: Tensor, eps: float, work: Workspace) -> None:
    """Passes one token through a layer, in place.

    Args:
        x: (H,), the residual stream.
        layer: Weights and cache, `app.decoder.Layer`.
        position: (1,) int64.
        cos: (slots, 1, D), of all positions.
        sin: The same.
        eps: Of the norms.
        work: Buffers.
    """
    slots, size = layer.cache.shape[2:]
    multiply(x, layer.qkv, work.qkv, layer.norm1, eps)
    _attend[(work.kv_heads, work.splits)](
        work.qkv, cos, sin, layer.cache, position, work.sums, work.peaks, size**-0.5, slots, work.splits,
        HEADS=work.heads, KV=work.kv_heads, D=size, S=SPLIT, num_warps=4,
    )  # fmt: skip
    _combine[(work.heads,)](
        work.sums, work.peaks, position, work.attended, work.splits, D=size, S=SPLIT, P=triton.next_power_of_2(work.splits), num_warps=4
    )
    multiply(work.attended, layer.out, x, None, eps, EPILOGUE_RESIDUAL)
    multiply(x, layer.gate_up, work.activated, layer.norm2, eps, EPILOGUE_GATE)
    multiply(work.activated, layer.down, x, None, eps, EPILOGUE_RESIDUAL)
