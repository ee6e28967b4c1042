"""What tells this server's speech from a person's, and whom it was made for: marks in every answer,
watermarks, signatures, and the audit log. Knows nothing of HTTP or of what speaks.

May import: the root (settings, schemas, errors), decoding.
"""
