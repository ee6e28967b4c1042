"""Without a GPU the kernels run in triton's interpreter (../conftest.py)."""

import importlib.util

import pytest
import torch

CUDA = torch.cuda.is_available()
# As the engine does: plain torch would round what it multiplies in float32.
torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False

# A skip raised in here would end the whole run, so without triton the files are not collected.
collect_ignore_glob = [] if importlib.util.find_spec("triton") else ["test_*.py"]

# The interpreter multiplies in numpy, which knows no bfloat16: its tl.dot is wrong for that dtype.
DTYPES = [torch.float32, torch.bfloat16] if CUDA else [torch.float32]


@pytest.fixture(scope="session")
def device() -> str:
    return "cuda" if CUDA else "cpu"


@pytest.fixture(params=DTYPES, ids=str)
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    """Every dtype that this machine can run the kernels in."""
    return request.param


@pytest.fixture(autouse=True)
def quick_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    """At every call from one kernel function to another the interpreter replaces all of triton's
    language anew, two thirds of the time in some tests. Once for each module does.
    """
    if CUDA:
        return
    from triton.runtime.interpreter import InterpretedFunction

    call, modules = InterpretedFunction.__call__, set()

    def quick(self: InterpretedFunction, *args: object, **kwargs: object) -> object:
        if self.fn.__module__ in modules:
            return self.rewrite()(*args, **kwargs)
        modules.add(self.fn.__module__)
        return call(self, *args, **kwargs)

    monkeypatch.setattr(InterpretedFunction, "__call__", quick)
