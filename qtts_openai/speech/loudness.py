"""PCM made louder or softer, sample by sample: where chunks are cut makes no difference."""

import numpy as np

from engine import Finished
from qtts_openai.speech.segmented_stream import PcmStream


class Amplified:
    """A PcmStream of another one's sound."""

    def __init__(self, stream: PcmStream, gain_db: float) -> None:
        self.finished: Finished | None = None
        self._stream = stream
        self._factor = 10 ** (gain_db / 20)

    def __aiter__(self) -> "Amplified":
        return self

    async def __anext__(self) -> bytes:
        try:
            return amplify(await anext(self._stream), self._factor)
        finally:
            self.finished = self._stream.finished

    def abort(self) -> None:
        self._stream.abort()


def amplify(pcm: bytes, factor: float) -> bytes:
    """int16 little-endian; what would be beyond the range stays at its edge."""
    samples = np.rint(np.frombuffer(pcm, "<i2") * factor)
    return samples.clip(-32768, 32767).astype("<i2").tobytes()
