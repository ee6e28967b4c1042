"""A few seconds of what `make fuzz` does for minutes; the seed is fixed, so a failure repeats."""

from contextlib import ExitStack

from tests.fuzz import targets
from tests.fuzz.__main__ import Fuzzer


def test_nothing_ends_the_server_or_is_a_5xx():
    with ExitStack() as stack:
        fuzzer = Fuzzer(stack, ["decode", "parse", *targets.HTTP])
        for _ in range(300):
            fuzzer.one("parse", str(_))
        fuzzer.run(seed=1, minutes=1, count=25)
        assert fuzzer.failures == []
        assert fuzzer.server.process.poll() is None
        # Mutations are mild enough for some to pass, and hard enough for some not to.
        for name, outcomes in fuzzer.outcomes.items():
            assert len(outcomes) > 1, name
