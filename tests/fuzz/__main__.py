"""Hostile input for minutes or for a count: `make fuzz MINUTES=10`, or

    python -m tests.fuzz --minutes 10 --target http_sample --seed 3

Prints what came of it as a table. The status is 1 where a server died or answered with a 5xx; the
numbers that are printed then make the same input again.
"""

import argparse
import asyncio
import itertools
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from random import Random

from qtts_openai.decoding.client import AudioDecoder
from tests.fuzz import targets
from tests.fuzz.server import Failure, Running, serving

MAX_FAILURES = 20
WARM_ROUNDS = 50


class Fuzzer:
    """Decoder, server and the targets on them; one input of each target after the other."""

    def __init__(self, stack: ExitStack, names: list[str]) -> None:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        runner = stack.enter_context(asyncio.Runner())
        self.decoded: Counter[str] = Counter()
        decoder = AudioDecoder(
            min_s=0.5, max_s=10, timeout_s=10, count=lambda outcome: self.decoded.update([outcome])
        )
        stack.callback(decoder.close)
        self.server: Running | None = None
        if any(name in targets.HTTP for name in names):
            self.server = stack.enter_context(serving(directory))
        known: dict[str, Callable[[Random], str]] = {
            "decode": partial(targets.decode, decoder=decoder, runner=runner),
            "parse": targets.parse,
        }
        known |= {
            name: partial(target, server=self.server) for name, target in targets.HTTP.items()
        }
        self.targets = {name: known[name] for name in names}
        self.outcomes: dict[str, Counter[str]] = defaultdict(Counter)
        self.slowest: dict[str, float] = defaultdict(float)
        self.failures: list[str] = []
        self.num_logged = 0  # bytes of the server's log that were looked at
        self.warm_mb: float | None = None  # what the server had after WARM_ROUNDS

    def run(self, seed: int, minutes: float, count: int | None) -> None:
        end = time.monotonic() + 60 * minutes
        for number in itertools.count() if count is None else range(count):
            if number == WARM_ROUNDS and self.server is not None:
                self.warm_mb = self.server.rss_mb()
            for name in self.targets:
                if time.monotonic() > end or len(self.failures) >= MAX_FAILURES:
                    return
                self.one(name, f"{seed}.{number}")

    def one(self, name: str, seed: str) -> None:
        started = time.monotonic()
        try:
            outcome = self.targets[name](Random(f"{name} {seed}"))
        except Failure as failure:
            outcome = "FAILURE"
            self.failures.append(f"{name} --seed {seed}: {failure}")
        if self.server is not None and self.server.log.stat().st_size > self.num_logged:
            logged = self.server.log.read_text("utf-8", "replace")[self.num_logged :]
            self.num_logged = self.server.log.stat().st_size
            if "Traceback" in logged:
                self.failures.append(f"{name} --seed {seed}: the server logged\n{logged[-3000:]}")
        self.slowest[name] = max(self.slowest[name], time.monotonic() - started)
        self.outcomes[name][outcome] += 1

    def report(self) -> str:
        lines = []
        for name, outcomes in self.outcomes.items():
            told = ", ".join(f"{outcome}: {count}" for outcome, count in outcomes.most_common())
            total = outcomes.total()
            lines.append(f"{name:15} {total:7} inputs, slowest {self.slowest[name]:.2f} s; {told}")
        if self.decoded:
            lines.append(f"decoder here    {dict(self.decoded)}")
        if self.server is not None:
            alive = self.server.process.poll() is None
            lines.append(f"server          {'alive' if alive else 'DEAD'}")
            if alive:
                warm = f", {self.warm_mb:.0f} after {WARM_ROUNDS} of each" if self.warm_mb else ""
                lines.append(f"                RSS {self.server.rss_mb():.0f} MB{warm}")
                lines += self.server.metric_lines("qtts_decoder_files_total")
        return "\n".join([*lines, *self.failures])


def main() -> int:
    names = ["decode", "parse", *targets.HTTP]
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--count", type=int, help="inputs of each target, within the minutes")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--target", action="append", choices=names)
    wanted = parser.parse_args()
    with ExitStack() as stack:
        fuzzer = Fuzzer(stack, wanted.target or names)
        print(f"seed {wanted.seed}", flush=True)
        fuzzer.run(wanted.seed, wanted.minutes, wanted.count)
        print(fuzzer.report())
        return 1 if fuzzer.failures else 0


if __name__ == "__main__":
    sys.exit(main())
