"""How many GPUs for how many listeners? A simulation, from costs that were measured on one H100.

    python -m benchmarks.capacity --gpus 1,10,100,1000 --rates 20,30,40

Regime. Sentences of 30 prompt tokens and about 110 frames (8.8 s of speech) arrive as a Poisson
process, `rate` a second for each GPU. A router sends each to one of the GPUs: to the one with the
least work left by estimate, as the server does with its own workers; to the one with the fewest
open answers, as proxies do; or to any. All GPUs are followed as fluids, whose rows advance at the
speed of the measured step for so many rows. A few of them (--sample) get their arrivals once more
through the server's true scheduler and codec schedule on a virtual clock: what its listeners hear
is in the table. No network, no HTTP, no failures. First seconds, in which rows fill, do not count.

Step of 1.7B, bfloat16, batches of 1 to 128 (RESULTS.md): 4.7 ms and 0.072 ms for each row, the
codec included, which runs beside it. Prefill is estimated: 2 ms and 10 us a token.
"""

import argparse
import heapq
import json
import random
import sys
from collections.abc import Callable
from dataclasses import dataclass, field

from qtts_openai.load.audio_clock import percentiles
from tests.engine.scheduler.simulation import Costs, Listener, Simulation

ROWS, PROMPT = 128, 30
COSTS = Costs(
    prefill_s=0.002, prefill_s_per_token=1e-5, decode_s=0.0047, decode_s_per_row=7.2e-5,
    codec_s=1e-4, codec_s_per_frame=1e-6,
)  # fmt: skip
TICK_S, WARM_UP_S = 0.005, 3.0


@dataclass
class Fluid:
    """One GPU: every row has come `progress` frames since the beginning of time."""

    progress: float = 0.0
    ends: list[float] = field(default_factory=list)  # heap: the progress at which each ends
    left: float = 0.0  # frames in all
    arrivals: list[tuple[float, int]] = field(default_factory=list)
    row_s: float = 0.0  # rows in use, integrated

    def advance(self, seconds: float) -> None:
        rows = min(ROWS, len(self.ends))
        if not rows:
            return
        self.row_s += rows * seconds
        # More than there are rows share them.
        frames = seconds / (COSTS.decode_s + rows * COSTS.decode_s_per_row) * rows / len(self.ends)
        self.progress += frames
        self.left = max(0.0, self.left - frames * len(self.ends))
        while self.ends and self.ends[0] <= self.progress:
            heapq.heappop(self.ends)

    def add(self, at_s: float, frames: int) -> None:
        self.arrivals.append((at_s, frames))
        heapq.heappush(self.ends, self.progress + frames)
        self.left += frames


ROUTERS: dict[str, Callable[[Fluid], float]] = {
    "least work": lambda gpu: gpu.left,
    "fewest open": lambda gpu: len(gpu.ends),
    "any": lambda gpu: 0.0,
}


def route(num: int, rate: float, seconds: float, router: str, seed: int) -> list[Fluid]:
    """Of more than 16 GPUs two are drawn for each arrival and the better one is taken: nearly as
    good as looking at all of them, and what proxies do.
    """
    rng, gpus, at_s = random.Random(seed), [Fluid() for _ in range(num)], 0.0
    better, until = ROUTERS[router], 0.0
    while at_s < seconds:
        until += TICK_S
        while at_s < until:
            offered = gpus if num <= 16 else rng.sample(gpus, 2)
            chosen = rng.choice(gpus) if router == "any" else min(offered, key=better)
            chosen.add(at_s, max(10, round(rng.gauss(110, 40))))
            at_s += rng.expovariate(rate * num)
        for gpu in gpus:
            gpu.advance(TICK_S)
    return gpus


def speak(gpu: Fluid, seconds: float) -> list[Listener]:
    """Through the scheduler: those who came after the warm-up and were heard."""
    simulation, listeners = Simulation(COSTS, max_num_seqs=ROWS, now=0.0), []
    for at_s, frames in gpu.arrivals:
        while simulation.now < at_s:
            if not simulation.scheduler.has_work:
                simulation.now = at_s
                break
            simulation.step()
        listener = simulation.submit(PROMPT, frames)
        listener.submitted_at = at_s
        if at_s >= WARM_UP_S:
            listeners.append(listener)
    while simulation.scheduler.has_work and simulation.now < seconds + 60:
        simulation.step()
    return [listener for listener in listeners if listener.first_audio_at is not None]


def measure(num: int, rate: float, router: str, options: argparse.Namespace) -> dict[str, object]:
    gpus = route(num, rate, options.seconds, router, options.seed)
    rng = random.Random(options.seed)
    sample = rng.sample(gpus, min(num, options.sample))
    heard = [one for gpu in sample for one in speak(gpu, options.seconds)]
    first = percentiles([one.ttfa_s for one in heard]) or {}
    busy = sorted(gpu.row_s / options.seconds for gpu in gpus)
    return {
        "gpus": num, "rate": rate, "router": router, "heard": len(heard),
        "p50_ms": first["p50"] * 1e3, "p95_ms": first["p95"] * 1e3, "p99_ms": first["p99"] * 1e3,
        "with_gaps": sum(one.num_underruns > 0 for one in heard) / len(heard),
        "rows_mean": sum(busy) / num, "rows_busiest": busy[-1],
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--gpus", default="1,10,100,1000")
    parser.add_argument("--rates", default="20,40,60", help="sentences a second for each GPU")
    parser.add_argument("--routers", default=",".join(ROUTERS))
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--sample", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print(
        "a simulation; GPUs  rate  router        first audio p50/p95/p99 ms  gaps  rows mean/most"
    )
    told = []
    for num in map(int, options.gpus.split(",")):
        for rate in map(float, options.rates.split(",")):
            for router in options.routers.split(",") if num > 1 else ["any"]:
                row = measure(num, rate, router, options)
                told.append(row)
                print(
                    f"{num:17} {rate:5g}  {router:12} {row['p50_ms']:8.0f}{row['p95_ms']:6.0f}"
                    f"{row['p99_ms']:6.0f}{row['with_gaps']:15.1%}{row['rows_mean']:8.0f}"
                    f"{row['rows_busiest']:6.0f}",
                    flush=True,
                )
    print(json.dumps({"benchmark": "capacity", "seconds": options.seconds, "rows": told}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
