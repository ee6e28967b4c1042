"""What a process can still do once it is in the sandbox: tried in one, from the inside."""

import json
import subprocess
import sys
import textwrap

CODE = """
    import json, os, signal, socket, sys
    from qtts_openai.decoding import sandbox

    def tried(action):
        try:
            action()
        except (OSError, MemoryError) as error:
            return type(error).__name__
        return "done"

    parent = os.getppid()
    filtered = sandbox.enter(memory_bytes=64 << 20, cpu_s=5)
    results = {
        "filtered": filtered,
        "open": tried(lambda: open("/etc/hostname")),
        "create": tried(lambda: open("/tmp/decoder-was-here", "w")),
        "unlink": tried(lambda: os.unlink("/tmp/decoder-was-here")),
        "socket": tried(lambda: socket.socket()),
        "fork": tried(os.fork),
        "exec": tried(lambda: os.execv("/bin/true", ["true"])),
        "kill": tried(lambda: os.kill(parent, 0)),
        "list": tried(lambda: os.listdir("/")),
        "chmod": tried(lambda: os.chmod("/tmp", 0o777)),
        "duplicate": tried(lambda: os.dup(1)),
        "memory": tried(lambda: bytearray(500 << 20)),
        "work": tried(lambda: bytearray(10 << 20)),
    }
    os.write(1, json.dumps(results).encode())
    os._exit(0)
"""


def run(code: str) -> dict[str, object]:
    out = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, check=True
    )
    return json.loads(out.stdout)


def test_the_sandbox():
    results = run(CODE)
    assert results.pop("filtered") is True
    assert results.pop("work") == "done"
    assert results.pop("memory") == "MemoryError"
    assert set(results.values()) == {"PermissionError"}


def test_limits_alone_let_nothing_be_opened():
    """Where there is no filter: an unknown machine."""
    lines = [line for line in CODE.splitlines() if '"fork"' not in line and '"exec"' not in line]
    unknown = "    sandbox.platform.machine = lambda: 'z80'"
    results = run("\n".join([*lines[:3], unknown, *lines[3:]]))
    assert results.pop("filtered") is False
    for action in ("open", "create", "socket", "list", "duplicate"):
        assert results[action] == "OSError", action
    assert results["memory"] == "MemoryError"
