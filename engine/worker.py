"""The engine's process: read messages, core.step(), write messages, until the work is done.

In and out: the messages of engine.protocol on a socket. One thread owns the device, the scheduler,
talker and codec. While there is nothing to do it waits for the socket, else it looks at it once a
step. The process ends at a Shutdown, or when the client closes its end. A second thread sends
heart-beats, so that the client can tell a long step from a worker that hangs.

    python -m engine.worker FD        FD: the number of an inherited, connected stream socket
"""

import gc
import logging
import select
import socket
import sys
import threading
import time
import traceback
from dataclasses import dataclass

import msgspec

from engine.core import EngineCore
from engine.errors import EngineError
from engine.protocol import (
    HEADER,
    Abort,
    Append,
    Embed,
    Fatal,
    ForgetVoice,
    Heartbeat,
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
HEARTBEAT_EVERY_S = 1.0


@dataclass(frozen=True)
class Malformed:
    """A message that is not what the protocol says; `id` as far as it has one."""

    id: int | None
    error: msgspec.DecodeError


class Connection:
    """Length-prefixed msgpack over a blocking stream socket; several threads may write."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.buffer = bytearray()
        self.decoder, self.encoder = msgspec.msgpack.Decoder(Inbound), msgspec.msgpack.Encoder()
        self._write_lock = threading.Lock()

    def read(self, timeout_s: float | None) -> list[Inbound | Malformed]:
        """Messages that have arrived, or the first to arrive in so long (None: for ever).
        ConnectionResetError when the other end is gone.
        """
        messages = self._parse()
        while not messages and self._readable(timeout_s):
            data = self.sock.recv(1 << 20)
            if not data:
                raise ConnectionResetError("the client closed the connection")
            self.buffer += data
            messages = self._parse()
        return messages

    def _readable(self, timeout_s: float | None) -> bool:
        return bool(select.select([self.sock], [], [], timeout_s)[0])

    def _parse(self) -> list[Inbound | Malformed]:
        messages: list[Inbound | Malformed] = []
        start = 0
        while len(self.buffer) - start >= HEADER.size:
            end = start + HEADER.size + HEADER.unpack_from(self.buffer, start)[0]
            if len(self.buffer) < end:
                break
            messages.append(self._decode(bytes(self.buffer[start + HEADER.size : end])))
            start = end
        del self.buffer[:start]
        return messages

    def _decode(self, data: bytes) -> Inbound | Malformed:
        try:
            message: Inbound = self.decoder.decode(data)
            return message
        except msgspec.ValidationError as error:
            fields = msgspec.msgpack.decode(data)
            id_ = fields.get("id") if isinstance(fields, dict) else None
            return Malformed(id_ if isinstance(id_, int) else None, error)

    def write(self, facts: list[Outbound]) -> None:
        out = bytearray()
        for fact in facts:
            data = self.encoder.encode(fact)
            out += HEADER.pack(len(data)) + data
        if out:
            with self._write_lock:
                self.sock.sendall(out)


class Pulse:
    """Tells the client once a second that this process lives, and how long its step has run."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.step_began: float | None = None
        self._ended = threading.Event()
        threading.Thread(target=self._run, name="heartbeat", daemon=True).start()

    def _run(self) -> None:
        while not self._ended.wait(HEARTBEAT_EVERY_S):
            began = self.step_began
            step_s = 0.0 if began is None else time.monotonic() - began
            try:
                self.connection.write([Heartbeat(step_s)])
            except OSError:
                return  # the client is gone; the main thread learns it by itself

    def stop(self) -> None:
        self._ended.set()


def handle(core: EngineCore, message: Inbound | Malformed) -> None:
    """A message that cannot be done fails its own utterance: those of others go on."""
    try:
        _dispatch(core, message)
    except Exception as error:
        seq_id = getattr(message, "id", None)
        if seq_id is None:
            log.error("a %s was dropped", type(message).__name__, exc_info=error)
        else:
            core.fail(seq_id, error)


def _dispatch(core: EngineCore, message: Inbound | Malformed) -> None:
    match message:
        case Malformed(_, error):
            raise error
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
        case ForgetVoice(key):
            core.forget_voice(key)
        case Embed(id_, model, samples):
            core.embed(id_, model, samples)
        case Start() | Shutdown():
            raise AssertionError(f"unexpected {type(message).__name__}")


def serve(connection: Connection, core: EngineCore, pulse: Pulse) -> None:
    """Until Shutdown, or until the other end closes."""
    stats_at, was_busy = 0.0, True
    while True:
        busy = core.has_work
        if was_busy and not busy:
            connection.write([core.stats()])
        for message in connection.read(0 if busy else core.due_in_s):
            if isinstance(message, Shutdown):
                return
            handle(core, message)
        was_busy = core.has_work or busy
        pulse.step_began = time.monotonic()
        facts = core.step()
        pulse.step_began = None
        connection.write(facts)
        if time.monotonic() - stats_at >= STATS_EVERY_S:
            connection.write([core.stats()])
            stats_at = time.monotonic()


def run(connection: Connection) -> None:
    start = connection.read(None)[0]
    if isinstance(start, Malformed):
        raise start.error
    assert isinstance(start, Start), "the first message is Start"
    core, ready = build(start.config, start.models, start.replica, start.measured)
    gc.collect()
    gc.freeze()  # weights and modules stay to the end: keep them out of every later collection
    connection.write([ready])
    pulse = Pulse(connection)
    try:
        serve(connection, core, pulse)
    finally:
        pulse.stop()
        core.close()


def main() -> int:
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    connection = Connection(socket.socket(fileno=int(sys.argv[1])))
    try:
        run(connection)
    except ConnectionError:
        return 0  # the client is gone
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
