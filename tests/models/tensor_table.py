"""Names and shapes of every tensor a Qwen3-TTS checkpoint holds, written out from its config: what
the nets ask for is compared with it. In the order of the files that the golden codes were made of.
"""

from collections.abc import Iterator

from engine.dummy.configs import Config
from engine.dummy.tensors import TensorSpec

Specs = Iterator[TensorSpec]

_RMS_NORMS = ("input_layernorm.weight", "post_attention_layernorm.weight")
_SCALES = ("self_attn_layer_scale.scale", "mlp_layer_scale.scale")


def model_tensors(config: Config) -> Specs:
    """Tensors of model.safetensors: talker, code predictor and, in Base, speaker encoder."""
    talker = config["talker_config"]
    predictor = talker["code_predictor_config"]
    hidden, narrow = talker["hidden_size"], predictor["hidden_size"]
    text = talker["text_hidden_size"]
    codes = range(talker["num_code_groups"] - 1)
    yield from _decoder("talker.model", talker)
    yield TensorSpec("talker.model.codec_embedding.weight", (talker["vocab_size"], hidden))
    yield TensorSpec("talker.model.text_embedding.weight", (talker["text_vocab_size"], text))
    yield from _linear("talker.text_projection.linear_fc1", text, text)
    yield from _linear("talker.text_projection.linear_fc2", text, hidden)
    yield TensorSpec("talker.codec_head.weight", (talker["vocab_size"], hidden))
    prefix, entries = "talker.code_predictor", predictor["vocab_size"]
    yield from _decoder(f"{prefix}.model", predictor)
    for i in codes:  # as wide as the talker: these embeddings are summed into its input
        yield TensorSpec(f"{prefix}.model.codec_embedding.{i}.weight", (entries, hidden))
    for i in codes:
        yield TensorSpec(f"{prefix}.lm_head.{i}.weight", (entries, narrow))
    if narrow != hidden:
        yield from _linear(f"{prefix}.small_to_mtp_projection", hidden, narrow)
    if "speaker_encoder_config" in config:
        yield from _speaker_encoder("speaker_encoder", config["speaker_encoder_config"])


def codec_tensors(config: Config) -> Specs:
    """Tensors of speech_tokenizer/model.safetensors: codec encoder and decoder."""
    yield from _codec_encoder(config["encoder_config"])
    yield from _codec_decoder(config["decoder_config"])


def _linear(prefix: str, inputs: int, outputs: int, *, bias: bool = True) -> Specs:
    yield TensorSpec(f"{prefix}.weight", (outputs, inputs))
    if bias:
        yield TensorSpec(f"{prefix}.bias", (outputs,))


def _conv(prefix: str, shape: tuple[int, ...], bias: int) -> Specs:
    """A convolution of any kind; `bias` is its number of output channels, 0 for none."""
    yield TensorSpec(f"{prefix}.weight", shape)
    if bias:
        yield TensorSpec(f"{prefix}.bias", (bias,))


def _vectors(prefix: str, size: int, *names: str) -> Specs:
    yield from (TensorSpec(f"{prefix}.{name}", (size,)) for name in names)


def _attention(prefix: str, config: Config) -> Specs:
    hidden, head = config["hidden_size"], config["head_dim"]
    query, key = config["num_attention_heads"] * head, config["num_key_value_heads"] * head
    yield from _linear(f"{prefix}.q_proj", hidden, query, bias=False)
    yield from _linear(f"{prefix}.k_proj", hidden, key, bias=False)
    yield from _linear(f"{prefix}.v_proj", hidden, key, bias=False)
    yield from _linear(f"{prefix}.o_proj", query, hidden, bias=False)


def _gated_mlp(prefix: str, config: Config) -> Specs:
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    yield from _linear(f"{prefix}.gate_proj", hidden, inner, bias=False)
    yield from _linear(f"{prefix}.up_proj", hidden, inner, bias=False)
    yield from _linear(f"{prefix}.down_proj", inner, hidden, bias=False)


def _decoder(prefix: str, config: Config) -> Specs:
    """A stack of Qwen3 decoder layers and the final norm."""
    hidden, head = config["hidden_size"], config["head_dim"]
    for i in range(config["num_hidden_layers"]):
        layer = f"{prefix}.layers.{i}"
        yield from _attention(f"{layer}.self_attn", config)
        yield from _vectors(f"{layer}.self_attn", head, "q_norm.weight", "k_norm.weight")
        yield from _gated_mlp(f"{layer}.mlp", config)
        yield from _vectors(layer, hidden, *_RMS_NORMS)
    yield from _vectors(prefix, hidden, "norm.weight")


# ---------------------------------------------------------------------------- speaker encoder

_ECAPA_DEFAULTS: Config = {
    "mel_dim": 128,
    "enc_channels": [512, 512, 512, 512, 1536],
    "enc_kernel_sizes": [5, 3, 3, 3, 1],
    "enc_attention_channels": 128,
    "enc_res2net_scale": 8,
    "enc_se_channels": 128,
}


def _speaker_encoder(prefix: str, config: Config) -> Specs:
    config = _ECAPA_DEFAULTS | config  # published files leave the defaults out
    channels, kernels = config["enc_channels"], config["enc_kernel_sizes"]
    attention, out = config["enc_attention_channels"], channels[-1]
    first = (channels[0], config["mel_dim"], kernels[0])
    yield from _conv(f"{prefix}.blocks.0.conv", first, channels[0])
    for i in range(1, len(channels) - 1):
        shape = (channels[i], channels[i - 1], kernels[i])
        yield from _se_res2net(f"{prefix}.blocks.{i}", shape, config)
    yield from _conv(f"{prefix}.mfa.conv", (out, sum(channels[1:-1]), kernels[-1]), out)
    yield from _conv(f"{prefix}.asp.tdnn.conv", (attention, 3 * out, 1), attention)
    yield from _conv(f"{prefix}.asp.conv", (out, attention, 1), out)
    yield from _conv(f"{prefix}.fc", (config["enc_dim"], 2 * out, 1), config["enc_dim"])


def _se_res2net(prefix: str, shape: tuple[int, int, int], config: Config) -> Specs:
    outputs, inputs, kernel = shape
    scale, squeeze = config["enc_res2net_scale"], config["enc_se_channels"]
    part = outputs // scale
    yield from _conv(f"{prefix}.tdnn1.conv", (outputs, inputs, 1), outputs)
    for i in range(scale - 1):
        yield from _conv(f"{prefix}.res2net_block.blocks.{i}.conv", (part, part, kernel), part)
    yield from _conv(f"{prefix}.tdnn2.conv", (outputs, outputs, 1), outputs)
    yield from _conv(f"{prefix}.se_block.conv1", (squeeze, outputs, 1), squeeze)
    yield from _conv(f"{prefix}.se_block.conv2", (outputs, squeeze, 1), outputs)


# ---------------------------------------------------------------------------- codec encoder


def _codec_encoder(config: Config) -> Specs:
    """A Mimi encoder: strided convolutions, transformer, downsampling, residual quantiser."""
    hidden, width = config["hidden_size"], config["num_filters"]
    layers = "encoder.encoder.layers"
    yield from _conv(f"{layers}.0.conv", (width, 1, config["kernel_size"]), width)
    for i, stride in enumerate(reversed(config["upsampling_ratios"])):
        half, kernel = width // config["compress"], config["residual_kernel_size"]
        unit = f"{layers}.{3 * i + 1}.block"
        yield from _conv(f"{unit}.1.conv", (half, width, kernel), half)
        yield from _conv(f"{unit}.3.conv", (width, half, 1), width)
        down = (2 * width, width, 2 * stride)
        yield from _conv(f"{layers}.{3 * i + 3}.conv", down, 2 * width)
        width *= 2
    last = 3 * len(config["upsampling_ratios"]) + 2
    yield from _conv(f"{layers}.{last}.conv", (hidden, width, config["last_kernel_size"]), hidden)
    for i in range(config["num_hidden_layers"]):
        yield from _mimi_layer(f"encoder.encoder_transformer.layers.{i}", config)
    yield from _conv("encoder.downsample.conv", (hidden, hidden, 4), 0)
    semantic = config["num_semantic_quantizers"]
    acoustic = config["num_quantizers"] - semantic
    for branch, books in (("semantic", semantic), ("acoustic", acoustic)):
        prefix = f"encoder.quantizer.{branch}_residual_vector_quantizer"
        yield from _mimi_quantizer(prefix, books, config)


def _mimi_layer(prefix: str, config: Config) -> Specs:
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    yield from _attention(f"{prefix}.self_attn", config)
    yield from _linear(f"{prefix}.mlp.fc1", hidden, inner, bias=False)
    yield from _linear(f"{prefix}.mlp.fc2", inner, hidden, bias=False)
    for norm in ("input_layernorm", "post_attention_layernorm"):
        yield from _vectors(f"{prefix}.{norm}", hidden, "weight", "bias")
    yield from _vectors(prefix, hidden, *_SCALES)


def _mimi_quantizer(prefix: str, books: int, config: Config) -> Specs:
    hidden, width = config["hidden_size"], config["vector_quantization_hidden_dimension"]
    entries, dim = config["codebook_size"], config["codebook_dim"]
    yield from _conv(f"{prefix}.input_proj", (width, hidden, 1), 0)
    yield from _conv(f"{prefix}.output_proj", (hidden, width, 1), 0)
    for i in range(books):
        book = f"{prefix}.layers.{i}.codebook"
        yield TensorSpec(f"{book}.initialized", (1,))
        yield TensorSpec(f"{book}.cluster_usage", (entries,))
        yield TensorSpec(f"{book}.embed_sum", (entries, dim))


# ---------------------------------------------------------------------------- codec decoder


def _codec_decoder(config: Config) -> Specs:
    latent, width = config["latent_dim"], config["decoder_dim"]
    books = config["num_quantizers"]
    yield from _split_quantizer("decoder.quantizer.rvq_first", 1, config)
    yield from _split_quantizer("decoder.quantizer.rvq_rest", books - 1, config)
    yield from _conv("decoder.pre_conv.conv", (latent, config["codebook_dim"], 3), latent)
    yield from _pre_transformer("decoder.pre_transformer", config)
    for i, factor in enumerate(config["upsampling_ratios"]):
        yield from _conv(f"decoder.upsample.{i}.0.conv", (latent, latent, factor), latent)
        yield from _convnext(f"decoder.upsample.{i}.1", latent)
    yield from _conv("decoder.decoder.0.conv", (width, latent, 7), width)
    for i, rate in enumerate(config["upsample_rates"], start=1):
        yield from _upsample_block(f"decoder.decoder.{i}.block", width, width // 2, rate)
        width //= 2
    yield from _vectors("decoder.decoder.5", width, "alpha", "beta")
    yield from _conv("decoder.decoder.6.conv", (1, width, 7), 1)


def _split_quantizer(prefix: str, books: int, config: Config) -> Specs:
    width, entries = config["codebook_dim"], config["codebook_size"]
    dim = width // 2
    yield from _conv(f"{prefix}.input_proj", (dim, width, 1), 0)
    yield from _conv(f"{prefix}.output_proj", (width, dim, 1), 0)
    for i in range(books):
        book = f"{prefix}.vq.layers.{i}._codebook"
        yield TensorSpec(f"{book}.cluster_usage", (entries,))
        yield TensorSpec(f"{book}.embedding_sum", (entries, dim))


def _pre_transformer(prefix: str, config: Config) -> Specs:
    hidden, latent = config["hidden_size"], config["latent_dim"]
    yield from _linear(f"{prefix}.input_proj", latent, hidden)
    for i in range(config["num_hidden_layers"]):
        layer = f"{prefix}.layers.{i}"
        yield from _attention(f"{layer}.self_attn", config)
        yield from _gated_mlp(f"{layer}.mlp", config)
        yield from _vectors(layer, hidden, *_RMS_NORMS, *_SCALES)
    yield from _vectors(prefix, hidden, "norm.weight")
    yield from _linear(f"{prefix}.output_proj", hidden, latent)


def _convnext(prefix: str, width: int) -> Specs:
    yield from _conv(f"{prefix}.dwconv.conv", (width, 1, 7), width)
    yield from _vectors(prefix, width, "norm.weight", "norm.bias", "gamma")
    yield from _linear(f"{prefix}.pwconv1", width, 4 * width)
    yield from _linear(f"{prefix}.pwconv2", 4 * width, width)


def _upsample_block(prefix: str, inputs: int, outputs: int, rate: int) -> Specs:
    yield from _vectors(f"{prefix}.0", inputs, "alpha", "beta")
    yield from _conv(f"{prefix}.1.conv", (inputs, outputs, 2 * rate), outputs)
    for unit in (f"{prefix}.{i}" for i in (2, 3, 4)):
        yield from _vectors(unit, outputs, "act1.alpha", "act1.beta", "act2.alpha", "act2.beta")
        yield from _conv(f"{unit}.conv1.conv", (outputs, outputs, 7), outputs)
        yield from _conv(f"{unit}.conv2.conv", (outputs, outputs, 1), outputs)
