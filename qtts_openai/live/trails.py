"""The signatures and audit entries of live utterances: they cover the bytes that were handed to the
socket, which may be less than what was made.
"""

import asyncio

from qtts_openai.live.events import Audio, Event, Failed, Finished
from qtts_openai.live.utterance import Utterance
from qtts_openai.provenance.policy import Provenance


class Trails:
    def __init__(self) -> None:
        self._open: dict[int, tuple[Utterance, Provenance]] = {}
        self._sent_s: dict[int, float] = {}

    def begin(self, utterance: Utterance, provenance: Provenance) -> None:
        if provenance.seal or provenance.trail:
            self._open[utterance.index] = utterance, provenance
            self._sent_s[utterance.index] = 0.0

    def note(self, event: Event) -> None:
        """In the order in which they are told."""
        if event.index not in self._open:
            return
        provenance = self._open[event.index][1]
        match event:
            case Audio(index, data, duration_s=duration_s):
                self._sent_s[index] += duration_s
                provenance.add(data)
            case Finished(index, reason=reason):
                if provenance.seal:
                    provenance.seal.finish()
                self._end(index, reason)
            case Failed(index):
                self._end(index, "error")

    def cut(self) -> None:
        """The rest of all is not heard."""
        for index in [*self._open]:
            self._end(index, "cut off")

    def _end(self, index: int, reason: str) -> None:
        utterance, provenance = self._open.pop(index)
        sent_s, text = self._sent_s.pop(index), utterance.sha256.hexdigest()
        if provenance.trail:
            # Nothing may be awaited where a session is cut off.
            loop = asyncio.get_running_loop()
            loop.run_in_executor(None, provenance.trail.end, sent_s, reason, text)
