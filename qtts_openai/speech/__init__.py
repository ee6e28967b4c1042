"""A request -> a plan -> PCM -> the body of an answer, whole, streamed or in batches.

May import: voices, text, http and the root; not routes.
"""
