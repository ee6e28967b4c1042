"""How figures and signs are said: a rule for each, by the noun that is written.

May import: its own folder, and the vocabulary.
"""
