"""What gpu_bench.py found, as a section of RESULTS.md. A document is the JSON it writes."""

from typing import Any

from benchmarks.logbook import hardware

Rows = list[list[str]]
PARTS = ("talker", "predictor", "codec")
COMMAND = "make gpu-bench"


def section(document: dict[str, Any]) -> str:
    parts = document["parts"]
    found = {kind: of_kind(parts, kind) for kind in ("engine", "http", "rival")}
    pieces = [
        f"### {document['date'][:10]}: {hardware(document)}",
        f"`{COMMAND}`, random weights.",
        machine_line(found["engine"]),
        table(ENGINE_HEAD, engine_rows(found["engine"])),
        *memory_lines(found["engine"]),
        table(HTTP_HEAD, http_rows(found["http"])),
        table(RIVAL_HEAD, rival_rows(found["rival"], found["engine"])),
        *left_out(parts),
    ]
    return "\n\n".join(piece for piece in pieces if piece) + "\n"


def of_kind(parts: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    """Parts of this kind that have a result."""
    return [part for part in parts if part["name"].split()[0] == kind and part["result"]]


def table(head: list[str], rows: Rows) -> str:
    """Markdown; nothing without rows."""
    if not rows:
        return ""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


ENGINE_HEAD = [
    "shape", "weights", "batch", "ms/frame", "x real time",
    *(f"{part} / floor" for part in PARTS), "host", "floor's share",
]  # fmt: skip


def engine_rows(parts: list[dict[str, Any]]) -> Rows:
    rows = []
    for part in parts:
        _, shape, weights = part["name"].split()
        for row in part["result"]["rows"]:
            split, floor = row["split_s"], row["floor_s"]
            share = sum(floor.values()) / sum(split[name] for name in PARTS)
            cells = [f"{ms(split[name])} / {ms(floor[name])}" for name in PARTS]
            speed = [ms(row["step_s"]), f"{row['real_time']:.1f}"]
            rows.append([shape, weights, str(row["batch"]), *speed, *cells, ms(split["rest"])])
            rows[-1].append(f"{share:.0%}")
    return rows


def ms(seconds: float) -> str:
    return f"{1e3 * seconds:.2f}"


def machine_line(parts: list[dict[str, Any]]) -> str:
    """What the floors were computed with."""
    if not parts:
        return ""
    known = parts[0]["result"]["machine"]
    rates = ", ".join(
        f"{rate / 1e12:.3g} TFLOP/s in {name}" for name, rate in known["flop_s"].items()
    )
    return (
        f"Measured bandwidth {known['bandwidth_bytes_s'] / 1e9:.0f} GB/s, matrix products {rates}. "
        "ms; parts are timed alone on a GPU and may overlap in a step; host is its own time in one."
    )


def memory_lines(parts: list[dict[str, Any]]) -> list[str]:
    lines = []
    for part in parts:
        used = part["result"]["memory_bytes"]
        sizes = ", ".join(f"{name.replace('_', ' ')} {n / 1e9:.2f}" for name, n in used.items())
        lines.append(f"- {part['name'].removeprefix('engine ')}: GB of {sizes}")
    return ["\n".join(lines)] if lines else []


HTTP_HEAD = [
    "requests/s", "good / sent", "TTFB ms p50 / p95 / p99", "first playable ms p50 / p95 / p99",
    "answers with underruns", "audio s/s", "in flight at most",
]  # fmt: skip


def http_rows(parts: list[dict[str, Any]]) -> Rows:
    rows = []
    for part in parts:
        result, options = part["result"]["result"], part["result"]["options"]
        underruns = result["underrun_share"]
        rows.append(
            [
                f"{options['rate']:g}",
                f"{result['num_good']} / {result['num_requests']}",
                percentiles(result["ttfb_s"]),
                percentiles(result["first_playable_s"]),
                "-" if underruns is None else f"{underruns:.1%}",
                f"{result['audio_s_per_s']:.1f}",
                str(result["peak_in_flight"]),
            ]
        )
    return rows


def percentiles(found: dict[str, float] | None) -> str:
    if found is None:
        return "-"
    return " / ".join(f"{1e3 * found[name]:.1f}" for name in ("p50", "p95", "p99"))


RIVAL_HEAD = ["one stream", "shape", "versions", "frames/s", "ours / it"]


def rival_rows(parts: list[dict[str, Any]], engines: list[dict[str, Any]]) -> Rows:
    """Beside our own single stream with full weights on the same checkpoint."""
    own = {
        part["name"].split()[1]: 1 / row["step_s"]
        for part in engines
        for row in part["result"]["rows"]
        if row["batch"] == 1 and part["result"]["quantization"] == "none"
    }
    rows = []
    for part in parts:
        _, name, shape = part["name"].split()
        speed = part["result"]["frames_per_s"]
        versions = ", ".join(f"{n} {v}" for n, v in part["result"]["versions"].items())
        ratio = f"{own[shape] / speed:.1f}x" if shape in own else "-"
        rows.append([name, shape, versions, f"{speed:.1f}", ratio])
    return rows


def left_out(parts: list[dict[str, Any]]) -> list[str]:
    lines = [
        f"- {part['name']}: {part['status']}, {part['note']}"
        for part in parts
        if part["status"] != "done"
    ]
    return ["Left out:\n\n" + "\n".join(lines)] if lines else []
