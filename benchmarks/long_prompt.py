"""What a long prompt does to those who listen already.

Regime. --streams requests start --stagger apart and play in real time; in their midst a request
arrives whose text is as long as the server takes (whole-text layout, so all of it is prefilled
before its first frame). Underruns of the streams are counted in a run with the long prompt and in
one without: the difference is its doing.

    python -m benchmarks.long_prompt --base-url http://127.0.0.1:8000/v1 --streams 16

A table, then one JSON document on the last line.
"""

import argparse
import asyncio
import sys
from typing import Any

import httpx

from qtts_openai.load import machine
from qtts_openai.load.audio_clock import percentiles
from qtts_openai.load.client import Result, open_client, speak
from qtts_openai.load.texts import built_in


def fields(args: argparse.Namespace, text: str) -> dict[str, Any]:
    asked = {"max_new_tokens": args.frames + 1} if args.frames else {}
    return {
        "model": args.model, "voice": "alloy", "input": text, "response_format": "pcm", **asked
    }  # fmt: skip


def long_text(num_characters: int) -> str:
    texts = built_in(1)
    text = ""
    while len(text) < num_characters:
        text += next(texts) + " "
    return text[:num_characters]


async def play(
    client: httpx.AsyncClient, args: argparse.Namespace, with_long: bool
) -> tuple[list[Result], Result | None]:
    texts = built_in(0)

    async def one(delay_s: float, text: str) -> Result:
        await asyncio.sleep(delay_s)
        return await speak(client, fields(args, text), run_started=0.0, rate_hz=24_000)

    num = args.streams
    streams = [
        asyncio.create_task(one(i * args.stagger, " ".join(next(texts) for _ in range(4))))
        for i in range(num)
    ]
    late = None
    if with_long:
        middle_s = num * args.stagger + 1.0
        late = await one(middle_s, long_text(args.characters))
    return list(await asyncio.gather(*streams)), late


def summary(streams: list[Result], late: Result | None) -> dict[str, Any]:
    return {
        "failed": sum(r.error is not None for r in streams),
        "underruns": sum(r.num_underruns for r in streams),
        "gap_s": sum(r.gap_s for r in streams),
        "audio_s": sum(r.audio_s for r in streams),
        "first_playable_s": percentiles([r.first_playable_s or 0.0 for r in streams]),
        "long_first_playable_s": late.first_playable_s if late else None,
        "long_error": late.message if late and late.error else None,
    }


async def run(args: argparse.Namespace) -> dict[str, Any]:
    async with open_client(args.base_url, args.api_key, 300.0) as client:
        await play(client, argparse.Namespace(**{**vars(args), "streams": 2}), False)
        without = summary(*await play(client, args, False))
        return {"without": without, "with": summary(*await play(client, args, True))}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base-url", default="http://127.0.0.1:8000/v1")
    parser.add_argument("--api-key")
    parser.add_argument("--model", default="tts-1")
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--stagger", type=float, default=0.25, help="seconds between starts")
    parser.add_argument("--characters", type=int, default=4096)
    parser.add_argument("--frames", type=int, default=0, help="fixed length of every answer")
    args = parser.parse_args()
    result = asyncio.run(run(args))
    for name, row in result.items():
        late = row["long_first_playable_s"]
        print(
            f"{name:8} underruns {row['underruns']:3d}, gaps {row['gap_s']:.3f} s "
            f"in {row['audio_s']:.0f} s of speech, failed {row['failed']}"
            + (f"; the long one spoke after {late:.2f} s" if late else "")
        )
    options = {k: v for k, v in vars(args).items() if k != "api_key"}
    told = machine.describe("httpx", "torch")
    print(machine.as_line({"benchmark": "long_prompt", **told, "options": options, **result}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
