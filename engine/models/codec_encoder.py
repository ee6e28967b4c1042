"""The codec encoder (Base checkpoints): 24 kHz audio -> frames of 16 codes. Runs once per reference
voice, in float32.

A Mimi encoder: causal SEANet convolutions, a causal transformer, a stride-2 convolution, residual
vector quantisation. Written out here rather than taken from a library, because the official
behaviour is that of one particular release: full causal attention (the configured window is not
applied) and replicate padding before the last convolution.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.layers.linear import Linear
from engine.layers.modules import Modules, NamedModules
from engine.layers.rotary import RotaryTable, rotate
from engine.models.config import CodecConfig
from engine.models.weights import ParamView


class PaddedConv(nn.Module):
    """Conv1d padded by kernel - stride on the left, on the right until the last window is full."""

    def __init__(
        self,
        in_: int,
        out: int,
        kernel: int,
        stride: int = 1,
        bias: bool = True,
        mode: str = "constant",
    ):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out, in_, kernel), requires_grad=False)
        self.bias = nn.Parameter(torch.empty(out), requires_grad=False) if bias else None
        self.stride, self.left, self.mode = stride, kernel - stride, mode

    def forward(self, x: Tensor) -> Tensor:
        right = -x.shape[-1] % self.stride
        return F.conv1d(
            F.pad(x, (self.left, right), mode=self.mode), self.weight, self.bias, stride=self.stride
        )

    def weight_map(self, prefix: str) -> Iterator[tuple[str, ParamView]]:
        yield f"{prefix}.weight", ParamView(self.weight)
        if self.bias is not None:
            yield f"{prefix}.bias", ParamView(self.bias)


class ResidualBlock(nn.Module):
    def __init__(self, channels: int, kernel: int, compress: int) -> None:
        super().__init__()
        self.conv1 = PaddedConv(channels, channels // compress, kernel)
        self.conv2 = PaddedConv(channels // compress, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.elu(self.conv1(F.elu(x))))


class CausalLayer(nn.Module):
    """Pre-LayerNorm transformer layer with layer scales; full causal attention."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        width, inner, self.eps = (
            config["hidden_size"],
            config["intermediate_size"],
            config["norm_eps"],
        )
        self.heads = config["num_attention_heads"]
        self.head_dim = config.get("head_dim") or width // self.heads
        assert config["num_key_value_heads"] == self.heads, "the encoder has no grouped queries"
        proj = self.heads * self.head_dim
        self.q, self.k, self.v = (Linear(width, proj) for _ in range(3))
        self.o = Linear(proj, width)
        self.fc1, self.fc2 = Linear(width, inner), Linear(inner, width)
        self.vectors = nn.ParameterDict(
            {
                name: nn.Parameter(torch.empty(width), requires_grad=False)
                for name in ("norm1_w", "norm1_b", "norm2_w", "norm2_b", "attn_scale", "mlp_scale")
            }
        )

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """x [T, width]; cos, sin [T, D]."""
        p = self.vectors
        h = F.layer_norm(x, x.shape[-1:], p["norm1_w"], p["norm1_b"], self.eps)
        q, k, v = (
            proj(h).view(len(x), self.heads, -1).transpose(0, 1)
            for proj in (self.q, self.k, self.v)
        )
        y = F.scaled_dot_product_attention(
            rotate(q, cos, sin)[None], rotate(k, cos, sin)[None], v[None], is_causal=True
        )
        x = x + p["attn_scale"] * self.o(y[0].transpose(0, 1).flatten(1))
        h = F.layer_norm(x, x.shape[-1:], p["norm2_w"], p["norm2_b"], self.eps)
        return x + p["mlp_scale"] * self.fc2(F.gelu(self.fc1(h)))

    def weight_map(self, prefix: str) -> Iterator[tuple[str, ParamView]]:
        for name in ("q", "k", "v", "o"):
            yield f"{prefix}.self_attn.{name}_proj.weight", ParamView(getattr(self, name).weight)
        yield f"{prefix}.mlp.fc1.weight", ParamView(self.fc1.weight)
        yield f"{prefix}.mlp.fc2.weight", ParamView(self.fc2.weight)
        p = self.vectors
        for norm, key in (("input_layernorm", "norm1"), ("post_attention_layernorm", "norm2")):
            yield f"{prefix}.{norm}.weight", ParamView(p[f"{key}_w"])
            yield f"{prefix}.{norm}.bias", ParamView(p[f"{key}_b"])
        yield f"{prefix}.self_attn_layer_scale.scale", ParamView(p["attn_scale"])
        yield f"{prefix}.mlp_layer_scale.scale", ParamView(p["mlp_scale"])


class Quantizer(nn.Module):
    """Residual vector quantisation over `num_books` codebooks, behind a 1x1 input projection."""

    def __init__(self, width: int, vq_width: int, size: int, num_books: int) -> None:
        super().__init__()
        self.input_proj = Linear(width, vq_width)
        self.tables = nn.Parameter(torch.empty(num_books, size, vq_width), requires_grad=False)
        self.usage = nn.Parameter(torch.empty(num_books, size), requires_grad=False)

    def finish_loading(self) -> None:
        self.tables.div_(self.usage.clamp_min(1e-5)[..., None])

    def forward(self, x: Tensor) -> Tensor:
        """x [T, width] -> codes [T, num_books] int64."""
        residual = self.input_proj(x)
        codes = []
        for table in self.tables:
            nearest = torch.cdist(residual[None], table[None])[0].argmin(dim=-1)
            residual = residual - table[nearest]
            codes.append(nearest)
        return torch.stack(codes, dim=1)

    def weight_map(self, prefix: str) -> Iterator[tuple[str, ParamView]]:
        yield f"{prefix}.input_proj.weight", ParamView(self.input_proj.weight[..., None])
        for i, (table, usage) in enumerate(zip(self.tables, self.usage, strict=True)):
            yield f"{prefix}.layers.{i}.codebook.embed_sum", ParamView(table)
            yield f"{prefix}.layers.{i}.codebook.cluster_usage", ParamView(usage)


class CodecEncoder(nn.Module):
    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        c = config.encoder_config
        self.config = c
        channels, width = c["num_filters"], c["hidden_size"]
        # SEANet, indexed as in the checkpoint: 0 conv, then (residual, ELU, strided conv) per
        # ratio, ELU, last conv.
        self.convs: NamedModules[PaddedConv] = NamedModules(
            {"0": PaddedConv(c.get("audio_channels", 1), channels, c["kernel_size"])}
        )
        self.blocks: NamedModules[ResidualBlock] = NamedModules()
        index = 1
        for ratio in reversed(c["upsampling_ratios"]):
            self.blocks[str(index)] = ResidualBlock(
                channels, c["residual_kernel_size"], c["compress"]
            )
            self.convs[str(index + 2)] = PaddedConv(channels, channels * 2, 2 * ratio, ratio)
            channels, index = channels * 2, index + 3
        self.last = str(index + 1)
        self.convs[self.last] = PaddedConv(channels, width, c["last_kernel_size"])
        self.layers = Modules(CausalLayer(c) for _ in range(c["num_hidden_layers"]))
        self.downsample = PaddedConv(width, width, 4, 2, bias=False, mode="replicate")
        vq, size = c["vector_quantization_hidden_dimension"], c["codebook_size"]
        num_semantic = c.get("num_semantic_quantizers", 1)
        self.semantic = Quantizer(width, vq, size, num_semantic)
        self.acoustic = Quantizer(
            width, vq, size, config.encoder_valid_num_quantizers - num_semantic
        )

    def finish_loading(self) -> None:
        self.semantic.finish_loading()
        self.acoustic.finish_loading()

    def forward(self, wave: Tensor) -> Tensor:
        """wave [S] float32 at 24 kHz -> codes [ceil(S / 1920), 16] int64."""
        x = self.convs["0"](wave[None, None])
        for index, block in self.blocks.items():
            x = self.convs[str(int(index) + 2)](F.elu(block(x)))
        x = self.convs[self.last](F.elu(x))[0].T  # [T, width] at 25 Hz
        head_dim = next(iter(self.layers)).head_dim
        rotary = RotaryTable(head_dim, self.config["rope_theta"], len(x), torch.float32, x.device)
        for layer in self.layers:
            x = layer(x, rotary.cos, rotary.sin)
        x = self.downsample(x.T[None])[0].T
        return torch.cat([self.semantic(x), self.acoustic(x)], dim=1)

    def weight_map(self) -> Iterator[tuple[str, ParamView]]:
        """Where each tensor of the checkpoint goes."""
        for index, conv in self.convs.items():
            yield from conv.weight_map(f"encoder.encoder.layers.{index}.conv")
        for index, block in self.blocks.items():
            yield from block.conv1.weight_map(f"encoder.encoder.layers.{index}.block.1.conv")
            yield from block.conv2.weight_map(f"encoder.encoder.layers.{index}.block.3.conv")
        for i, layer in enumerate(self.layers):
            yield from layer.weight_map(f"encoder.encoder_transformer.layers.{i}")
        yield from self.downsample.weight_map("encoder.downsample.conv")
        yield from self.semantic.weight_map("encoder.quantizer.semantic_residual_vector_quantizer")
        yield from self.acoustic.weight_map("encoder.quantizer.acoustic_residual_vector_quantizer")


def is_unused(name: str) -> bool:
    """Tensors of the codec file that encoding never reads: the decoder's, and training leftovers of
    the quantiser.
    """
    quantizer = "encoder.quantizer."
    return name.startswith("decoder.") or (
        name.startswith(quantizer)
        and (name.endswith(".output_proj.weight") or ".codebook." in name)
    )
