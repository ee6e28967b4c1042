"""What vLLM is started with, and what is refused; vLLM itself need not be there."""

import sys
from typing import Any

import msgspec
import pytest
import torch

from engine.backends.vllm import options, start
from engine.backends.vllm.prompt_ids import PromptIds
from engine.client import EngineClient
from engine.config import EngineConfig, ModelSpec, VllmOptions
from engine.errors import CheckpointError
from engine.protocol import Prompt
from engine.runner.prompt_embeds import prompt_shape
from engine.startup import build

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


def arguments(device: torch.device = CPU, **vllm: Any) -> dict[str, Any]:
    config = EngineConfig(backend="vllm", vllm=VllmOptions(**vllm))
    sizes = {"num_rows": 8, "num_blocks": 100, "block_bytes": 1000}
    return options.arguments(config, "/checkpoint", torch.float32, device, **sizes)


def test_vllm_gets_what_was_planned() -> None:
    found = arguments(quantization="fp8", tensor_parallel_size=2)
    assert found["kv_cache_memory_bytes"] == 101_000, "vLLM keeps a block for itself"
    assert (found["dtype"], found["max_num_seqs"], found["max_model_len"]) == ("float32", 8, 1600)
    assert (found["quantization"], found["tensor_parallel_size"]) == ("fp8", 2)


def test_a_step_has_room_for_every_row() -> None:
    assert arguments(max_num_batched_tokens=4)["max_num_batched_tokens"] == 9
    assert arguments()["max_num_batched_tokens"] == 512


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"pipeline_parallel_size": 2}, "extra.pipeline_parallel_size.*last layer's result"),
        ({"speculative_config": {}}, "extra.speculative_config.*lacks the other 15"),
        ({"kv_transfer_config": {}}, "moves KV blocks"),
        ({"enable_lora": True}, "enable_lora is not supported; take it out"),
        ({"max_num_seqs": 4}, "extra.max_num_seqs.*set by the engine"),
        ({"gpu_memory_utilization": 0.5}, "is engine.kv_cache_memory"),
    ],
)
def test_what_cannot_work_is_refused_by_name(extra: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        arguments(extra=extra)


def test_other_arguments_are_passed_on() -> None:
    assert arguments()["enable_prefix_caching"] is True
    found = arguments(extra={"enable_prefix_caching": False, "scheduling_policy": "priority"})
    assert (found["enable_prefix_caching"], found["scheduling_policy"]) == (False, "priority")


def test_runners() -> None:
    """V1 has no inputs in its graphs, so on a GPU it has none."""
    assert arguments()["logits_processors"] and arguments(GPU)["logits_processors"] is None
    with pytest.raises(CheckpointError, match=r"runner is v1.*enforce_eager"):
        arguments(GPU, runner="v1")
    assert arguments(GPU, runner="v1", enforce_eager=True)["logits_processors"]


def test_compiled_layers_are_not_vllms() -> None:
    with pytest.raises(CheckpointError, match=r"kernels is native.*auto, torch or triton"):
        options.adjusted(EngineConfig(backend="vllm", kernels="native"), CPU)


def test_each_worker_sees_its_own_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    two = EngineConfig(data_parallel_size=4, vllm=VllmOptions(tensor_parallel_size=2))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7,6,5,4,3,2,1,0")
    assert options.with_own_gpus(two, 4).data_parallel_size == 1
    assert options.os.environ["CUDA_VISIBLE_DEVICES"] == "3,2"
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(CheckpointError, match="tensor_parallel_size is 2, and 1 GPU"):
        options.adjusted(two, GPU)


def test_a_model_on_vllm_has_workers_of_its_own() -> None:
    specs = [
        ModelSpec("a", "x"),
        ModelSpec("b", "x", backend="vllm"),
        ModelSpec("c", "x", backend="vllm"),
        ModelSpec("d", "x", backend="own"),
    ]
    config = EngineConfig(data_parallel_size=2, vllm=VllmOptions(tensor_parallel_size=2))
    client = EngineClient(config, specs)
    have = [("".join(s.id for s in worker.specs), worker.index) for worker in client._workers]
    assert have == [("ad", 0), ("ad", 1), ("b", 2), ("b", 4), ("c", 6), ("c", 8)]
    for worker in client._workers:
        worker.status = "ready"
    assert client.status == "ready"
    client._workers[2].status = "restarting"
    assert client.status == "ready", "the other worker of b speaks"
    client._workers[3].status = "restarting"
    assert client.status == "restarting"


def test_two_models_in_a_worker_are_refused() -> None:
    specs = [ModelSpec("a", "embedded"), ModelSpec("b", "embedded")]
    with pytest.raises(CheckpointError, match="'a' on vLLM cannot share"):
        build(EngineConfig(backend="vllm"), specs)


@pytest.mark.parametrize("backend", ["own", "vllm"])
def test_kernels_of_a_gpu_need_one(backend: str) -> None:
    config = msgspec.convert(
        {"backend": backend, "device": "cpu", "kernels": "triton"}, EngineConfig
    )
    with pytest.raises(CheckpointError, match="kernels is triton, which needs a GPU"):
        build(config, [ModelSpec("a", "embedded")])


def test_without_vllm_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    monkeypatch.delitem(sys.modules, "engine.backends.vllm.talker", raising=False)
    monkeypatch.delitem(sys.modules, "engine.backends.vllm.plugin", raising=False)
    for name in ("VLLM_USE_V2_MODEL_RUNNER", "VLLM_LOGGING_LEVEL", *options.ENVIRONMENT):
        monkeypatch.setenv(name, "")
    config = EngineConfig(backend="vllm", device="cpu", threads=1, kv_cache_memory="8MB")
    with pytest.raises(CheckpointError, match=r"docs/vllm.md says, or set engine.backend"):
        build(msgspec.structs.replace(config, max_num_seqs=2), [ModelSpec("a", "embedded")])
    assert start.vllm_talker is not None


# ---- what the prefix cache may take for equal ----


def known(ids: PromptIds, **fields: Any) -> tuple[str, list[int]]:
    prompt = Prompt(**{"role": (1, 2, 3), "text": (7, 8, 9)} | fields)
    return ids.salt(prompt), ids.ids(prompt, prompt_shape(prompt, 0)[0])


def test_equal_ids_and_salt_mean_equal_rows() -> None:
    ids = PromptIds(3072)
    salt, plain = known(ids)
    assert min(plain) >= 3072, "no id is a code"
    longer = known(ids, text=(7, 8, 9, 10))
    shared = [a == b for a, b in zip(plain, longer[1], strict=False)]
    assert longer[0] == salt and shared[: shared.index(False)] and shared[-3:] != [True] * 3
    others = (
        {"speakers": ((5, 1.0),)},
        {"speakers": ((5, 0.5), (6, 0.5))},
        {"language_id": 2050},
        {"instruct": (4,)},
        {"streaming_text": True},
        {"reference": "r"},
    )
    assert len({salt, *(known(ids, **fields)[0] for fields in others)}) == 1 + len(others)


def test_a_forgotten_recording_is_never_found_again() -> None:
    ids = PromptIds(3072)
    first, again = known(ids, reference="r"), known(ids, reference="r")
    ids.forget("r")
    assert first == again and known(ids, reference="r")[0] != first[0]
