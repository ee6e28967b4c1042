"""A few seconds of what `make fuzz` does for minutes; the seed is fixed, so a failure repeats."""

from contextlib import ExitStack

from tests.fuzz import targets
from tests.fuzz.__main__ import Fuzzer


def test_nothing_ends_the_server_or_is_a_5xx():
    with ExitStack() as stack:
        fuzzer = Fuzzer(stack, ["decode", "parse", *targets.HTTP])
        for number in range(300):
            fuzzer.one("parse", f"0.{number}")
        fuzzer.run(seed=1, minutes=1, count=6)
        assert fuzzer.failures == []
        assert fuzzer.server.process.poll() is None
        # Mutations are mild enough for some to pass, and hard enough for some not to.
        assert {"decoded", "refused"} <= fuzzer.decoded.keys()
