"""Checkpoints with random weights in the official layout, for tests and benchmarks.

May import: models and the seam; nothing that serves imports it.
"""
