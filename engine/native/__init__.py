"""Decoder layers and the codec's convolutions in C++ for a CPU, compiled at installation if there
is a compiler.

May import: the seam, layers, models. Without the library everything runs in plain torch.
"""
