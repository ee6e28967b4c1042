"""What became of every request, and the table that is printed at the end.

A request is whole, left by its caller, refused with an error that says why, or broken so that its
caller could see it. Broken and 5xx are only right while something was being killed or filled: the
`Troubles`. Everything else is lost: a body that ends as if it were whole and is not, a break
without a cause, an answer that is none. Hung is what has not ended after HUNG_S.
"""

import time
from collections import Counter, defaultdict
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median

HUNG_S = 90.0
# Fewer requests are not enough for the first half to have filled what fills.
MAX_DRIFT, SETTLED_AFTER = 0.05, 5_000


class Lost(Exception):
    pass


class Refused(Exception):
    """With an error of the server's own: a status and a code."""

    def __init__(self, status: int, code: str) -> None:
        super().__init__(f"{status} {code}")
        self.status = status


class Broken(Exception):
    """The caller saw that it broke."""


@dataclass
class Trouble:
    what: str
    began: float
    ended: float = float("inf")  # when the service was back


class Troubles:
    def __init__(self) -> None:
        self.all: list[Trouble] = []

    @contextmanager
    def during(self, what: str):
        trouble = Trouble(what, time.monotonic())
        self.all.append(trouble)
        try:
            yield trouble
        finally:
            trouble.ended = time.monotonic()

    def excuse(self, began: float, ended: float) -> bool:
        return any(one.began <= ended and began <= one.ended for one in self.all)


@dataclass
class Ledger:
    troubles: Troubles = field(default_factory=Troubles)
    by_kind: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    refusals: Counter[str] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)
    hung: list[str] = field(default_factory=list)
    rss_mb: list[float] = field(default_factory=list)
    leaks: dict[str, str] = field(default_factory=dict)

    @property
    def num_requests(self) -> int:
        return sum(counts.total() for counts in self.by_kind.values())

    def note(self, kind: str, outcome: str | BaseException, began: float) -> None:
        counts, excused = self.by_kind[kind], self.troubles.excuse(began, time.monotonic())
        match outcome:
            case str():
                counts[outcome] += 1
            case TimeoutError():
                counts["hung"] += 1
                self.hung.append(kind)
            case Refused() if outcome.status < 500 or excused:
                counts["refused"] += 1
                self.refusals[str(outcome)] += 1
            case Broken() if excused:
                counts["broken"] += 1
            case _:
                counts["lost"] += 1
                self.lost.append(f"{kind}: {outcome!r}")

    @property
    def rss_drift(self) -> float:
        """The last three readings over the three up to half, by when caches and pools have filled;
        of each three the middle one, for a reading goes up for a moment where memory was in use.
        """
        if len(self.rss_mb) < 6:
            return 0.0
        half = len(self.rss_mb) // 2
        return median(self.rss_mb[-3:]) / median(self.rss_mb[half - 3 : half]) - 1

    def is_good(self) -> bool:
        is_flat = self.rss_drift <= MAX_DRIFT or self.num_requests < SETTLED_AFTER
        return is_flat and not (self.lost or self.hung or self.leaks)

    def table(self) -> str:
        columns = ("whole", "left", "refused", "broken", "lost", "hung")
        lines = [f"{'kind of request':22}" + "".join(f"{one:>9}" for one in columns)]
        totals: Counter[str] = Counter()
        for kind, counts in sorted(self.by_kind.items()):
            totals += counts
            lines.append(f"{kind:22}" + "".join(f"{counts[one]:9}" for one in columns))
        lines.append(f"{'all':22}" + "".join(f"{totals[one]:9}" for one in columns))
        lines += [
            "",
            "refusals: " + _counted(self.refusals),
            "",
            "trouble                  back, s",
        ]
        lines += [f"{one.what:24}{one.ended - one.began:9.1f}" for one in self.troubles.all]
        leaks = ", ".join(f"{name} {said}" for name, said in self.leaks.items()) or "nothing"
        rss = " ".join(f"{one:.0f}" for one in self.rss_mb)
        lines += ["", f"leaked: {leaks}", f"RSS of the server, idle, MB: {rss}"]
        lines.append(f"RSS drift since half: {self.rss_drift:+.1%}")
        lost = Counter(self.lost).most_common(20)
        return "\n".join([*lines, *(f"lost: {number} x {what}" for what, number in lost)])


def _counted(counts: Counter[str]) -> str:
    return ", ".join(f"{what}: {number}" for what, number in counts.most_common()) or "none"
