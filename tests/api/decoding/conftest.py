import os
from pathlib import Path

import pytest_asyncio

from qtts_openai.decoding.client import AudioDecoder


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def decoder():
    decoder = AudioDecoder(min_s=0.5, max_s=10, timeout_s=10)
    yield decoder
    decoder.close()


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def files_open(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))
