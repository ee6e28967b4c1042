"""Layers that the nets are made of: linear, attention, norm, rotary position, sampling table.

May import: the seam (protocol, config, errors). Tensors only: no sequences.
"""
