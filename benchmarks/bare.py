"""Run a module of this project with a Python that has torch and little else, such as a GPU machine
on which nothing can be installed:

    python3 -m benchmarks.bare engine.bench --shape 0.6B

Where msgspec is missing, a stand-in of our own takes its place (msgspec_stand_in.py). As a pytest
plugin (-p benchmarks.bare) it does the same before any test file is imported.
"""

import importlib
import importlib.util
import runpy
import sys


def use_stand_ins() -> None:
    if importlib.util.find_spec("msgspec") is None:
        sys.modules["msgspec"] = importlib.import_module("benchmarks.msgspec_stand_in")


def pytest_load_initial_conftests() -> None:
    use_stand_ins()


if __name__ == "__main__":
    use_stand_ins()
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
