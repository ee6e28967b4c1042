"""Shared by all tests."""

import os

# Two threads on busy cores are slower than one.
os.environ.setdefault("OMP_NUM_THREADS", "1")
