"""Who runs next: sequences, rows and blocks, and when codec chunks are due. Pure Python, no torch.

May import: the seam at the root of engine (protocol, config, errors).
"""
