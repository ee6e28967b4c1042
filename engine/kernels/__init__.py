"""Triton kernels of the GPU path. Nothing here is imported by an engine that runs on the CPU, whose
torch comes without triton.

May import: models, layers and the seam. Tensors only: no sequences.
"""
