"""Decoder layers in C++ for a CPU, compiled at installation where there is a compiler.

May import: the seam, layers, models. Without the library everything runs in plain torch.
"""
