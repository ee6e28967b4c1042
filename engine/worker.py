"""The engine process: read messages, core.step(), write messages.

One thread owns the device, the scheduler and both stages. It blocks on the socket while there is
nothing to do and looks at it once per step otherwise. It ends when told to, or when the other end
closes.

    python -m engine.worker FD        FD: the number of an inherited, connected stream socket
"""

import gc
import logging
import select
import socket
import sys
import time
import traceback

import msgspec

from engine.core import EngineCore
from engine.errors import EngineError
from engine.protocol import (
    HEADER,
    Abort,
    Append,
    Fatal,
    Hold,
    Inbound,
    Outbound,
    RegisterVoice,
    Shutdown,
    Start,
    Submit,
)
from engine.startup import build

log = logging.getLogger(__name__)

STATS_EVERY_S = 1.0


class Connection:
    """Length-prefixed msgpack over a blocking stream socket."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.buffer = bytearray()
        self.decoder, self.encoder = msgspec.msgpack.Decoder(Inbound), msgspec.msgpack.Encoder()

    def read(self, block: bool) -> list[Inbound]:
        """Messages that have arrived; with `block`, at least one. ConnectionResetError when the
        other end is gone.
        """
        messages = self._parse()
        while not messages and (block or self._readable()):
            data = self.sock.recv(1 << 20)
            if not data:
                raise ConnectionResetError("the client closed the connection")
            self.buffer += data
            messages = self._parse()
        return messages

    def _readable(self) -> bool:
        return bool(select.select([self.sock], [], [], 0)[0])

    def _parse(self) -> list[Inbound]:
        messages, start = [], 0
        while len(self.buffer) - start >= HEADER.size:
            end = start + HEADER.size + HEADER.unpack_from(self.buffer, start)[0]
            if len(self.buffer) < end:
                break
            messages.append(self.decoder.decode(memoryview(self.buffer)[start + HEADER.size : end]))
            start = end
        del self.buffer[:start]
        return messages

    def write(self, facts: list[Outbound]) -> None:
        out = bytearray()
        for fact in facts:
            data = self.encoder.encode(fact)
            out += HEADER.pack(len(data)) + data
        if out:
            self.sock.sendall(out)


def handle(core: EngineCore, message: Inbound) -> None:
    match message:
        case Submit():
            core.add(message)
        case Append(seq_id, text, final):
            core.append(seq_id, text, final)
        case Hold(seq_id, held):
            core.hold(seq_id, held)
        case Abort(seq_id):
            core.abort(seq_id)
        case RegisterVoice(model, reference):
            core.register_voice(model, reference)
        case Start() | Shutdown():
            raise AssertionError(f"unexpected {type(message).__name__}")


def serve(connection: Connection, core: EngineCore) -> None:
    """Until Shutdown, or until the other end closes."""
    told_at, was_busy = 0.0, True
    while True:
        busy = core.has_work
        if was_busy and not busy:
            connection.write([core.stats()])
        for message in connection.read(block=not busy):
            if isinstance(message, Shutdown):
                return
            handle(core, message)
        was_busy = core.has_work or busy
        connection.write(core.step())
        if time.monotonic() - told_at >= STATS_EVERY_S:
            connection.write([core.stats()])
            told_at = time.monotonic()


def run(connection: Connection) -> None:
    start = connection.read(block=True)[0]
    assert isinstance(start, Start), "the first message is Start"
    core, ready = build(start.config, start.models)
    gc.collect()
    gc.freeze()  # weights and modules live for ever: keep them out of every later collection
    connection.write([ready])
    try:
        serve(connection, core)
    finally:
        core.close()


def main() -> int:
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    connection = Connection(socket.socket(fileno=int(sys.argv[1])))
    try:
        run(connection)
    except ConnectionError:
        return 0  # the client is gone; nobody is listening
    except EngineError as error:
        connection.write([Fatal(str(error))])
        return 1
    except Exception as error:
        traceback.print_exc()
        connection.write([Fatal(f"{type(error).__name__}: {error}")])
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
