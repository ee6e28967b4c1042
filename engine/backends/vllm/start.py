"""From a configuration and a memory plan to a VllmTalkerEngine that is ready to step."""

import torch

from engine.backends.vllm import options
from engine.config import EngineConfig
from engine.errors import CheckpointError
from engine.layers.linear import WeightForm
from engine.loader.checkpoint import Checkpoint
from engine.talker_engine import TalkerEngine


def vllm_talker(
    config: EngineConfig,
    checkpoint: Checkpoint,
    dtype: torch.dtype,
    device: torch.device,
    *,
    num_rows: int,
    num_blocks: int,
    kernels: bool,
    form: WeightForm | None,
) -> TalkerEngine:
    """CheckpointError says what vLLM does not take, or that it is not installed."""
    c = checkpoint.config.talker_config
    args = options.arguments(
        config,
        checkpoint.info.path,
        dtype,
        device,
        num_rows=num_rows,
        num_blocks=num_blocks,
        block_bytes=config.block_size * options.position_bytes(c, config, dtype),
    )
    options.prepare_environment(config, device)
    try:
        from engine.backends.vllm.talker import launch
    except ImportError as error:
        raise CheckpointError(
            f"engine.backend is vllm, and vLLM cannot be imported ({error}): install the extra, as "
            "docs/vllm.md says, or set engine.backend to own"
        ) from None
    try:
        return launch(
            args,
            checkpoint,
            num_blocks=num_blocks,
            kernels=kernels,
            cuda_graphs=config.cuda_graphs,
            form=form,
            int8=config.quantization == "int8",
        )
    except (TypeError, ValueError, RuntimeError, NotImplementedError) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise CheckpointError(f"vLLM does not start: {' '.join(reason[:3])}") from error
