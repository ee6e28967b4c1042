"""Checkpoints with random weights in the official layout, for tests and benchmarks.

Imports only `models.config` and errors; nothing that serves imports it.
"""
