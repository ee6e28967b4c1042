"""The page in a real browser. `make page` runs it."""
