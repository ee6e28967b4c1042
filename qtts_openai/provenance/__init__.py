"""What tells this server's speech from a person's, and whom it was made for: marks in every answer,
signatures, and the audit log. Knows nothing of HTTP or of engines.

May import: the root (settings, schemas, errors).
"""
