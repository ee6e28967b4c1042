"""Values that an engine cannot run with are refused where the configuration is read."""

import msgspec
import pytest

from engine.config import EngineConfig


def read(**values: object) -> EngineConfig:
    return msgspec.convert({**values}, EngineConfig)


@pytest.mark.parametrize(
    ("key", "value", "what"),
    [
        ("max_num_seqs", 0, ">= 1"),
        ("max_queued", -1, ">= 0"),
        ("kv_cache_memory", "abc", "kv_cache_memory is 'abc': write auto, or a number with KB"),
        ("kv_cache_memory", "5 apples", "write auto, or a number"),
        ("block_size", 0, "Invalid enum value 0"),
        ("block_size", 24, "Invalid enum value 24"),
        ("max_num_batched_tokens", 0, ">= 1"),
        ("max_frames", 0, ">= 1"),
        ("max_model_len", 10, ">= 64"),
        ("max_model_len", 65536, "<= 32768"),
        ("open_text_frames", 0, ">= 1"),
        ("guard_frames_base", -1, ">= 0"),
        ("guard_factor", 0.0, ">= 1"),
        ("chunk_ramp", [], "length >= 1"),
        ("chunk_ramp", [0, 4], ">= 1"),
        ("chunk_ramp", [4, 2], r"chunk_ramp is \[4, 2\]: chunks may grow, but not shrink"),
        ("data_parallel_size", 0, ">= 1"),
        ("threads", -1, ">= 0"),
        ("heartbeat_timeout_s", 0.1, ">= 2"),
        ("step_timeout_s", 0, "> 0"),
        ("request_timeout_s", 0, "> 0"),
    ],
)
def test_a_value_out_of_bounds_is_refused_in_a_sentence(key: str, value: object, what: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=what):
        read(**{key: value})


def test_what_can_be_run_with_is_taken() -> None:
    assert read() == EngineConfig()
    config = read(chunk_ramp=[4, 12], kv_cache_memory="4 GiB", max_num_seqs=1, block_size=1)
    assert config.chunk_ramp == (4, 12)
