"""A run over time as one HTML page without scripts: requests sent, requests in flight, first audio,
and the gaps that listeners heard.
"""

import html
import itertools
from collections.abc import Iterable

from qtts_openai.load.client import Result

WIDTH, HEIGHT, LEFT, GAP = 900, 150, 60, 45
_STYLE = """
body { font: 15px system-ui, sans-serif; margin: 2em auto; max-width: 1000px; color: #222 }
svg { width: 100%; height: auto } text { font-size: 12px; fill: #555 } text.title { fill: #222 }
pre { overflow-x: auto; font-size: 13px } .frame { fill: none; stroke: #ccc }
.line { fill: none; stroke: #2563a8; stroke-width: 1.5 } .heard { fill: #2563a8; opacity: .6 }
.failed { fill: #c0392b } .gap { fill: #c77700; opacity: .7 }
"""

Points = list[tuple[float, float]]


def page(head: str, table: str, results: list[Result]) -> str:
    """`results`: in any order; those with an error are red, at the foot of their panel."""
    end_s = max((one.sent_at_s + one.ended_s for one in results), default=1.0)
    good = [one for one in results if one.error is None]
    failed = [(one.sent_at_s, 0.0) for one in results if one.error is not None]
    first = [(r.sent_at_s, (r.audible_arrived_s or r.ended_s) * 1e3) for r in good]
    gaps = [(one.sent_at_s, one.gap_s * 1e3) for one in good if one.num_underruns]
    panels = [
        _Panel("requests sent per second", end_s).line(_rate(results, end_s)),
        _Panel("in flight", end_s).line(_in_flight(results)),
        _Panel("first audible audio, ms, by when it was asked for; red: failed", end_s)
        .dots("heard", first)
        .dots("failed", failed),
        _Panel("silence that a listener heard within speech, ms", end_s).dots("gap", gaps),
    ]
    drawn = "".join(panel.svg(number) for number, panel in enumerate(panels))
    size = f"0 0 {LEFT + WIDTH + 10} {len(panels) * (HEIGHT + GAP) + 20}"
    return (
        f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"/><title>qtts load</title>'
        f"<style>{_STYLE}</style></head><body><h1>{html.escape(head)}</h1>"
        f'<svg viewBox="{size}" role="img" aria-label="the run over time">{drawn}</svg>'
        f"<pre>{html.escape(table)}</pre></body></html>\n"
    )


class _Panel:
    def __init__(self, title: str, end_s: float) -> None:
        self._title, self._end_s = title, end_s
        self._series: list[tuple[str, Points]] = []

    def line(self, points: Points) -> "_Panel":
        self._series.append(("line", points))
        return self

    def dots(self, kind: str, points: Points) -> "_Panel":
        self._series.append((kind, points))
        return self

    def svg(self, number: int) -> str:
        top = max((y for _, points in self._series for _, y in points), default=0.0) or 1.0
        drawn = "".join(self._drawn(kind, points, top) for kind, points in self._series)
        return (
            f'<g transform="translate({LEFT},{number * (HEIGHT + GAP) + 25})">'
            f'<text class="title" y="-8">{html.escape(self._title)}</text>'
            f'<rect class="frame" width="{WIDTH}" height="{HEIGHT}"/>'
            f'<text x="-8" y="10" text-anchor="end">{_number(top)}</text>'
            f'<text x="-8" y="{HEIGHT}" text-anchor="end">0</text>'
            f'<text y="{HEIGHT + 15}">0 s</text>'
            f'<text x="{WIDTH}" y="{HEIGHT + 15}" text-anchor="end">{self._end_s:.1f} s</text>'
            f"{drawn}</g>"
        )

    def _drawn(self, kind: str, points: Points, top: float) -> str:
        places = [(x / self._end_s * WIDTH, HEIGHT * (1 - y / top)) for x, y in points]
        if kind == "line":
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
            return f'<polyline class="line" points="{path}"/>'
        return "".join(
            f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in places
        )


def _rate(results: list[Result], end_s: float, num: int = 30) -> Points:
    """By equal parts of the run, as steps."""
    counts = [0] * num
    for one in results:
        counts[min(num - 1, int(one.sent_at_s / end_s * num))] += 1
    width_s = end_s / num
    return _steps((i * width_s, count / width_s) for i, count in enumerate(counts))


def _in_flight(results: list[Result]) -> Points:
    changes = [(one.sent_at_s, 1) for one in results]
    changes += [(one.sent_at_s + one.ended_s, -1) for one in results]
    changes.sort()
    heights = itertools.accumulate(change for _, change in changes)
    return _steps((at_s, float(now)) for (at_s, _), now in zip(changes, heights, strict=True))


def _steps(points: Iterable[tuple[float, float]]) -> Points:
    """Each height lasts until the next one."""
    drawn: Points = [(0.0, 0.0)]
    for x, y in points:
        drawn += [(x, drawn[-1][1]), (x, y)]
    return drawn


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
