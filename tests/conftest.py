"""Shared by all tests."""

import os
from pathlib import Path

# Two threads on busy cores are slower than one.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Without a GPU kernels run in triton's interpreter. It reads this once, when it is first imported,
# which may be by torch in some other test; what has to see the compiler runs in a process of its
# own (kernels/compiling.py).
if not Path("/dev/nvidiactl").exists():
    os.environ.setdefault("TRITON_INTERPRET", "1")
