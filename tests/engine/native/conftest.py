import ctypes
import platform

import pytest

from engine.native import build, decoder

# This machine's own library, and on x86 those of lesser machines: each takes other instructions.
KINDS = ("native", "skylake-avx512", "haswell", "x86-64")


@pytest.fixture(scope="module", params=KINDS, autouse=True)
def compiled(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> ctypes.CDLL:
    """Where there is a compiler the library must come of it."""
    kind = request.param
    if build.compiler() is None:
        pytest.skip("there is no C++ compiler")
    if kind == "native":
        assert build.build() == ""
        decoder.library.cache_clear()
        yield decoder.library()
        return
    flags = {"skylake-avx512": "avx512vl", "haswell": "avx2", "x86-64": "sse2"}
    if platform.machine() != "x86_64" or flags[kind] not in " ".join(build.cpu()).split():
        pytest.skip(f"this machine cannot run code for {kind}")
    with pytest.MonkeyPatch.context() as patch:
        options = [o.replace("native", kind) if "march" in o else o for o in build.OPTIONS]
        patch.setattr(build, "OPTIONS", options)
        patch.setattr(build, "FOLDER", tmp_path_factory.mktemp(kind))  # this machine's own stays
        assert build.build() == ""
        found = ctypes.CDLL(str(build.library()))
        patch.setattr(decoder, "library", lambda: found)
        patch.setattr("engine.native.codec.library", lambda: found)
        yield found
