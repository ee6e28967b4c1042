"""The codec's convolutions in kernels against the plain layers: samples and states, in any cut."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from engine.benchmark.bench import weights
from engine.compare import ALLOWED, difference
from engine.kernels import codec as codec_kernels
from engine.kernels.codec import CodecConvolutions, fuse_codec_
from engine.models.codec_decoder import CodecDecoder
from engine.models.codec_layers import SnakeBeta, State
from engine.models.config import CodecDecoderConfig

CONFIG = CodecDecoderConfig(
    latent_dim=12,
    codebook_dim=8,
    codebook_size=4,
    decoder_dim=20,  # blocks of 10 and 5 channels: nothing fits a tile
    hidden_size=8,
    intermediate_size=8,
    num_hidden_layers=1,
    num_attention_heads=1,
    num_key_value_heads=1,
    head_dim=8,
    upsample_rates=(3, 2),
    upsampling_ratios=(2,),
)


@pytest.fixture
def decoder(device: str, dtype: torch.dtype) -> CodecDecoder:
    torch.manual_seed(0)
    decoder = CodecDecoder(CONFIG)
    for parameter in decoder.parameters():
        # Half of what keeps a signal's size, since activations add: a clipped wave would show
        # nothing, and in 16 bits a chain that magnifies would differ from itself.
        spread = 0.5 * parameter[0].numel() ** -0.5 if parameter.dim() > 1 else 0.25
        parameter.data.normal_(0, spread)
    decoder.codebooks.usage.data.fill_(1)
    decoder.finish_loading()
    return decoder.to(device, dtype)


def states(decoder: CodecDecoder, batch: int, seed: int) -> State:
    """Of streams that have been going on for a while."""
    torch.manual_seed(seed)
    bias = decoder.first_conv.bias
    shapes = decoder.state_shapes().items()
    return {name: torch.randn(batch, *shape).to(bias) for name, shape in shapes}


def latents(decoder: CodecDecoder, batch: int, length: int) -> Tensor:
    torch.manual_seed(batch + length)
    return torch.randn(batch, CONFIG.latent_dim, length).to(decoder.first_conv.bias)


def check_close(got: Tensor, expected: Tensor) -> None:
    """Of the whole chain, where each kernel is allowed this much."""
    assert got.shape == expected.shape and got.dtype == expected.dtype
    assert difference(got, expected) < 3 * ALLOWED[expected.dtype]


@pytest.mark.parametrize(("batch", "length"), [(1, 1), (2, 10)])
def test_equals_the_plain_layers(decoder: CodecDecoder, batch: int, length: int) -> None:
    """Less and more new samples than the past that is looked back on."""
    fused, x = CodecConvolutions(decoder), latents(decoder, batch, length)
    state, expected_state = states(decoder, batch, 1), states(decoder, batch, 1)
    wave = fused(x, state)
    check_close(wave, decoder.convolve(x, expected_state))
    assert wave.shape == (batch, 6 * length) and state.keys() == expected_state.keys()
    for name in state:
        check_close(state[name], expected_state[name])


def test_a_stream_goes_on_in_the_other(decoder: CodecDecoder) -> None:
    """Cuts, and a change of ways at each, are not heard."""
    fused, x = CodecConvolutions(decoder), latents(decoder, 1, 6)
    whole = decoder.convolve(x, states(decoder, 1, 2))
    state, parts, start = states(decoder, 1, 2), [], 0
    for size, run in zip((1, 2, 1, 2), [fused, decoder.convolve] * 2, strict=True):
        parts.append(run(x[..., start : start + size], state))
        start += size
    check_close(torch.cat(parts, dim=1), whole)


def test_rows_do_not_meet(decoder: CodecDecoder) -> None:
    fused, x, state = CodecConvolutions(decoder), latents(decoder, 3, 2), states(decoder, 3, 3)
    alone = {name: tensor[1:2].clone() for name, tensor in state.items()}
    together = fused(x, state)[1:2]
    check_close(fused(x[1:2], alone), together)
    for name in state:
        check_close(alone[name], state[name][1:2])


def faster(work: Callable[[], object], device: torch.device, spent: Iterator[float]) -> float:
    work()
    return next(spent)


@pytest.mark.parametrize(
    ("seconds", "spoil", "fault"),
    [((1, 2), False, ""), ((2, 1), False, "slower"), ((1, 2), True, "differs")],
    ids=["good", "slow", "wrong"],
)
def test_taken_only_if_as_good(
    decoder: CodecDecoder,
    seconds: tuple[float, float],
    spoil: bool,
    fault: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spent = iter(seconds)
    if spoil:  # the plain layers, which is as good
        act = SnakeBeta.forward
        monkeypatch.setattr(SnakeBeta, "forward", lambda self, x: act(self, x) * 1.2)
    before = sum(weight.numel() for weight in decoder.parameters())
    check = fuse_codec_(
        decoder, "codec", lambda work, device: faster(work, device, spent), ((1, 1),)
    )
    assert not check.error
    assert (check.is_slower, bool(check.fault)) == (fault == "slower", fault == "differs")
    assert (decoder.fused is None) == bool(fault)
    assert sum(weight.numel() for weight in weights(decoder)) == before
    wave = decoder._synthesise(latents(decoder, 1, 2), states(decoder, 1, 1))
    assert wave.shape == (1, 2 * CONFIG.upsampling_ratios[0] * 6)


def test_what_does_not_run_is_an_answer(
    decoder: CodecDecoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def raises(*_: object, **__: object) -> None:
        raise RuntimeError("line of a program\nPTXAS error: unsupported sm_199")

    monkeypatch.setattr(codec_kernels, "conv", raises)
    check = fuse_codec_(decoder, "codec", lambda *_: 1.0, ((1, 1),))
    assert check.error == "RuntimeError: PTXAS error: unsupported sm_199"
    assert decoder.fused is None
