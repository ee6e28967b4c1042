"""The codec's convolutions on a GPU: from upsampled latents to the wave.

    first conv, [upsample, [conv 7, conv 1 + what went in] x 3] x 4, last conv

Each is one kernel (codec_conv.py) that also adds its bias, what is to be added, and activates the
sum for the next, so that a residual unit is two kernels. Activations stay channels-last and are
written behind the past that the next convolution looks back on. States are those of the plain
layers (models/codec_layers.py): a stream may be begun by either and go on in the other.
"""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import triton
from torch import Tensor

from engine.compare import ALLOWED, Measure, difference, reason
from engine.kernels.codec_conv import conv
from engine.kernels.tuning import graph_seconds
from engine.models.codec_decoder import CodecDecoder
from engine.models.codec_layers import CausalConv, CausalUpsample, SnakeBeta, State
from engine.protocol import Check

# Rows and times of the latents in trials: a first chunk, and full chunks of some streams.
Trials = tuple[tuple[int, int], ...]
TRIALS: Trials = ((1, 4), (8, 48))


class FusedConv:
    """A convolution of the decoder, with a packed copy of its weight, and the activation after it.

    `keeps`: the sum before the activation is what the next residual unit adds; `adds`: to this one.
    """

    def __init__(
        self,
        stage: CausalConv | CausalUpsample,
        act: SnakeBeta | None,
        *,
        keeps: bool = False,
        adds: bool = False,
    ) -> None:
        self.stage, self.act, self.keeps, self.adds = stage, act, keeps, adds
        self.channels = len(stage.bias)
        if isinstance(stage, CausalConv):
            self.taps, self.dilation, self.rate = stage.kernel, stage.dilation, 1
            weight = stage.weight.permute(2, 1, 0)  # [taps, in, out]
        else:
            self.taps, self.dilation, self.rate = 2, 1, stage.stride
            halves = stage.weight.unflatten(2, (2, stage.stride))  # this time's, the next one's
            weight = halves.permute(2, 0, 3, 1).flip(0).flatten(2)  # [taps, in, rate * out]
        self.past, self.in_ = (self.taps - 1) * self.dilation, weight.shape[1]
        self.weight = weight.flatten(0, 1).contiguous()

    def entrance(self, state: State, batch: int, length: int) -> Tensor:
        """[B, past + length, in], of which the past is there."""
        x = self.weight.new_empty(batch, self.past + length, self.in_)
        if isinstance(self.stage, CausalUpsample):
            x[:, : self.past] = 0  # what it adds to the new is in the state already
        elif self.past:
            x[:, : self.past] = state[self.stage.name].mT
        return x

    def __call__(
        self,
        x: Tensor,
        state: State,
        added: Tensor | None,
        after: "FusedConv | None" = None,
        *,
        compile_only: bool = False,
    ) -> tuple[Tensor | None, Tensor]:
        """x from `entrance`, filled -> (the sum [B, T', out] if kept, activated for `after`)."""
        batch, length = len(x), (x.shape[1] - self.past) * self.rate
        tail = self._move(x, state)
        ahead = after.past if after else 0
        if after is None:
            out = x.new_empty(batch, length, self.channels)
        else:
            out = after.entrance(state, batch, length)
        plain = x.new_empty(batch, length, self.channels) if self.keeps else None
        conv(
            x,
            self.weight,
            self.stage.bias,
            out,
            taps=self.taps,
            dilation=self.dilation,
            ahead=ahead,
            snake=(self.act.alpha, self.act.beta) if self.act else None,
            tail=tail,
            residual=added if self.adds else None,
            plain=plain,
            compile_only=compile_only,
        )
        return plain, out

    def _move(self, x: Tensor, state: State) -> Tensor | None:
        """The state moves on; what an upsampling still had to add to the new, if this is one."""
        name, tail = self.stage.name, None
        if isinstance(self.stage, CausalUpsample):
            tail = state[name].contiguous()
            late = x[:, -1] @ self.weight[: self.in_]
            state[name] = late.unflatten(1, (self.rate, self.channels)).mT
        elif self.past:
            state[name] = x[:, -self.past :].mT.contiguous()
        return tail

    def trial(self, batch: int, length: int) -> tuple[Tensor, State, Tensor | None]:
        """Random numbers to be called with."""
        new = self.weight.new_empty
        state = {name: new(batch, *shape).normal_() for name, shape in self.stage.state_shapes()}
        x = self.entrance(state, batch, length)
        x[:, self.past :].normal_()
        return x, state, new(batch, length, self.channels).normal_() if self.adds else None

    def gaps(self, batch: int, length: int) -> Iterator[float]:
        """How far what it gives and the state it leaves are from the plain layers', on random
        numbers.
        """
        x, state, added = self.trial(batch, length)
        before = dict(state)
        plain, out = self(x, state, added)
        y = self.stage(x[:, self.past :].mT, before)
        if added is not None:
            y = y + added.mT
        if plain is not None:
            yield difference(plain.mT, y)
        yield difference(out.mT, self.act(y) if self.act else y)
        yield from (difference(state[name], before[name]) for name in state)


class CodecConvolutions:
    """CodecDecoder.convolve in kernels, with weights of its own."""

    def __init__(self, decoder: CodecDecoder) -> None:
        self.convs = list(_convs(decoder))

    def __call__(self, x: Tensor, state: State) -> Tensor:
        """x [B, latent_dim, T] -> wave [B, samples]; `state` moves on."""
        first, kept = self.convs[0], None
        s = first.entrance(state, len(x), x.shape[2])
        s[:, first.past :] = x.mT
        for this, after in pairwise([*self.convs, None]):
            assert this is not None
            plain, s = this(s, state, kept, after)
            kept = kept if plain is None else plain
        return s[:, :, 0].clamp(-1, 1)

    def compile(self, trials: Trials) -> None:
        """What trials will run, on all cores: one after the other they take most of a minute."""
        with ThreadPoolExecutor(os.cpu_count()) as pool, triton.AsyncCompileMode(pool):
            for this, batch, length in self._calls(trials):
                this(*this.trial(batch, length), compile_only=True)

    def gap(self, trials: Trials) -> float:
        """The largest difference of one of them from its plain layers, on random numbers."""
        return max(gap for this, *size in self._calls(trials) for gap in this.gaps(*size))

    def _calls(self, trials: Trials) -> Iterator[tuple[FusedConv, int, int]]:
        """Each with the rows and times that it has in each of the trials."""
        for batch, length in trials:
            for this in self.convs:
                yield this, batch, length
                length *= this.rate


def fuse_codec_(
    decoder: CodecDecoder, name: str, measure: Measure = graph_seconds, trials: Trials = TRIALS
) -> Check:
    """Kernels take the place of the decoder's plain convolutions, if they give the same and take no
    longer; how these compare. `trials`: rows and times for comparing, the last for measuring.
    """
    bias = decoder.first_conv.bias
    allowed, device = ALLOWED[bias.dtype], bias.device
    try:
        fused = CodecConvolutions(decoder)
        fused.compile(trials)
        gap = fused.gap(trials)
        batch, length = trials[-1]
        x = bias.new_empty(batch, fused.convs[0].in_, length).normal_()
        state = {
            name: bias.new_zeros(batch, *shape) for name, shape in decoder.state_shapes().items()
        }
        seconds, plain_seconds = (
            measure(lambda run=run: run(x, dict(state)), device)  # type: ignore[misc]
            for run in (fused, decoder.convolve)
        )
    except Exception as error:  # whatever compiler and driver raise
        return Check(name, error=reason(error))
    check = Check(name, "", gap, allowed, seconds, plain_seconds)
    if not (check.fault or check.is_slower):
        decoder.use_kernels_(fused)
    return check


def _convs(decoder: CodecDecoder) -> Iterator[FusedConv]:
    """In the order of the signal, each with the activation of what comes next."""
    blocks = list(decoder.blocks)
    yield FusedConv(decoder.first_conv, blocks[0].act)
    for block, act in zip(blocks, [*(b.act for b in blocks[1:]), decoder.last_act], strict=True):
        units = list(block.units)
        yield FusedConv(block.upsample, units[0].act1, keeps=True)
        for unit, then in pairwise([*units, None]):
            assert unit is not None
            yield FusedConv(unit.conv1, unit.act2)
            next_act = then.act1 if then else act
            yield FusedConv(unit.conv2, next_act, adds=True, keeps=then is not None)
    yield FusedConv(decoder.last_conv, None)
