"""The command `qtts`. What it can do is in commands.py."""

import sys

from engine import spawn_early


def main(argv: list[str] | None = None) -> int:
    """Exit status 0, or 1 after a one-line error on stderr."""
    words = sys.argv[1:] if argv is None else argv
    if words[:1] == ["serve"]:
        spawn_early()
    # Takes a second or two, and the worker's imports as long: side by side.
    from qtts_openai.commands import run

    return run(words)


if __name__ == "__main__":
    sys.exit(main())
