"""The URLs: one handler each, its answer a struct of answers.py, and the document that lists them.

May import: everything in qtts_openai but app and cli.
"""
