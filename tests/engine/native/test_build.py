"""The library is compiled for this machine or not at all."""

import pytest

from engine.native import build, decoder


@pytest.fixture(autouse=True)
def compiled() -> None:
    """Instead of conftest.py's: only this machine's library."""
    if build.compiler() is None:
        pytest.skip("there is no C++ compiler")


def test_a_library_of_another_source_or_machine_is_not_taken(monkeypatch: pytest.MonkeyPatch):
    here = build.library()
    monkeypatch.setattr(build, "cpu", lambda: ("another",))
    assert build.library() != here
    decoder.library.cache_clear()
    assert decoder.library() is None
    decoder.library.cache_clear()


def test_a_compiler_that_fails_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path):
    source = tmp_path / "decoder.cpp"
    source.write_text("not C++")
    monkeypatch.setattr(build, "SOURCES", (source,))
    monkeypatch.setattr(build, "FOLDER", tmp_path)
    assert "failed" in build.build() and list(tmp_path.iterdir()) == [source]
    monkeypatch.setattr(build, "compiler", lambda: None)
    assert "no C++ compiler" in build.build()


def test_a_path_with_a_space_is_no_hindrance(monkeypatch: pytest.MonkeyPatch, tmp_path):
    maps = tmp_path / "maps"
    maps.write_text("7f00-7f01 r-xp 00000000 fe:00 123    /home/my venv/lib/libgomp.so.1\n")
    monkeypatch.setattr(decoder, "Path", lambda _: maps)
    loaded = []
    monkeypatch.setattr(decoder.ctypes, "CDLL", lambda path, **_: loaded.append(path))
    decoder._share_openmp()
    assert loaded == ["/home/my venv/lib/libgomp.so.1"]
