"""On a GPU: which kernels may be used, which are fastest, and steps recorded as graphs.

Nothing is taken on trust, so that a GPU which nobody has tried speaks all the same. What does not
run there, gives something else than plain torch or takes longer is left out with a warning:

the kernels of a step     together, since a step can be recorded only with all of them
the codec's convolutions  together (kernels/codec.py)
products                  each configuration by itself (kernels/fused.py)
graphs                    each by itself (runner/cuda_graphs.py)

A kernel that is asked for by `engine.kernels: triton` and is broken is an error instead.
"""

import logging
import time

import torch

from engine.compare import reason
from engine.config import EngineConfig
from engine.core import EngineCore
from engine.errors import CheckpointError
from engine.models.config import TalkerConfig
from engine.protocol import Check
from engine.runner.codec_runner import CodecRunner
from engine.runner.cuda_graphs import GraphCapturer
from engine.runner.talker_runner import TalkerRunner
from engine.warm_up import time_frames

log = logging.getLogger(__name__)

CODEC = "codec convolutions"


def check_kernels(
    config: EngineConfig, talkers: list[TalkerConfig], dtype: torch.dtype, device: torch.device
) -> list[Check]:
    """CheckpointError where a kernel leaves the GPU unusable: no process can go on after that."""
    try:  # Triton is there only with a GPU
        from engine.runner import self_check
    except ImportError as error:
        return [Check("Triton", error=reason(error))]
    checks = self_check.check_kernels(talkers, dtype, device, config.block_size)
    _require_usable(device, checks)
    return checks


def _require_usable(device: torch.device, checks: list[Check]) -> None:
    """CheckpointError if a kernel of these has left the GPU broken."""
    try:
        torch.cuda.synchronize(device)
    except RuntimeError as error:
        broken = next((check for check in checks if check.error), checks[-1])
        raise CheckpointError(
            f"{device} cannot be used after trying a kernel, {broken.name} "
            f"({broken.fault or reason(error)}): set engine.kernels to torch"
        ) from error


def leave_out(config: EngineConfig, checks: list[Check]) -> set[str]:
    """Names of what must not be used; CheckpointError where it was asked for."""
    out = set()
    for check in checks:
        fault = check.fault
        if not fault and check.is_slower and check.name == CODEC:
            fault = f"it takes {check.seconds * 1e6:.0f} us, torch {check.plain_seconds * 1e6:.0f}"
        if not fault:
            continue
        if config.kernels == "triton" and check.fault:
            raise CheckpointError(
                f"engine.kernels is triton, but {check.name} is broken on this GPU: {fault}; auto "
                "leaves out what is"
            )
        log.warning("%s is left out on this GPU, torch takes its place: %s", check.name, fault)
        out.add(check.name)
    return out


@torch.inference_mode()
def accelerate(
    config: EngineConfig,
    runners: list[TalkerRunner],
    codecs: dict[str, CodecRunner],
    left_out: set[str],
    *,
    int8: bool,
) -> list[Check]:
    """Choose products, then record what can be; of both, how they compare with plain torch."""
    started, checks = time.monotonic(), []
    distinct = {id(codec): codec for codec in codecs.values()}.values()
    if "Triton" not in left_out:
        from engine.kernels.codec import fuse_codec_
        from engine.kernels.fused import fuse_

        for runner in runners:
            checks += fuse_(runner.talker, runner.predictor, runner.buffers.num_rows, int8=int8)
        for codec in distinct:
            check = fuse_codec_(codec.decoder, CODEC)
            _require_usable(codec.device, [check])
            leave_out(config, [check])
            checks.append(check)
    chosen = time.monotonic()
    if config.cuda_graphs:
        kernels = [runner for runner in runners if runner.kernels == "triton"]
        capture = GraphCapturer([t for r in kernels for t in r.buffers.padding_state()])
        for runner in kernels:
            runner.capture(capture, config.max_num_batched_tokens)
        checks += capture.checks
        for codec in distinct:
            # An ending may have any number of frames left.
            checks += codec.capture((1, *config.chunk_ramp))
    log.info(
        "kernels chosen in %.1f s, graphs recorded in %.1f s",
        chosen - started,
        time.monotonic() - chosen,
    )
    return checks


def keep_the_faster(
    config: EngineConfig, core: EngineCore, runners: dict[str, TalkerRunner]
) -> list[Check]:
    """Whole frames as they are now beside those of plain torch, which stays where it is faster."""
    checks = []
    for model, runner in runners.items():
        seconds = time_frames(core, model)
        back = runner.use_plain()
        check = Check(f"frames of {model}", "", 0.0, 0.0, seconds, time_frames(core, model))
        checks.append(check)
        if check.is_slower and config.kernels == "auto":
            log.warning(
                "the kernels of a step are left out on this GPU: a frame of %s takes %.1f ms, in "
                "plain torch %.1f",
                *(model, seconds * 1e3, check.plain_seconds * 1e3),
            )
        else:
            back()
    return checks
