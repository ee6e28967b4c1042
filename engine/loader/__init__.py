"""Checkpoints from a folder or a hub into models, and how memory is shared out.

May import: models, layers and the seam.
"""
