"""A checkpoint directory on disk, and the nets in it.

`resolve` turns what the configuration says (a directory, a Hugging Face id, "embedded") into a
local directory; `load` reads the nets of it straight to the device and dtype they run in.
"""

from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch

from engine.config import EMBEDDED, ModelSpec
from engine.errors import CheckpointError
from engine.layers.linear import Linear
from engine.loader.forms import Forms
from engine.loader.host_memory import freed_at_once
from engine.models import codec_decoder, codec_encoder
from engine.models.code_predictor import CodePredictor
from engine.models.codec_decoder import CodecDecoder
from engine.models.codec_encoder import CodecEncoder
from engine.models.config import CodecConfig, GenerationConfig, ModelConfig, read_config
from engine.models.speaker_encoder import SpeakerEncoder
from engine.models.talker import Talker
from engine.models.weights import load_weights
from engine.protocol import ModelInfo

DATA = Path(__file__).parent.parent / "data"
CODEC = "speech_tokenizer"
FILES = ("*.json", "merges.txt", "model.safetensors", "speech_tokenizer/*")
REQUIRED = ("config.json", "vocab.json", "merges.txt", "tokenizer_config.json", "model.safetensors")


@dataclass(frozen=True)
class Checkpoint:
    """One loaded checkpoint but for its talker. The encoders are there for Base only."""

    info: ModelInfo
    config: ModelConfig
    generation: GenerationConfig
    codec_config: CodecConfig
    speaker_encoder: SpeakerEncoder | None
    codec_encoder: CodecEncoder | None


@dataclass(frozen=True)
class TalkerCheckpoint(Checkpoint):
    """With the talker's nets as ours."""

    talker: Talker
    predictor: CodePredictor


def resolve(spec: ModelSpec) -> Path:
    """The local directory of a checkpoint, downloaded first where need be."""
    if spec.checkpoint in EMBEDDED:
        return DATA / EMBEDDED[spec.checkpoint]
    path = Path(spec.checkpoint).expanduser()
    if path.is_dir():
        return path
    if (
        path.is_absolute()
        or spec.checkpoint.startswith((".", "~"))
        or spec.checkpoint.count("/") != 1
    ):
        raise CheckpointError(
            f"checkpoint {spec.checkpoint!r} of model {spec.id!r}: no such directory, "
            "and not a Hugging Face id (owner/name)"
        )
    return _download(spec)


def _download(spec: ModelSpec) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(
            snapshot_download(spec.checkpoint, revision=spec.revision, allow_patterns=list(FILES))
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise CheckpointError(
            f"checkpoint {spec.checkpoint!r} of model {spec.id!r} could not be downloaded: "
            f"{reason} (check the name and the network, or give a local directory)"
        ) from None


def codec_folder(path: Path) -> Path:
    """Where the codec of a checkpoint lies. The embedded ones share the first one's."""
    return DATA / EMBEDDED["embedded"] / CODEC if path.parent == DATA else path / CODEC


def codec_weights(path: Path) -> Path:
    return codec_folder(path) / "model.safetensors"


def read_info(spec: ModelSpec, path: Path) -> tuple[ModelConfig, ModelInfo]:
    """config.json, and what of it the HTTP side gets to know."""
    codec = codec_folder(path)
    for file in (*(path / name for name in REQUIRED), codec / "config.json", codec_weights(path)):
        if not file.is_file():
            raise CheckpointError(f"{file}: file is missing; is {path} a complete checkpoint?")
    config = read_config(path / "config.json", ModelConfig)
    _check_ids(path / "config.json", config)
    talker = config.talker_config
    info = ModelInfo(
        id=spec.id,
        path=str(path),
        model_type=config.tts_model_type,
        model_size=config.tts_model_size,
        speakers=talker.spk_id,
        speaker_dialects={
            name: d for name, d in talker.spk_is_dialect.items() if isinstance(d, str)
        },
        languages=talker.codec_language_id,
        supports_instruct=config.supports_instruct,
        random_weights=config.qtts_random_weights,
        embedding_size=talker.hidden_size if config.tts_model_type == "base" else 0,
        speaker_gains_db=config.qtts_speaker_gains_db,
        uses_ref_text=config.qtts_uses_ref_text,
    )
    return config, info


def _check_ids(path: Path, config: ModelConfig) -> None:
    """Every id that config.json names has a row in the embeddings."""
    c = config.talker_config
    codec = {name: getattr(c, name) for name in c.__struct_fields__ if name.endswith("_id")}
    named = {f"spk_id.{name}": id_ for name, id_ in c.spk_id.items()}
    named |= {f"codec_language_id.{name}": id_ for name, id_ in c.codec_language_id.items()}
    text = {name: getattr(config, f"tts_{name}_token_id") for name in ("pad", "bos", "eos")}
    rows = [(f"talker_config.{name}", id_, c.vocab_size) for name, id_ in (codec | named).items()]
    rows += [(f"tts_{name}_token_id", id_, c.text_vocab_size) for name, id_ in text.items()]
    for name, id_, size in rows:
        if isinstance(id_, int) and not 0 <= id_ < size:
            raise CheckpointError(f"{path}: {name} is {id_}, and the vocabulary has {size} entries")


def load(
    spec: ModelSpec,
    path: Path,
    dtype: torch.dtype,
    device: torch.device,
    forms: Forms | None = None,
) -> TalkerCheckpoint:
    """Everything of a checkpoint but the codec decoder, which is shared (load_codec). Without
    `forms` the weights stay plain.
    """
    ends = load_ends(spec, path, dtype, device)
    c, weights = ends.config.talker_config, path / "model.safetensors"
    with freed_at_once():
        with _building(path / "config.json", dtype, device):
            talker, predictor = Talker(c), CodePredictor(c)
        with forms.of(weights, talker, predictor) if forms else nullcontext(_stays) as complete:
            load_weights(
                weights,
                (slot for net in (talker, predictor) for slot in net.weight_map()),
                unused=lambda name: (
                    ends.speaker_encoder is not None and not name.startswith("talker.")
                ),
                complete=complete,
            )
    return TalkerCheckpoint(**vars(ends), talker=talker, predictor=predictor)


def load_ends(spec: ModelSpec, path: Path, dtype: torch.dtype, device: torch.device) -> Checkpoint:
    """A checkpoint without the nets that a talker engine runs."""
    config, info = read_info(spec, path)
    codec_config = read_config(codec_folder(path) / "config.json", CodecConfig)
    generation_file = path / "generation_config.json"
    generation = (
        read_config(generation_file, GenerationConfig)
        if generation_file.is_file()
        else GenerationConfig()
    )
    is_base = config.tts_model_type == "base"
    speaker_config = config.speaker_encoder_config if is_base else None
    if is_base and speaker_config is None:
        raise CheckpointError(
            f"{path / 'config.json'}: a base checkpoint needs speaker_encoder_config"
        )
    speaker_encoder = None
    if speaker_config is not None:
        with _building(path / "config.json", dtype, device):
            speaker_encoder = SpeakerEncoder(speaker_config)
        load_weights(
            path / "model.safetensors",
            speaker_encoder.weight_map(),
            unused=lambda name: name.startswith("talker."),
        )
    encoder = load_codec_encoder(path, codec_config, device) if is_base else None
    return Checkpoint(info, config, generation, codec_config, speaker_encoder, encoder)


def _stays(linear: Linear) -> None:
    pass


def load_codec(path: Path, dtype: torch.dtype, device: torch.device) -> CodecDecoder:
    """The codec decoder of a checkpoint directory."""
    decoder = build_codec(path, dtype, device)
    load_weights(codec_weights(path), decoder.weight_map(), unused=codec_decoder.is_unused)
    decoder.finish_loading()
    return decoder


def build_codec(path: Path, dtype: torch.dtype, device: torch.device) -> CodecDecoder:
    """Without its weights."""
    config_file = codec_folder(path) / "config.json"
    config = read_config(config_file, CodecConfig)
    with _building(config_file, dtype, device):
        return CodecDecoder(config.decoder_config)


def load_codec_encoder(path: Path, config: CodecConfig, device: torch.device) -> CodecEncoder:
    with _building(codec_folder(path) / "config.json", torch.float32, device):
        encoder = CodecEncoder(config)
    load_weights(codec_weights(path), encoder.weight_map(), unused=codec_encoder.is_unused)
    encoder.finish_loading()
    return encoder


class _building:
    """Parameters made inside get this dtype and device; no initialisation runs, every value comes
    from the file. Whatever fails inside is the fault of the configuration at `path`.
    """

    def __init__(self, path: Path, dtype: torch.dtype, device: torch.device) -> None:
        self.path, self.dtype, self.device = path, dtype, device

    def __enter__(self) -> None:
        self.previous = torch.get_default_dtype()
        torch.set_default_dtype(self.dtype)
        self.device.__enter__()

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        self.device.__exit__(kind, error, traceback)
        torch.set_default_dtype(self.previous)
        if isinstance(error, Exception):
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            raise CheckpointError(
                f"{self.path}: no model can be built from it ({reason})"
            ) from None
