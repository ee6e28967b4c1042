"""The fixtures of a server, and keys as `qtts keys create` makes them."""

from pathlib import Path

import pytest

from qtts_openai.settings import ProvenanceSettings
from tests.api.conftest import decoding_process, start, starter, tokenizer_dir

__all__ = ["decoding_process", "start", "tokenizer_dir"]


@pytest.fixture(scope="session")
def keys(tmp_path_factory) -> Path:
    from qtts_openai.provenance.keys import create_keys

    directory = tmp_path_factory.mktemp("keys")
    create_keys(directory / "k", "Example")
    return directory / "k"


@pytest.fixture(scope="session")
def signing_server(tokenizer_dir, provenance):
    with starter(tokenizer_dir) as begin:
        yield begin(provenance=provenance())


@pytest.fixture
def server(signing_server):
    signing_server.engine.behave()
    return signing_server


@pytest.fixture(scope="session")
def provenance(keys):
    def settings(**fields) -> ProvenanceSettings:
        paths = {"certificate": str(keys / "certificate.pem"), "key": str(keys / "key.pem")}
        return ProvenanceSettings(c2pa=True, **paths, **fields)

    return settings
