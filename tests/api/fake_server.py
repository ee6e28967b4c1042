"""A server on FakeEngine in a process of its own: prints its address, serves until it is killed.

python -m tests.api.fake_server TOKENIZER_DIRECTORY SETTINGS_JSON
"""

import sys
import threading
from pathlib import Path

import msgspec

from qtts_openai.settings import Settings
from tests.api.conftest import BASE, CUSTOM, DESIGN, FAMILIES, serving
from tests.api.fake_engine import FakeEngine, model_info


def main() -> None:
    directory, changes = Path(sys.argv[1]), msgspec.json.decode(sys.argv[2])
    settings = msgspec.convert(changes, Settings)
    settings = msgspec.structs.replace(settings, models=(CUSTOM, DESIGN, BASE))
    infos = [model_info(m.id, directory, FAMILIES[m.id]) for m in settings.models]
    with serving(settings, FakeEngine(infos)) as server:
        print(server.url, flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
