"""Checkpoints with random weights in the official layout, for tests and benchmarks.

Imports `models` and errors; nothing that serves imports it.
"""
