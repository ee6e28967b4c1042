"""Talker and code predictor of the official layout as trainable modules, and batched generation.

Parameter names are the checkpoint's after the prefix `talker.`. A sequence position carries an
optional text token, an optional row of the codec vocabulary, and (for frames) codes 1..15.
"""

import torch
import torch.nn.functional as F
from codec_model import MLP, RMSNorm, rope, rotate
from torch import nn

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
SPEAKERS = {"ava": 900, "max": 901}  # slt, rms
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

    def forward(self, x, cos, sin, past=None, mask=None):
        q, k, v = (
            p(x).unflatten(-1, (-1, self.width)).transpose(1, 2)
            for p in (self.q_proj, self.k_proj, self.v_proj)
        )
        q, k = rotate(self.q_norm(q), cos, sin), rotate(self.k_norm(k), cos, sin)
        q, k = q.to(v.dtype), k.to(v.dtype)
        if past is not None:
            k, v = past(k, v)
        k, v = k.repeat_interleave(self.groups, 1), v.repeat_interleave(self.groups, 1)
        y = attend(q, k, v) if mask is None else F.scaled_dot_product_attention(q, k, v, mask)
        return self.o_proj(y.transpose(1, 2).flatten(2)), q, k


def attend(q, k, v):
    """Plain causal attention: on a CPU its backward is much faster than the fused one's."""
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
        for g in (14, 15):  # codes without meaning
            nn.init.zeros_(self.code_predictor.model.codec_embedding[g - 1].weight)
            nn.init.zeros_(self.code_predictor.lm_head[g - 1].weight)

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

    def embed(self, text, codec, codes):
        """text, codec [B, S] ids, -1 for none; codes 1..13 [B, S, 13], -1 for no frame."""
        x = (
            self.text_projection(self.model.text_embedding(text.clamp_min(0)))
            * (text >= 0)[..., None]
        )
        x = x + self.model.codec_embedding(codec.clamp_min(0)) * (codec >= 0)[..., None]
        # the sum of a frame's rows as one product: many times faster to differentiate than a gather
        rows = torch.cat([e.weight for e in self.code_predictor.model.codec_embedding[:13]])
        index = codes.clamp_min(0) + CODES * torch.arange(13)
        frame = (codes[..., :1] >= 0).to(rows.dtype).expand(codes.shape)
        return x + torch.zeros(*codes.shape[:2], len(rows)).scatter_(-1, index, frame) @ rows

    def predict_codes(self, hidden, frames):
        """Teacher-forced logits of codes 1..13: hidden [N, H], frames [N, 14] -> 13 of [N, 64]."""
        p = self.code_predictor
        x = [hidden, self.model.codec_embedding(frames[:, 0])]
        x += [p.embed(g, frames[:, g]) for g in range(1, 13)]
        y, _ = p.model.run(p.small_to_mtp_projection(torch.stack(x, 1)))
        return [p.lm_head[g - 1](y[:, g]) for g in range(1, 14)]


class Cache:
    """Keys and values of one layer; rows write at their own positions."""

    def __init__(self, batch, heads, length, width):
        self.k, self.v = (torch.zeros(batch, heads, length, width) for _ in range(2))
        self.rows = torch.arange(batch)[:, None]

    def at(self, positions):
        def past(k, v):
            self.k[self.rows, :, positions] = k.transpose(1, 2)
            self.v[self.rows, :, positions] = v.transpose(1, 2)
            return self.k, self.v

        return past


def choose(logits, temperature, generator):
    if not temperature:
        return logits.argmax(-1)
    return torch.multinomial(F.softmax(logits / temperature, -1), 1, generator=generator)[:, 0]


@torch.no_grad()
def generate(model, prompts, limit=900, temperature=0.0, sub_temperature=0.0, seed=0):
    """prompts: list of (text ids, codec ids, trailing text ids, pad id), ids -1 for none.

    -> list of codes [T, 16] uint8; a row that never stopped has `limit` frames.
    """
    generator = torch.Generator().manual_seed(seed)
    batch, c = len(prompts), TALKER
    lengths = torch.tensor([len(p[0]) for p in prompts])
    longest = int(lengths.max())
    text, codec = (torch.full((batch, longest), -1) for _ in range(2))
    for i, p in enumerate(prompts):
        text[i, : len(p[0])], codec[i, : len(p[1])] = torch.tensor(p[0]), torch.tensor(p[1])
    caches = [
        Cache(batch, c["num_key_value_heads"], longest + limit, c["head_dim"])
        for _ in model.model.layers
    ]

    def forward(x, positions):
        cos, sin = (t[positions][:, None] for t in model.model.where)
        mask = (torch.arange(longest + limit) <= positions[..., None])[:, None]
        for layer, cache in zip(model.model.layers, caches, strict=True):
            x, _, _ = layer(x, cos, sin, cache.at(positions), mask)
        return model.model.norm(x)

    none = torch.full((batch, longest, 13), -1)
    h = forward(model.embed(text, codec, none), torch.arange(longest).expand(batch, -1))
    h = h[torch.arange(batch), lengths - 1]
    out, alive = [[] for _ in prompts], torch.ones(batch, dtype=torch.bool)
    for step in range(limit):
        logits = model.codec_head(h).float()
        logits[:, CODES : CONTROL["codec_eos_token_id"]] = -torch.inf
        logits[:, CONTROL["codec_eos_token_id"] + 1 :] = -torch.inf
        if step < 2:
            logits[:, CONTROL["codec_eos_token_id"]] = -torch.inf
        first = choose(logits, temperature, generator)
        alive &= first != CONTROL["codec_eos_token_id"]
        if not alive.any():
            break
        first = first.clamp_max(CODES - 1)
        codes = expand(
            model.code_predictor, h, model.model.codec_embedding(first), sub_temperature, generator
        )
        codes = torch.cat([first[:, None], codes], 1)
        for i in torch.nonzero(alive)[:, 0].tolist():
            out[i].append(codes[i].to(torch.uint8))
        trail = torch.tensor([[p[2][step] if step < len(p[2]) else p[3]] for p in prompts])
        x = model.embed(trail, first[:, None], codes[:, None, 1:14])
        h = forward(x, (lengths + step)[:, None])[:, 0]
    return [
        torch.stack(rows).numpy() if rows else torch.zeros(0, 16, dtype=torch.uint8).numpy()
        for rows in out
    ]


def expand(predictor, hidden, code0, temperature, generator):
    """Codes 1..15 of one frame of every row."""
    cos, sin = predictor.model.where
    caches = [
        Cache(len(hidden), PREDICTOR["num_key_value_heads"], 16, PREDICTOR["head_dim"])
        for _ in predictor.model.layers
    ]
    x, at, codes = torch.stack([hidden, code0], 1), torch.tensor([[0, 1]]), []
    for g in range(1, 14):
        x = predictor.small_to_mtp_projection(x)
        mask = (torch.arange(16) <= at[..., None])[:, None]
        for layer, cache in zip(predictor.model.layers, caches, strict=True):
            x, _, _ = layer(
                x, cos[at][:, None], sin[at][:, None], cache.at(at.expand(len(hidden), -1)), mask
            )
        y = predictor.model.norm(x[:, -1])
        codes.append(choose(predictor.lm_head[g - 1](y).float(), temperature, generator))
        x, at = predictor.embed(g, codes[-1])[:, None], torch.tensor([[g + 1]])
    return F.pad(torch.stack(codes, 1), (0, 2))
