"""Talker and code predictor of the official layout as trainable modules.

Parameter names are the checkpoint's after the prefix `talker.`. A sequence position carries an
optional text token, an optional row of the codec vocabulary or a speaker embedding, and (for
frames) codes 1..15.
"""

import torch
import torch.nn.functional as F
from torch import nn

from training.codec_model import MLP, RMSNorm, rope, rotate
from training.voice_space import SPEAKERS

CODES = 64
PREDICTOR = {
    "hidden_size": 192,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000,
    "vocab_size": CODES,
    "num_code_groups": 16,
}
TALKER = {
    "hidden_size": 256,
    "intermediate_size": 640,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000,
    "vocab_size": CODES + 1024,
    "num_code_groups": 16,
    "text_hidden_size": 256,
    "text_vocab_size": 704,
}
# control rows of the codec vocabulary, at the official distances from its first control row
CONTROL = {
    "codec_pad_id": 164,
    "codec_bos_id": 165,
    "codec_eos_token_id": 166,
    "codec_think_id": 170,
    "codec_nothink_id": 171,
    "codec_think_bos_id": 172,
    "codec_think_eos_id": 173,
}
ENGLISH = 66
SPEAKER_ROWS = {name: 900 + i for i, name in enumerate(SPEAKERS)}
GUIDED_LAYER = 2


class Attention(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.width, self.groups = (
            c["head_dim"],
            c["num_attention_heads"] // c["num_key_value_heads"],
        )
        inner, shared = (c[f"num_{n}_heads"] * self.width for n in ("attention", "key_value"))
        self.q_proj = nn.Linear(c["hidden_size"], inner, bias=False)
        self.k_proj, self.v_proj = (
            nn.Linear(c["hidden_size"], shared, bias=False) for _ in range(2)
        )
        self.o_proj = nn.Linear(inner, c["hidden_size"], bias=False)
        self.q_norm, self.k_norm = RMSNorm(self.width, 1e-6), RMSNorm(self.width, 1e-6)

    def forward(self, x, cos, sin):
        q, k, v = (
            p(x).unflatten(-1, (-1, self.width)).transpose(1, 2)
            for p in (self.q_proj, self.k_proj, self.v_proj)
        )
        q, k = rotate(self.q_norm(q), cos, sin), rotate(self.k_norm(k), cos, sin)
        q, k = q.to(v.dtype), k.to(v.dtype)
        k, v = k.repeat_interleave(self.groups, 1), v.repeat_interleave(self.groups, 1)
        return self.o_proj(attend(q, k, v).transpose(1, 2).flatten(2)), q, k


def attend(q, k, v):
    """Plain causal attention: on a CPU its backward is much faster than the fused one's."""
    if q.is_cuda:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)
    n = q.shape[2]
    score = (q * q.shape[-1] ** -0.5) @ k.transpose(2, 3)
    future = torch.ones(n, n, dtype=torch.bool).triu(1)
    return (
        torch.softmax(score.masked_fill(future, -torch.inf), -1, dtype=torch.float32).to(v.dtype)
        @ v
    )


class Layer(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.self_attn, self.mlp = Attention(c), MLP(c["hidden_size"], c["intermediate_size"])
        self.input_layernorm, self.post_attention_layernorm = (
            RMSNorm(c["hidden_size"], c["rms_norm_eps"]) for _ in range(2)
        )

    def forward(self, x, *where):
        y, q, k = self.self_attn(self.input_layernorm(x), *where)
        x = x + y
        return x + self.mlp(self.post_attention_layernorm(x)), q, k


class Stack(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.layers = nn.ModuleList(Layer(c) for _ in range(c["num_hidden_layers"]))
        self.norm = RMSNorm(c["hidden_size"], c["rms_norm_eps"])
        self.where = rope(2048, c["head_dim"], c["rope_theta"])

    def run(self, x):
        """Causal, whole sequence. Returns normed states and head 0's q, k of the guided layer."""
        cos, sin = (t[: x.shape[1]] for t in self.where)
        guided = None
        for i, layer in enumerate(self.layers):
            x, q, k = layer(x, cos, sin)
            if i == GUIDED_LAYER:
                guided = q[:, 0], k[:, 0]
        return self.norm(x), guided


class Predictor(nn.Module):
    def __init__(self, c, outer):
        super().__init__()
        self.model = Stack(c)
        self.model.codec_embedding = nn.ModuleList(nn.Embedding(CODES, outer) for _ in range(15))
        self.lm_head = nn.ModuleList(
            nn.Linear(c["hidden_size"], CODES, bias=False) for _ in range(15)
        )
        self.small_to_mtp_projection = nn.Linear(outer, c["hidden_size"])

    def embed(self, g, codes):
        return self.model.codec_embedding[g - 1](codes)


class Projection(nn.Module):
    def __init__(self, in_, out):
        super().__init__()
        self.linear_fc1, self.linear_fc2 = nn.Linear(in_, in_), nn.Linear(in_, out)

    def forward(self, x):
        return self.linear_fc2(F.silu(self.linear_fc1(x)))


class Talker(nn.Module):
    def __init__(self, c=TALKER, p=PREDICTOR):
        super().__init__()
        self.model = Stack(c)
        self.model.codec_embedding = nn.Embedding(c["vocab_size"], c["hidden_size"])
        self.model.text_embedding = nn.Embedding(c["text_vocab_size"], c["text_hidden_size"])
        self.text_projection = Projection(c["text_hidden_size"], c["hidden_size"])
        self.codec_head = nn.Linear(c["hidden_size"], c["vocab_size"], bias=False)
        self.code_predictor = Predictor(p, c["hidden_size"])
        self.apply(self._initialise)

    @staticmethod
    def _initialise(m):
        if isinstance(m, nn.Linear):
            nn.init.normal_(m.weight, std=m.in_features**-0.5)
        elif isinstance(m, nn.Embedding):
            nn.init.normal_(m.weight, std=0.3)
        elif isinstance(m, Layer):
            nn.init.normal_(
                m.self_attn.o_proj.weight, std=0.2 * m.self_attn.o_proj.in_features**-0.5
            )
            nn.init.normal_(m.mlp.down_proj.weight, std=0.2 * m.mlp.down_proj.in_features**-0.5)

    def embed(self, text, codec, codes, vectors=None):
        """text, codec [B, S] ids, -1 for none; codes 1..15 [B, S, 15], -1 for no frame; vectors: a
        speaker embedding [B, hidden] and the place [B] where it is added, -1 for nowhere.
        """
        x = (
            self.text_projection(self.model.text_embedding(text.clamp_min(0)))
            * (text >= 0)[..., None]
        )
        x = x + self.model.codec_embedding(codec.clamp_min(0)) * (codec >= 0)[..., None]
        if vectors is not None:
            rows, places = vectors
            here = torch.arange(text.shape[1]) == places[:, None]
            x = x + here[..., None] * rows[:, None].to(x.dtype)
        # the sum of a frame's rows as one product: many times faster to differentiate than a gather
        rows = torch.cat([e.weight for e in self.code_predictor.model.codec_embedding])
        index = codes.clamp_min(0) + CODES * torch.arange(15)
        frame = (codes[..., :1] >= 0).to(rows.dtype).expand(codes.shape)
        return x + torch.zeros(*codes.shape[:2], len(rows)).scatter_(-1, index, frame) @ rows

    def predict_codes(self, hidden, frames):
        """Teacher-forced logits of codes 1..15: hidden [N, H], frames [N, 16] -> 15 of [N, 64]."""
        p = self.code_predictor
        x = [hidden, self.model.codec_embedding(frames[:, 0])]
        x += [p.embed(g, frames[:, g]) for g in range(1, 15)]
        y, _ = p.model.run(p.small_to_mtp_projection(torch.stack(x, 1)))
        return [p.lm_head[g - 1](y[:, g]) for g in range(1, 16)]
