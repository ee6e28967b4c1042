"""The codec's compiled convolutions beside the plain layers: any cut, company and threads."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from engine.loader.forms import MOST_OFF, pack_codec_
from engine.models.codec_decoder import CodecDecoder
from engine.models.codec_layers import State
from engine.models.config import CodecDecoderConfig
from engine.native import codec
from engine.native.codec import NativeConvolutions, difference

# Channels of the stages: 96 to 6, and 80 to 20 with other rates; whole panels and parts of one. 128
# to 32, which AMX multiplies in halves.
SHAPES = {
    "halved": {"latent_dim": 24, "decoder_dim": 96, "upsample_rates": (8, 5, 4, 3)},
    "odd": {"latent_dim": 17, "decoder_dim": 80, "upsample_rates": (3, 2)},
    "wide": {"latent_dim": 32, "decoder_dim": 128, "upsample_rates": (5, 2)},
}
ROWS = 3


@torch.inference_mode()
def random_codec(shape: str) -> CodecDecoder:
    config = CodecDecoderConfig(
        codebook_dim=16,
        codebook_size=8,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=8,
        **SHAPES[shape],
    )
    net, generator = CodecDecoder(config), torch.Generator().manual_seed(7)
    for name, parameter in net.named_parameters():
        # Small weights: large ones make a net whose output any rounding changes.
        is_vector = name.endswith(("alpha", "beta", "bias"))
        scale = 0.3 if is_vector else 0.3 * parameter[0].numel() ** -0.5
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
    net.finish_loading()
    return net


@pytest.fixture(scope="module", params=SHAPES)
def pair(request: pytest.FixtureRequest) -> tuple[CodecDecoder, NativeConvolutions]:
    net = random_codec(request.param)
    return net, NativeConvolutions(net)


def zeros(net: CodecDecoder, rows: int = ROWS) -> State:
    return {name: torch.zeros(rows, *shape) for name, shape in net.state_shapes().items()}


def latents(net: CodecDecoder, time: int, seed: int = 0) -> Tensor:
    shape = (ROWS, net.config.latent_dim, time)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@torch.inference_mode()
def test_samples_and_states_are_the_plain_layers(pair):
    net, convolutions = pair
    plain, compiled = zeros(net), zeros(net)
    for seed, time in enumerate((1, 5, 2, 13)):
        x = latents(net, time, seed)
        wanted, got = net.convolve(x, plain), convolutions(x, compiled)
        assert 0.02 < wanted.std() < 0.8, "neither silence nor clipped"
        torch.testing.assert_close(got, wanted, atol=4e-5, rtol=0)
        for name, state in plain.items():
            torch.testing.assert_close(compiled[name], state, atol=1e-4, rtol=1e-5)


@settings(max_examples=20, deadline=None)
@given(data=st.data())
@torch.inference_mode()
def test_the_same_bits_for_every_cut_company_and_number_of_threads(pair, data):
    net, convolutions = pair
    time = data.draw(st.integers(1, 24))
    cuts = data.draw(st.lists(st.integers(1, time), max_size=4))
    edges = sorted({0, time, *cuts})
    x, before = latents(net, time, seed=time), torch.get_num_threads()
    torch.set_num_threads(1)
    whole = convolutions(x, zeros(net))
    try:
        torch.set_num_threads(data.draw(st.sampled_from([1, 2, 3])))
        row, state = data.draw(st.integers(0, ROWS - 1)), zeros(net, 1)
        alone = [
            convolutions(x[row : row + 1, :, a:b], state) for a, b in itertools.pairwise(edges)
        ]
    finally:
        torch.set_num_threads(before)
    assert torch.equal(torch.cat(alone, dim=1)[0], whole[row])


@torch.inference_mode()
def test_states_may_lie_in_a_wider_table(pair):
    """As codec_runner.py gives them: views into one vector a row."""
    net, convolutions = pair
    x, apart = latents(net, 3), {k: torch.randn_like(v) for k, v in zeros(net).items()}
    table = torch.cat([state.flatten(1) for state in apart.values()], dim=1)
    parts = table.split([state[0].numel() for state in apart.values()], dim=1)
    views = {
        name: part.unflatten(1, apart[name].shape[1:])
        for name, part in zip(apart, parts, strict=True)
    }
    assert torch.equal(convolutions(x, dict(views)), convolutions(x, dict(apart)))


@torch.inference_mode()
def test_a_large_argument_of_the_sine(pair):
    net, convolutions = pair
    x = 300 * latents(net, 4)
    torch.testing.assert_close(
        convolutions(x, zeros(net)), net.convolve(x, zeros(net)), atol=1e-3, rtol=0
    )


@pytest.mark.parametrize("off", [0.5, float("nan")])
def test_it_is_left_out_where_it_is_wrong(monkeypatch, caplog, off: float):
    monkeypatch.setattr(codec, "difference", lambda *_: off)
    net = random_codec("odd")
    pack_codec_(net, compiled=True)
    assert net.fused is None and "left out" in caplog.messages[-1]


@torch.inference_mode()
def test_a_wrong_weight_is_seen():
    net = random_codec("halved")
    convolutions = NativeConvolutions(net)
    assert difference(convolutions, net) < 1e-4
    net.blocks[2].units[1].conv1.weight[0] += 1
    assert difference(convolutions, net) > MOST_OFF


@torch.inference_mode()
def test_where_it_is_right_it_takes_over():
    net, plain = random_codec("halved"), random_codec("halved")
    pack_codec_(net, compiled=True)
    assert net.fused is not None
    x = latents(net, 4)
    torch.testing.assert_close(
        net.fused(x, zeros(net)), plain.convolve(x, zeros(plain)), atol=1e-4, rtol=0
    )


@torch.inference_mode()
def test_without_it_the_plain_layers_stay():
    net = random_codec("odd")
    pack_codec_(net, compiled=False)
    assert net.fused is None
