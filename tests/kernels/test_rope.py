"""Norm, rotation and cache write in one kernel, against the three plain layers."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from engine.kernels.rope import _norm_rope_write, norm_rope_write
from engine.layers.norm import RMSNorm
from engine.layers.rotary import RotaryTable, rotate
from tests.kernels.compiling import CAPABILITIES, Compiled, compile_apart, compile_kernel
from tests.kernels.conftest import DTYPES

EPS = 1e-6
BLOCKS, BLOCK_SIZE = 4, 16


def reference(
    qkv: Tensor, weight: Tensor, table: RotaryTable, positions: Tensor, slots: Tensor, cache: Tensor
) -> Tensor:
    kv_heads = cache.shape[3]
    norm = RMSNorm(*weight.shape, eps=EPS)
    norm.weight.data = weight
    cos, sin = table.at(positions)
    qk = rotate(norm(qkv[:, :-kv_heads]), cos[:, None], sin[:, None])
    flat = cache.flatten(1, 2)
    flat[0].index_copy_(0, slots, qk[:, -kv_heads:])
    flat[1].index_copy_(0, slots, qkv[:, -kv_heads:])
    return qk[:, :-kv_heads]


# The interpreter truncates to bfloat16, where a GPU rounds; float16 shows the places.
@pytest.mark.parametrize("dtype", [*DTYPES, torch.float16], ids=str)
@pytest.mark.parametrize(
    ("num_tokens", "heads", "kv_heads", "head_dim"),
    [(1, 16, 8, 128), (3, 4, 2, 64), (7, 2, 2, 64), (1, 3, 1, 16)],
)
def test_equals_the_layers(
    num_tokens: int, heads: int, kv_heads: int, head_dim: int, dtype: torch.dtype, device: str
) -> None:
    torch.manual_seed(num_tokens)
    table = RotaryTable(head_dim, 1e6, 100, dtype, torch.device(device))
    qkv = torch.randn(num_tokens, heads + 2 * kv_heads, head_dim, device=device).to(dtype) * 3
    weight = torch.randn(heads + kv_heads, head_dim, device=device).to(dtype)
    positions = torch.randint(0, 100, (num_tokens,), device=device)
    slots = torch.randperm(BLOCKS * BLOCK_SIZE, device=device)[:num_tokens]
    cache = torch.randn(2, BLOCKS, BLOCK_SIZE, kv_heads, head_dim, device=device).to(dtype)
    expected_cache = cache.clone()

    expected = reference(qkv, weight, table, positions, slots, expected_cache)
    q = norm_rope_write(qkv, weight, EPS, table.cos, table.sin, positions, slots, cache)

    # In 16 bits the norm's factor, one unit off in float32, may tip a rounding over.
    close = {} if dtype is torch.float32 else {"rtol": 1e-2, "atol": 0.13}
    torch.testing.assert_close(q, expected, **close)
    torch.testing.assert_close(cache, expected_cache, **close)
    assert dtype is torch.float32 or (q == expected).float().mean() > 0.99
    assert torch.equal(cache[1], expected_cache[1]), "values are copied as they are"


def test_writes_into_one_layer_of_a_pool(device: str) -> None:
    pool = torch.zeros(3, 2, BLOCKS, BLOCK_SIZE, 2, 16, device=device)
    table = RotaryTable(16, 1e6, 8, torch.float32, torch.device(device))
    qkv, weight = torch.randn(2, 6, 16, device=device), torch.ones(4, 16, device=device)
    positions, slots = torch.tensor([0, 1], device=device), torch.tensor([5, 62], device=device)
    norm_rope_write(qkv, weight, EPS, table.cos, table.sin, positions, slots, pool[1])
    assert not pool[0].any() and not pool[2].any()
    assert torch.equal(pool[1, 1].flatten(0, 1)[slots], qkv[:, 4:])


def test_tokens_of_one_slot_leave_one_of_them(device: str) -> None:
    """Padding rows write somewhere too; they may all write to the same slot."""
    cache = torch.zeros(2, 1, BLOCK_SIZE, 1, 16, device=device)
    table = RotaryTable(16, 1e6, 8, torch.float32, torch.device(device))
    qkv = torch.randn(1, 3, 16, device=device).repeat(3, 1, 1)
    slots = torch.zeros(3, dtype=torch.int64, device=device)
    weight = torch.ones(2, 16, device=device)
    norm_rope_write(qkv, weight, EPS, table.cos, table.sin, slots, slots, cache)
    assert torch.equal(cache[1, 0, 0], qkv[0, 2:])
    assert not cache[:, 0, 1:].any()


def compiled() -> Iterator[tuple[str, Compiled]]:
    bf16 = dict.fromkeys(("qkv", "norm_weight", "cos", "sin"), "*bf16")
    signature = bf16 | {"positions": "*i64", "slots": "*i64", "q": "*bf16", "cache": "*bf16"}
    signature |= {"v_offset": "i32", "eps": "fp32"}
    constants = {"HEADS": 16, "KV_HEADS": 8, "HALF": 64}
    signature |= dict.fromkeys(constants, "constexpr")
    for capability in CAPABILITIES:
        result = compile_kernel(
            _norm_rope_write, signature, constants, capability, 1, 3, ("v_offset",)
        )
        yield f"rope sm_{capability}", result


def test_compiles() -> None:
    for label, result in compile_apart(__name__):
        print(label, result)
        result.check()
