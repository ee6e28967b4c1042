"""The compiled decoder beside plain torch on the same weights."""

import pytest
import torch

from engine.layers.attention import AttentionMetadata, TokenBatch, decode_mask
from engine.layers.modules import Modules
from engine.layers.norm import RMSNorm
from engine.layers.rotary import RotaryTable
from engine.models.config import DecoderConfig
from engine.models.qwen3_layer import Qwen3Layer
from engine.native import decoder
from engine.native.decoder import FORMS, NativeDecoder, NativeProduct, pack, unpack

CONFIG = DecoderConfig(
    hidden_size=128,
    intermediate_size=192,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=32,
    vocab_size=64,
)
BLOCKS, BLOCK = 12, 4
CPU = torch.device("cpu")


@pytest.fixture(params=[1, 2, 3], autouse=True)
def threads(request: pytest.FixtureRequest):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def weight(out_features: int, in_features: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(out_features, in_features, generator=generator) / in_features**0.5


def as_integers(x: torch.Tensor) -> torch.Tensor:
    """What rows become beside weights of few bits: 16 bits and a scale for 256 of them."""
    groups = []
    for group in x.split(256, dim=1):
        scale = group.abs().amax(1, keepdim=True) / 32512
        groups.append((group / scale).round() * scale)
    return torch.cat(groups, dim=1)


# Parts of a group and of a panel quad, several groups, one that is no whole tile.
@pytest.mark.parametrize("shape", [(176, 192), (80, 640), (48, 80)])
@pytest.mark.parametrize("form", FORMS)
def test_a_product_is_that_of_the_unpacked_weight(form: decoder.Form, shape: tuple[int, int]):
    packed = pack(weight(*shape), form)
    x = torch.randn(13, shape[1])
    x[2, 7] = 3000  # makes its own group coarse and no other
    rows = as_integers(x) if packed["weight"].dtype in (torch.int8, torch.uint8) else x
    wanted = (rows.double() @ unpack(packed).double().T).float()
    for count in (1, 2, 3, 5, 13):
        got = NativeProduct(packed)(x[:count])
        torch.testing.assert_close(got, wanted[:count], atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_a_row_does_not_depend_on_its_neighbours(form: decoder.Form):
    product, x = NativeProduct(pack(weight(176, 192), form)), torch.randn(23, 192)
    alone = torch.cat([product(row[None]) for row in x])
    for rows in range(1, 24):
        assert torch.equal(product(x[:rows]), alone[:rows])


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
@pytest.mark.parametrize("form", FORMS)
def test_what_is_no_number_stays_in_its_row_and_is_not_lost(form: decoder.Form, wrong: float):
    product, x = NativeProduct(pack(weight(80, 320), form)), torch.randn(7, 320)
    whole = product(x)
    x[4, 300] = wrong
    got = product(x)
    others = [0, 1, 2, 3, 5, 6]
    assert torch.equal(got[others], whole[others])
    assert not got[4].isfinite().any()


SEEN: dict[str, torch.Tensor] = {}


@pytest.mark.parametrize("form", ["int8", "int4"])
def test_integers_are_the_same_on_every_cpu(form: decoder.Form):
    """The same bits from whichever library (conftest.py) and number of threads."""
    x = torch.randn(11, 640, generator=torch.Generator().manual_seed(1))
    got = NativeProduct(pack(weight(80, 640), form))(x)
    assert torch.equal(SEEN.setdefault(form, got), got)


def test_inputs_that_are_no_whole_groups_have_eight_bits():
    packed = pack(weight(32, 96), "int4")
    assert packed["weight"].dtype == torch.int8
    x = torch.randn(3, 96)
    torch.testing.assert_close(NativeProduct(packed)(x), x @ unpack(packed).T, atol=2e-4, rtol=1e-5)


def test_unpacking_gives_the_weight_back():
    plain = weight(64, 128).bfloat16().float()
    assert torch.equal(unpack(pack(plain, None)), plain)
    assert pack(plain, None)["weight"].dtype == torch.bfloat16
    assert torch.equal(unpack(pack(plain + 1e-5, None)), plain + 1e-5)
    steps = plain.abs().amax(1, keepdim=True) / 127
    assert ((unpack(pack(plain, "int8")) - plain).abs() <= steps / 2 + 1e-7).all()
    groups = plain.unflatten(1, (-1, decoder.GROUP))
    steps = (groups.amax(-1) - groups.amin(-1))[..., None] / 15
    error = (unpack(pack(plain, "int4")) - plain).abs().unflatten(1, (-1, decoder.GROUP))
    assert (error <= steps / 2 + 1e-6).all()


class Nets:
    """The same layers twice: packed, and in plain torch with what the packed weights stand for."""

    def __init__(self, form: decoder.Form) -> None:
        self.layers, self.norm = self.make()
        plain, self.plain_norm = self.make()
        self.plain = plain
        for ours, theirs in zip(self.layers, plain, strict=True):
            for name in ("qkv", "o", "gate_up", "down"):
                packed = pack(getattr(ours, name).weight.data, form)
                getattr(theirs, name).weight.data = unpack(packed)
                getattr(ours, name).replace_(NativeProduct(packed))
        self.whole = NativeDecoder(CONFIG, self.layers, self.norm)
        self.rotary = RotaryTable(CONFIG.head_dim, 1e4, 64, torch.float32, CPU)
        shape = (2, 2, BLOCKS, BLOCK, CONFIG.num_key_value_heads, CONFIG.head_dim)
        self.caches = torch.zeros(shape), torch.zeros(shape)
        self.tables = torch.tensor([[3, 1, 7, 9, 0], [2, 11, 5, 4, 0]])

    @staticmethod
    def make() -> tuple[Modules[Qwen3Layer], RMSNorm]:
        layers = Modules(Qwen3Layer(CONFIG) for _ in range(2))
        norm = RMSNorm(CONFIG.hidden_size, eps=1e-6)
        for i, parameter in enumerate([*layers.parameters(), norm.weight]):
            wide = parameter.dim() == 2 and parameter.shape[1] > CONFIG.head_dim
            values = weight(parameter.numel(), 1, seed=i).view(parameter.shape)
            parameter.data = values / parameter.shape[1] ** 0.5 if wide else 1 + values / 10
        return layers, norm

    def run(self, x: torch.Tensor, rows: list[int], positions: list[int]) -> torch.Tensor:
        at, where = torch.tensor(rows), torch.tensor(positions)
        slots = self.tables[at, where // BLOCK] * BLOCK + where % BLOCK
        return self.whole(x, self.caches[0], TokenBatch(self.rotary, at, where, slots, self.tables))

    def run_plain(self, x: torch.Tensor, rows: list[int], positions: list[int]) -> torch.Tensor:
        """Token by token, each with its row's blocks: the decode form of plain torch."""
        out = []
        for i, (row, position) in enumerate(zip(rows, positions, strict=True)):
            table = self.tables[row : row + 1]
            meta = AttentionMetadata(
                rotary=self.rotary,
                positions=torch.tensor([position]),
                slot_mapping=table[:, position // BLOCK] * BLOCK + position % BLOCK,
                block_tables=table,
                mask=decode_mask(torch.tensor([position + 1]), table.shape[1] * BLOCK),
            )
            y = x[i : i + 1]
            for layer, cache in zip(self.plain, self.caches[1], strict=True):
                y = layer(
                    y, lambda qkv, norm, cache=cache, meta=meta: meta.attend(qkv, norm, cache)
                )
            out.append(self.plain_norm(y))
        return torch.cat(out)


PROMPTS = ([0] * 9 + [1] * 5, [*range(9), *range(5)])


@pytest.mark.parametrize("form", FORMS)
def test_layers_are_those_of_plain_torch(form: decoder.Form):
    nets, off = Nets(form), 1e-3 if form in ("int8", "int4") else 2e-4  # as_integers
    for rows, positions in (PROMPTS, ([1, 0], [5, 9]), ([0], [10])):
        x = torch.randn(len(rows), CONFIG.hidden_size)
        ours, plain = nets.run(x, rows, positions), nets.run_plain(x, rows, positions)
        torch.testing.assert_close(ours, plain, atol=off, rtol=1e-4)
    torch.testing.assert_close(nets.caches[0], nets.caches[1], atol=off, rtol=1e-4)


@pytest.mark.parametrize("form", FORMS)
def test_a_sequence_is_the_same_alone_and_in_any_cut(form: decoder.Form, threads: int):
    nets, x = Nets(form), torch.randn(14, CONFIG.hidden_size)
    together = nets.run(x, *PROMPTS)
    kept = nets.caches[0].clone()
    alone = torch.cat(
        [nets.run(x[i : i + 1], [r], [p]) for i, (r, p) in enumerate(zip(*PROMPTS, strict=True))]
    )
    assert torch.equal(together, alone) and torch.equal(nets.caches[0], kept)
    torch.set_num_threads(1)
    assert torch.equal(nets.run(x, *PROMPTS), together)
