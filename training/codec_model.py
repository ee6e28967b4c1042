"""The codec decoder of the official layout as trainable modules, under the checkpoint's names.

Shapes: codes [B, T, 16] -> latents [B, latent, 4T] at 50 Hz -> wave [B, 1920 T] at 24 kHz.
"""

import torch
import torch.nn.functional as F
from torch import nn

from training.conv import Conv, Snake, fits

CONFIG = {
    "attention_bias": False,
    "attention_dropout": 0.0,
    "codebook_dim": 384,
    "codebook_size": 64,
    "decoder_dim": 192,
    "head_dim": 64,
    "hidden_act": "silu",
    "hidden_size": 256,
    "intermediate_size": 640,
    "latent_dim": 256,
    "layer_scale_initial_scale": 0.01,
    "max_position_embeddings": 8000,
    "num_attention_heads": 4,
    "num_hidden_layers": 3,
    "num_key_value_heads": 4,
    "num_quantizers": 16,
    "num_semantic_quantizers": 1,
    "rms_norm_eps": 1e-05,
    "rope_theta": 10000,
    "semantic_codebook_size": 64,
    "sliding_window": 16,
    "upsample_rates": [8, 5, 4, 3],
    "upsampling_ratios": [2, 2],
    "vector_quantization_hidden_dimension": 64,
}


class CausalConv(nn.Module):
    def __init__(self, in_, out, kernel, dilation=1, groups=1):
        super().__init__()
        self.left = (kernel - 1) * dilation
        self.conv = nn.Conv1d(in_, out, kernel, dilation=dilation, groups=groups)

    def forward(self, x):
        conv = self.conv
        if conv.groups == 1 and conv.out_channels % 12 == 0 and fits(x, conv.kernel_size[0]):
            return Conv.apply(x, conv.weight, conv.bias, conv.dilation[0])
        return conv(F.pad(x, (self.left, 0)))


class CausalUp(nn.Module):
    def __init__(self, in_, out, kernel, stride):
        super().__init__()
        self.conv, self.cut = nn.ConvTranspose1d(in_, out, kernel, stride), kernel - stride

    def forward(self, x):
        y = self.conv(x)
        return y[..., : y.shape[-1] - self.cut] if self.cut else y


class SnakeBeta(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.alpha, self.beta = (
            nn.Parameter(torch.zeros(channels)),
            nn.Parameter(torch.zeros(channels)),
        )

    def forward(self, x):
        a, b = self.alpha.exp()[:, None], 1 / (self.beta.exp()[:, None] + 1e-9)
        if fits(x):
            return Snake.apply(x, a, b)
        return x + torch.sin(x * a).square() * b


class RMSNorm(nn.Module):
    def __init__(self, width, eps):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(width)), eps

    def forward(self, x):
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)


class Scale(nn.Module):
    def __init__(self, width, initial):
        super().__init__()
        self.scale = nn.Parameter(torch.full((width,), initial))

    def forward(self, x):
        return self.scale * x


def rope(length, width, theta):
    freq = theta ** (-torch.arange(0, width, 2) / width)
    angle = torch.outer(torch.arange(length), freq)
    angle = torch.cat([angle, angle], -1)
    return angle.cos(), angle.sin()


def rotate(x, cos, sin):
    a, b = x.chunk(2, -1)
    return x * cos + torch.cat([-b, a], -1) * sin


class Attention(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.heads, self.width = c["num_attention_heads"], c["head_dim"]
        inner = self.heads * self.width
        self.q_proj, self.k_proj, self.v_proj = (
            nn.Linear(c["hidden_size"], inner, bias=False) for _ in range(3)
        )
        self.o_proj = nn.Linear(inner, c["hidden_size"], bias=False)

    def forward(self, x, cos, sin, mask):
        split = [
            p(x).unflatten(-1, (self.heads, self.width)).transpose(1, 2)
            for p in (self.q_proj, self.k_proj, self.v_proj)
        ]
        y = F.scaled_dot_product_attention(
            rotate(split[0], cos, sin), rotate(split[1], cos, sin), split[2], mask
        )
        return self.o_proj(y.transpose(1, 2).flatten(2))


class MLP(nn.Module):
    def __init__(self, width, inner):
        super().__init__()
        self.gate_proj, self.up_proj = (
            nn.Linear(width, inner, bias=False),
            nn.Linear(width, inner, bias=False),
        )
        self.down_proj = nn.Linear(inner, width, bias=False)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    def __init__(self, c):
        super().__init__()
        width = c["hidden_size"]
        self.self_attn, self.mlp = Attention(c), MLP(width, c["intermediate_size"])
        self.input_layernorm, self.post_attention_layernorm = (
            RMSNorm(width, c["rms_norm_eps"]) for _ in range(2)
        )
        self.self_attn_layer_scale, self.mlp_layer_scale = Scale(width, 0.3), Scale(width, 0.3)

    def forward(self, x, *where):
        x = x + self.self_attn_layer_scale(self.self_attn(self.input_layernorm(x), *where))
        return x + self.mlp_layer_scale(self.mlp(self.post_attention_layernorm(x)))


class PreTransformer(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c = c
        self.input_proj = nn.Linear(c["latent_dim"], c["hidden_size"])
        self.layers = nn.ModuleList(Layer(c) for _ in range(c["num_hidden_layers"]))
        self.norm = RMSNorm(c["hidden_size"], c["rms_norm_eps"])
        self.output_proj = nn.Linear(c["hidden_size"], c["latent_dim"])

    def forward(self, x):
        n = x.shape[1]
        ago = torch.arange(n)[:, None] - torch.arange(n)
        mask = (ago >= 0) & (ago < self.c["sliding_window"])
        cos, sin = rope(n, self.c["head_dim"], self.c["rope_theta"])
        x = self.input_proj(x)
        for layer in self.layers:
            x = layer(x, cos, sin, mask)
        return self.output_proj(self.norm(x))


class ConvNeXt(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.dwconv, self.norm = (
            CausalConv(width, width, 7, groups=width),
            nn.LayerNorm(width, eps=1e-6),
        )
        self.pwconv1, self.pwconv2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.gamma = nn.Parameter(torch.full((width,), 0.3))

    def forward(self, x):
        y = self.norm(self.dwconv(x).transpose(1, 2))
        return x + (self.gamma * self.pwconv2(F.gelu(self.pwconv1(y)))).transpose(1, 2)


class ResidualUnit(nn.Module):
    def __init__(self, width, dilation):
        super().__init__()
        self.act1, self.conv1 = SnakeBeta(width), CausalConv(width, width, 7, dilation)
        self.act2, self.conv2 = SnakeBeta(width), CausalConv(width, width, 1)

    def forward(self, x):
        return x + self.conv2(self.act2(self.conv1(self.act1(x))))


class Block(nn.Module):
    def __init__(self, in_, rate):
        super().__init__()
        self.block = nn.Sequential(
            SnakeBeta(in_),
            CausalUp(in_, in_ // 2, 2 * rate, rate),
            *(ResidualUnit(in_ // 2, d) for d in (1, 3, 9)),
        )

    def forward(self, x):
        return self.block(x)


class CodecDecoder(nn.Module):
    def __init__(self, c=CONFIG):
        super().__init__()
        width, latent, top = c["codebook_dim"] // 2, c["latent_dim"], c["decoder_dim"]
        self.config = c
        self.tables = nn.Parameter(torch.randn(16, c["codebook_size"], width) * 0.5)
        self.first_out, self.rest_out = (
            nn.Linear(width, c["codebook_dim"], bias=False) for _ in range(2)
        )
        self.pre_conv = CausalConv(c["codebook_dim"], latent, 3)
        self.pre_transformer = PreTransformer(c)
        self.upsample = nn.ModuleList(
            nn.ModuleList([CausalUp(latent, latent, r, r), ConvNeXt(latent)])
            for r in c["upsampling_ratios"]
        )
        stages = [CausalConv(latent, top, 7)]
        stages += [Block(top >> i, r) for i, r in enumerate(c["upsample_rates"])]
        stages += [SnakeBeta(top >> 4), CausalConv(top >> 4, 1, 7)]
        self.decoder = nn.ModuleList(stages)

    def latents(self, codes):
        rows = F.embedding(codes + 64 * torch.arange(16), self.tables.flatten(0, 1))
        x = self.first_out(rows[:, :, 0]) + self.rest_out(rows[:, :, 1:].sum(2))
        x = self.pre_transformer(self.pre_conv(x.transpose(1, 2)).transpose(1, 2)).transpose(1, 2)
        for up, mix in self.upsample:
            x = mix(up(x))
        return x

    def wave(self, x):
        for stage in self.decoder:
            x = stage(x)
        return x[:, 0]

    def forward(self, codes):
        return self.wave(self.latents(codes)).clamp(-1, 1)

    def exported(self):
        """Tensors under the official names."""
        out = {}
        for name, tensor in self.state_dict().items():
            if not name.startswith(("tables", "first_out", "rest_out")):
                out[f"decoder.{name}"] = tensor
        size, width = self.tables.shape[1:]
        for branch, project, tables in (
            ("first", self.first_out, self.tables[:1]),
            ("rest", self.rest_out, self.tables[1:]),
        ):
            prefix = f"decoder.quantizer.rvq_{branch}"
            out[f"{prefix}.input_proj.weight"] = torch.zeros(width, 2 * width, 1)
            out[f"{prefix}.output_proj.weight"] = project.weight[..., None]
            for i, table in enumerate(tables):
                out[f"{prefix}.vq.layers.{i}._codebook.cluster_usage"] = torch.ones(size)
                out[f"{prefix}.vq.layers.{i}._codebook.embedding_sum"] = table
        return {k: v.detach().clone().contiguous() for k, v in out.items()}
