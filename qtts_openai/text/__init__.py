"""Text before it is tokenised: cleaned, said in words, cut where a speaker would breathe.

May import: the root (settings, schemas, errors).
"""
