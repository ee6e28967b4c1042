import pytest

from engine.native import build, decoder


@pytest.fixture(scope="module", autouse=True)
def compiled() -> None:
    """Where there is a compiler the library must come of it."""
    if build.compiler() is None:
        pytest.skip("there is no C++ compiler")
    assert build.build() == ""
    decoder.library.cache_clear()
