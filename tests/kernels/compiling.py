"""Kernels compiled for GPUs that this machine need not have: what they take of one.

A test module that wants this defines `compiled()`, which yields (label, compile_kernel(...)), and
reads the list from `compile_apart(__name__)`. That runs `compiled` in a process of its own, because
the tests' own process may interpret the kernels instead (see conftest.py).
"""

import importlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]

# Shared memory that one program may take, bytes, by compute capability (80: A100; 89: RTX 4090,
# L4; 90: H100).
SHARED_LIMIT = {80: 163 << 10, 89: 99 << 10, 90: 227 << 10}
CAPABILITIES = tuple(SHARED_LIMIT)


class Compiled(NamedTuple):
    capability: int
    shared: int  # bytes per program
    registers: int  # per thread
    spills: int  # bytes of stack per thread: registers that did not fit

    def check(self) -> None:
        assert self.shared <= SHARED_LIMIT[self.capability], self
        assert self.spills == 0, self


def compile_kernel(
    fn: Any,
    signature: Mapping[str, str],
    constexprs: Mapping[str, Any],
    capability: int,
    num_warps: int,
    num_stages: int,
    divisible: Collection[str] = (),
) -> Compiled:
    """Compile a @triton.jit function for `capability` (80, 89, 90) as a launch would.

    `signature` has every parameter in order: "*bf16", "*fp32", "*i8", "i32", "fp32", or
    "constexpr" for those named in `constexprs` (an absent pointer: None). Pointers count as
    multiples of 16, as torch's are; `divisible` names the integers of which that holds too.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    aligned = [n for n, kind in signature.items() if kind.startswith("*") or n in divisible]
    order = list(signature)
    source = ASTSource(
        fn,
        signature=dict(signature),
        constexprs=dict(constexprs),
        attrs={(order.index(name),): [["tt.divisibility", 16]] for name in aligned},
    )
    options = {"num_warps": num_warps, "num_stages": num_stages}
    kernel = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    return Compiled(capability, kernel.metadata.shared, *resources(kernel.asm["cubin"]))


def resources(cubin: bytes) -> tuple[int, int]:
    """Registers and stack bytes per thread, by the tool that comes with triton."""
    from triton import knobs

    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [knobs.nvidia.cuobjdump.path, "--dump-resource-usage", file.name]
        text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+)", text)
    assert found, text
    return int(found[1]), int(found[2])


def compile_apart(module: str) -> list[tuple[str, Compiled]]:
    """Everything that `compiled()` of the named test module yields, from one new process."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "tests.kernels.compiling", module]
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    rows = [json.loads(line) for line in run.stdout.splitlines()]
    return [(label, Compiled(*numbers)) for label, *numbers in rows]


if __name__ == "__main__":
    for label, numbers in importlib.import_module(sys.argv[1]).compiled():
        print(json.dumps([label, *numbers]))
