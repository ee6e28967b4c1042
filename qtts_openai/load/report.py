"""Results of a load -> figures, and a table of them."""

from collections import Counter
from typing import Any

from qtts_openai.load.audio_clock import percentiles
from qtts_openai.load.client import Result
from qtts_openai.load.loops import Load

COLUMNS = ("p50", "p95", "p99", "max")
ROWS = (  # title, field of Result, factor, decimals
    ("TTFB (headers), ms", "ttfb_s", 1e3, 1),
    ("first playable, ms", "first_playable_s", 1e3, 1),
    ("audible TTFA, arrived, ms", "audible_arrived_s", 1e3, 1),
    ("audible TTFA, heard, ms", "audible_heard_s", 1e3, 1),
    ("leading silence, ms", "leading_silence_s", 1e3, 1),
    ("end to end, s", "ended_s", 1, 3),
    ("speech, s", "audio_s", 1, 3),
    ("RTF", "rtf", 1, 3),
    ("gaps of a listener, ms", "gap_s", 1e3, 1),
)
BUSY_CLIENT = 0.7


def summarise(load: Load) -> dict[str, Any]:
    """Figures of the requests that ended. Per second means: from the start to the last end."""
    good = [result for result in load.results if result.error is None]
    wall_s = max((r.sent_at_s + r.ended_s for r in load.results), default=0.0)
    audio_s = sum(result.audio_s for result in good)
    with_underruns = sum(result.num_underruns > 0 for result in good)
    return {
        "num_requests": len(load.results),
        "num_good": len(good),
        "num_silent": sum(result.audible_arrived_s is None for result in good),
        "num_unfinished": load.num_unfinished,
        "errors": dict(Counter(result.error for result in load.results if result.error)),
        "peak_in_flight": load.peak_in_flight,
        "wall_s": wall_s,
        "requests_per_s": len(good) / wall_s if wall_s else 0.0,
        "audio_s_total": audio_s,
        "audio_s_per_s": audio_s / wall_s if wall_s else 0.0,
        "num_underruns": sum(result.num_underruns for result in good),
        "underrun_share": with_underruns / len(good) if good else None,
        **{name: _percentiles(good, name) for _, name, _, _ in ROWS},
    }


def _percentiles(good: list[Any], name: str) -> dict[str, float] | None:
    values = (getattr(result, name) for result in good)
    return percentiles([value for value in values if value is not None])


def phases(results: list[Result], duration_s: float, num: int = 5) -> list[dict[str, Any]]:
    """The run cut into parts of equal length by when requests were sent."""
    cut: list[list[Result]] = [[] for _ in range(num)]
    for result in results:
        cut[min(num - 1, int(result.sent_at_s / duration_s * num))].append(result)
    return [_phase(part, number, duration_s / num) for number, part in enumerate(cut)]


def _phase(part: list[Result], number: int, length_s: float) -> dict[str, Any]:
    good = [result for result in part if result.error is None]
    return {
        "from_s": number * length_s,
        "requests_per_s": len(part) / length_s,
        "num_failed": len(part) - len(good),
        "audible_arrived_s": _percentiles(good, "audible_arrived_s"),
        "underrun_share": sum(r.num_underruns > 0 for r in good) / len(good) if good else None,
    }


def _phase_lines(parts: list[dict[str, Any]]) -> list[str]:
    lines = (
        []
        if not parts
        else ["", "from, s   requests/s   audible p50, ms   p95, ms   with gaps   failed"]
    )
    for part in parts:
        first = part["audible_arrived_s"]
        p50, p95 = (f"{first[p] * 1e3:.0f}" if first else "-" for p in ("p50", "p95"))
        share = "-" if part["underrun_share"] is None else f"{part['underrun_share']:.0%}"
        lines.append(
            f"{part['from_s']:7.1f}{part['requests_per_s']:13.2f}{p50:>18}{p95:>10}{share:>12}"
            f"{part['num_failed']:>9}"
        )
    return lines


def table(s: dict[str, Any]) -> str:
    failed = f"{sum(s['errors'].values())} failed {s['errors'] or ''}".strip()
    lines = [
        f"{s['num_requests']} requests in {s['wall_s']:.1f} s: {s['num_good']} good, {failed}; "
        f"at most {s['peak_in_flight']} in flight",
        f"{s['requests_per_s']:.2f} requests/s, {s['audio_s_per_s']:.2f} audio seconds/s",
        "",
        f"{'':28}" + "".join(f"{column:>10}" for column in COLUMNS),
    ]
    for title, name, factor, decimals in ROWS:
        if s[name] is not None:
            cells = (f"{s[name][column] * factor:>10.{decimals}f}" for column in COLUMNS)
            lines.append(f"{title:28}" + "".join(cells))
    lines.append("")
    if s["num_good"]:
        lines.append(
            f"underruns: {s['num_underruns']}, in {s['underrun_share']:.1%} of the good requests"
        )
    if s["num_silent"]:
        lines.append(f"without an audible window: {s['num_silent']} answers")
    if s["interrupted"]:
        lines.append(f"interrupted; {s['num_unfinished']} requests were on their way")
    return "\n".join([*lines, *_client_lines(s["client"]), *_phase_lines(s.get("phases", []))])


def _client_lines(client: dict[str, Any]) -> list[str]:
    lag = client["timer_lag_s"]
    lines = [f"client: {client['cpu_share']:.0%} of a core"]
    if lag:
        lines[0] += (
            f", timers late by {lag['p50'] * 1e3:.1f} ms (p50), {lag['p99'] * 1e3:.1f} (p99)"
        )
    if client["cpu_share"] > BUSY_CLIENT:
        lines.append("the client may be the bottleneck: run several, or elsewhere")
    return lines
