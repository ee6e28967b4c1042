"""Each fast path beside the plain one: paged attention, weight forms, norms, rotation."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from engine.layers import linear
from engine.layers.attention import AttentionMetadata, decode_mask, paged_attention
from engine.layers.linear import Linear
from engine.layers.norm import RMSNorm
from engine.layers.rotary import RotaryTable, rotate

HEADS, KV_HEADS, DIM, BLOCK = 4, 2, 8, 4
CPU = torch.device("cpu")
NO_ROTARY = RotaryTable(DIM, 1e4, 1, torch.float32, CPU)  # q and k come rotated


def reference_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """One query [heads, D] over keys [T, kv_heads, D], head by head in float64."""
    outs = []
    for head in range(HEADS):
        kv_head = head // (HEADS // KV_HEADS)
        scores = (k[:, kv_head].double() @ q[head].double()) / math.sqrt(DIM)
        outs.append(scores.softmax(0) @ v[:, kv_head].double())
    return torch.stack(outs).flatten().float()


class PagedSequence:
    """A sequence's own copy of its keys and values, beside its pages."""

    def __init__(self, blocks: list[int], generator: torch.Generator) -> None:
        self.table, self.generator = torch.tensor(blocks), generator
        self.k, self.v = torch.zeros(0, KV_HEADS, DIM), torch.zeros(0, KV_HEADS, DIM)

    def extend(self, num_tokens: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """New q, k, v and their slots."""
        start = len(self.k)
        q = torch.randn(num_tokens, HEADS, DIM, generator=self.generator)
        k, v = torch.randn(2, num_tokens, KV_HEADS, DIM, generator=self.generator)
        self.k, self.v = torch.cat([self.k, k]), torch.cat([self.v, v])
        positions = torch.arange(start, start + num_tokens)
        return q, k, v, self.table[positions // BLOCK] * BLOCK + positions % BLOCK

    def expected(self, q: Tensor) -> Tensor:
        first = len(self.k) - len(q)
        rows = [
            reference_attention(q[i], self.k[: first + i + 1], self.v[: first + i + 1])
            for i in range(len(q))
        ]
        return torch.stack(rows)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=4), min_size=1, max_size=4))
def test_paged_attention_equals_reference(chunks: list[list[int]]) -> None:
    """Prompts of several sequences prefilled in chunks, then two decode steps for all together."""
    generator = torch.Generator().manual_seed(sum(map(sum, chunks)))
    per_seq = 10
    order = torch.randperm(len(chunks) * per_seq, generator=generator).tolist()
    seqs = [
        PagedSequence(order[i * per_seq : (i + 1) * per_seq], generator) for i in range(len(chunks))
    ]
    cache = torch.zeros(2, len(order), BLOCK, KV_HEADS, DIM)
    for turn in range(max(map(len, chunks))):
        due = [(s, c[turn]) for s, c in zip(seqs, chunks, strict=True) if turn < len(c)]
        check_prefill(due, cache)
    for _ in range(2):
        check_decode(seqs, cache)


def check_prefill(due: list[tuple[PagedSequence, int]], cache: Tensor) -> None:
    parts = [seq.extend(length) for seq, length in due]
    q, k, v, slots = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
    cuts = [0]
    for _, length in due:
        cuts.append(cuts[-1] + length)
    meta = AttentionMetadata(
        rotary=NO_ROTARY,
        positions=torch.zeros(0),
        slot_mapping=slots,
        block_tables=torch.stack([seq.table for seq, _ in due]),
        cu_seqlens_q=tuple(cuts),
        context_lens=tuple(len(seq.k) for seq, _ in due),
    )
    out = paged_attention(q, k, v, cache, meta)
    expected = torch.cat([s.expected(p[0]) for (s, _), p in zip(due, parts, strict=True)])
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-5)


def check_decode(seqs: list[PagedSequence], cache: Tensor) -> None:
    parts = [seq.extend(1) for seq in seqs]
    q, k, v, slots = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
    lengths = torch.tensor([len(seq.k) for seq in seqs])
    num_blocks = -(-int(lengths.max()) // BLOCK)
    meta = AttentionMetadata(
        rotary=NO_ROTARY,
        positions=torch.zeros(0),
        slot_mapping=slots,
        block_tables=torch.stack([seq.table[:num_blocks] for seq in seqs]),
        mask=decode_mask(lengths, num_blocks * BLOCK),
    )
    out = paged_attention(q, k, v, cache, meta)
    expected = torch.cat([s.expected(p[0]) for s, p in zip(seqs, parts, strict=True)])
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-5)


def make_linear(dtype: torch.dtype, bias: bool = False) -> Linear:
    generator = torch.Generator().manual_seed(0)
    net = Linear(512, 1024, bias=bias).to(dtype)
    net.weight.copy_(torch.randn(1024, 512, generator=generator) / 512**0.5)
    if net.bias is not None:
        net.bias.copy_(torch.randn(1024, generator=generator))
    return net


needs_packing = pytest.mark.skipif(
    not linear.can_pack(torch.bfloat16), reason="no packed kernels on this CPU"
)


@needs_packing
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("num_rows", [1, 2, 7, 33])
def test_packed_equals_plain(dtype: torch.dtype, num_rows: int) -> None:
    plain, packed = make_linear(dtype, bias=True), make_linear(dtype, bias=True)
    packed.transform_("packed")
    assert packed.product is not None
    x = torch.randn(3, num_rows, 512, generator=torch.Generator().manual_seed(1)).to(dtype)
    tolerance = 1e-5 if dtype is torch.float32 else 2e-2
    torch.testing.assert_close(packed(x), plain(x), atol=tolerance, rtol=tolerance)


@needs_packing
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_packed_rows_do_not_depend_on_the_batch(dtype: torch.dtype) -> None:
    net = make_linear(dtype)
    net.transform_("packed")
    x = torch.randn(32, 512, generator=torch.Generator().manual_seed(1)).to(dtype)
    whole = net(x)
    for num_rows in (1, 2, 3, 8, 31):
        assert torch.equal(net(x[:num_rows].contiguous()), whole[:num_rows])


@needs_packing
@pytest.mark.parametrize(("form", "error"), [("int8", 0.02), ("int4", 0.2)])
def test_quantised_weights_are_close(form: linear.WeightForm, error: float) -> None:
    plain, quantised = make_linear(torch.bfloat16), make_linear(torch.bfloat16)
    quantised.transform_(form)
    x = torch.randn(5, 512, generator=torch.Generator().manual_seed(1)).bfloat16()
    expected = plain(x).float()
    difference = (quantised(x).float() - expected).norm() / expected.norm()
    assert 0 < difference < error


def test_small_weights_stay_plain() -> None:
    net = Linear(16, 16)
    net.transform_("packed")
    assert net.product is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_norm_casts_before_the_weight(dtype: torch.dtype) -> None:
    norm = RMSNorm(64, eps=1e-6).to(dtype)
    norm.weight.copy_(torch.linspace(0.5, 2, 64))
    x = torch.randn(3, 64, generator=torch.Generator().manual_seed(0)).to(dtype)
    wide = x.float()
    scaled = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-6)
    torch.testing.assert_close(norm(x), scaled.to(dtype) * norm.weight)


def test_rotation_is_a_complex_multiplication() -> None:
    table = RotaryTable(DIM, 10_000.0, 32, torch.float32, CPU)
    x = torch.randn(32, DIM, generator=torch.Generator().manual_seed(0))
    got = rotate(x, *table.at(torch.arange(32)))
    half = DIM // 2
    frequencies = 10_000.0 ** (-torch.arange(half) / half)
    turn = torch.polar(torch.ones(32, half), torch.outer(torch.arange(32.0), frequencies))
    spun = torch.complex(x[:, :half], x[:, half:]) * turn
    torch.testing.assert_close(got, torch.cat([spun.real, spun.imag], -1), atol=1e-5, rtol=1e-5)


def test_softmax_scale_is_the_default() -> None:
    """The models were trained with 1 / sqrt(head_dim), which is what the kernels assume."""
    q = torch.randn(1, 1, 2, DIM, generator=torch.Generator().manual_seed(0))
    explicit = F.scaled_dot_product_attention(q, q, q, scale=1 / math.sqrt(DIM))
    torch.testing.assert_close(F.scaled_dot_product_attention(q, q, q), explicit)
