"""What qwentts.cpp calls the tensors of a checkpoint. Needs nothing, so it runs anywhere."""

import re

LAYER = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
TALKER = {
    r"talker\.model\.codec_embedding\.": "talker.codec_embd.",
    r"talker\.model\.text_embedding\.": "talker.text_embd.",
    r"talker\.text_projection\.linear_fc": "talker.text_proj.fc",
    r"talker\.model\.norm\.": "talker.output_norm.",
    r"talker\.code_predictor\.model\.norm\.": "code_pred.output_norm.",
    r"talker\.code_predictor\.model\.codec_embedding\.": "code_pred.codec_embd.",
    r"talker\.code_predictor\.lm_head\.": "code_pred.lm_head.",
    r"talker\.code_predictor\.small_to_mtp_projection\.": "code_pred.mtp_proj.",
    r"talker\.code_predictor\.model\.layers\.(\d+)\.": r"code_pred.blk.\1.",
    r"talker\.model\.layers\.(\d+)\.": r"talker.blk.\1.",
}
CODEC = {
    r"decoder\.pre_transformer\.layers\.(\d+)\.self_attn_layer_scale\.scale": (
        r"tok_dec.pre_tfm.blk.\1.attn_scale"
    ),
    r"decoder\.pre_transformer\.layers\.(\d+)\.mlp_layer_scale\.scale": (
        r"tok_dec.pre_tfm.blk.\1.ffn_scale"
    ),
    r"decoder\.pre_transformer\.layers\.(\d+)\.": r"tok_dec.pre_tfm.blk.\1.",
    r"decoder\.pre_transformer\.": "tok_dec.pre_tfm.",
    r"decoder\.pre_conv\.conv\.": "tok_dec.pre_conv.",
    r"decoder\.quantizer\.rvq_(\w+)\.output_proj\.": r"tok_dec.vq_\1.output_proj.",
    r"decoder\.upsample\.(\d)\.0\.": r"tok_dec.upsample.\1.",
    r"decoder\.upsample\.(\d)\.1\.dwconv\.conv\.": r"tok_dec.upsample.\1.dwconv.",
    r"decoder\.upsample\.(\d)\.1\.": r"tok_dec.upsample.\1.",
    r"decoder\.decoder\.(\d)\.block\.0\.": r"tok_dec.dec.\1.snake.",
    r"decoder\.decoder\.(\d)\.block\.1\.conv\.": r"tok_dec.dec.\1.conv_t.",
    r"decoder\.decoder\.5\.": "tok_dec.dec.5.snake.",
    r"decoder\.decoder\.": "tok_dec.dec.",
}


def renamed(name: str, rules: dict[str, str]) -> str:
    for pattern, new in rules.items():
        name, found = re.subn(f"^{pattern}", new, name)
        if found:
            break
    for old, new in LAYER.items():
        name = name.replace(f".{old}.", f".{new}.") if ".blk." in name else name
    return re.sub(
        r"\.block\.([234])\.(\w+)\.(?:conv\.)?",
        lambda m: f".res.{int(m[1]) - 2}.{m[2]}.",
        name,
    )
