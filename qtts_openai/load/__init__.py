"""Load on a speech server: `qtts load`.

May import: the root (settings, schemas, errors).
"""
