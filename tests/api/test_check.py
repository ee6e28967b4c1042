"""`qtts check`, and the address for operators."""

import asyncio
import socket
from contextlib import suppress

import httpx
import pytest

from qtts_openai import check as module
from qtts_openai.__main__ import main
from qtts_openai.http.admin import admin_app, administered, read_key
from qtts_openai.settings import ServerSettings, Settings, SettingsError


@pytest.fixture
def checked(tmp_path, monkeypatch, capsys):
    """checked(yaml) -> (exit status, lines by what they are about)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("QTTS_API_KEYS", raising=False)

    def run(text: str, *options: str) -> tuple[int, str]:
        (tmp_path / "config.yaml").write_text(text)
        try:
            status = main(["check", *options])
        except SystemExit as error:
            status = int(str(error.code))
        return status, capsys.readouterr().out

    return run


@pytest.fixture
def no_torch(monkeypatch):
    """Without the seconds that torch takes."""
    said = '{"torch": "2", "gpus": [], "workers": [], "error": null}'
    monkeypatch.setattr(module, "_PLAN", ["echo", said])


PORT = "server: {port: 0}\n"


@pytest.mark.process
def test_what_works_is_zero(checked):
    status, said = checked(PORT)
    assert status == 0 and "error" not in said
    for what in ("settings", "ports", "keys", "models", "devices", "memory", "voices", "files"):
        assert f" {what}" in said
    assert "32 utterances at once" in said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("server: {prot: 1}", "prot"),
        (PORT + "models: [{id: a, checkpoint: /nowhere}]", "no folder /nowhere"),
        (PORT + "models: [{id: a, checkpoint: .}]", "lacks config.json, *.safetensors"),
        (PORT + "auth: {keys_file: nokeys}", "cannot be read"),
        (PORT + "limits: {store: 'redis://:secret@127.0.0.1:9'}", "127.0.0.1:9 does not answer"),
        (PORT + "voices: {directory: config.yaml/x}", "cannot be written to"),
        ("server: {port: 0, admin_port: 18899}", "QTTS_ADMIN_KEY"),
    ],
)
def test_what_would_fail_is_said_and_is_one(checked, no_torch, text, said):
    status, out = checked(text)
    assert status == 1
    assert any(line.startswith("error") and said in line for line in out.splitlines()), out
    assert "secret" not in out


KERNEL = '{"name": "attention", "seconds": 1e-5, "plain_seconds": %s, "difference": 1e-4}'


@pytest.mark.parametrize(
    ("plain_s", "fault", "level"),
    [("4e-5", "", "ok"), ("4e-6", "", "warning"), ("4e-5", "it differs by 1", "error")],
)
def test_each_kernel_is_a_line(monkeypatch, plain_s, fault, level):
    said = (
        f'{{"error": null, "gpu": "a card", "checks": [{KERNEL % plain_s}], "faults": ["{fault}"]}}'
    )
    monkeypatch.setattr(module, "_GPU", ["echo", said])
    card, kernel = module._kernels(Settings())
    assert (card.level, card.said) == ("ok", "a card")
    assert kernel.level == level and "attention" in kernel.said
    assert (fault or "10 us") in kernel.said


def test_without_a_gpu_that_is_said(checked, monkeypatch):
    monkeypatch.setattr(module, "_GPU", ["echo", '{"error": "torch 2 sees no GPU"}'])
    status, out = checked(PORT, "--gpu")
    assert status == 1 and "torch 2 sees no GPU" in out


def test_a_port_in_use_is_an_error(checked, no_torch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        status, out = checked(f"server: {{port: {taken.getsockname()[1]}}}")
    assert status == 1 and "cannot listen" in out


def test_every_address_of_loopback_is_for_this_machine_only(checked, no_torch):
    status, out = checked("server: {port: 0, host: 127.0.0.2}")
    assert status == 0 and "none: everybody on this machine" in out


def test_an_open_server_for_everybody_is_a_warning(checked, no_torch):
    status, out = checked("server: {host: 0.0.0.0, port: 0}")
    assert status == 0 and "warning  keys" in out


async def test_drain_needs_its_key_and_can_be_taken_back():
    class State:
        draining = False

    key = "an-admins-own-key"
    app = admin_app(State, lambda: 3, key)
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
        for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": key}):
            assert (await client.post("/admin/drain", headers=headers)).status_code == 401
        assert not State.draining
        client.headers["authorization"] = f"Bearer {key}"
        answer = await client.post("/admin/drain")
        assert answer.json() == {"draining": True, "answers": 3} and State.draining
        assert (await client.get("/admin/drain")).json()["draining"]
        assert (await client.delete("/admin/drain")).json()["draining"] is False
        assert (await client.get("/other")).status_code == 404
        assert (await client.put("/admin/drain")).status_code == 405


async def test_the_address_for_operators_is_another(monkeypatch):
    class State:
        draining = False

    monkeypatch.setenv("QTTS_ADMIN_KEY", "an-admins-own-key")
    with socket.create_server(("127.0.0.1", 0)) as one:
        port = one.getsockname()[1]
        with pytest.raises(SettingsError, match="cannot listen"):
            async with administered(ServerSettings(admin_port=port), State, int):
                pass
    headers = {"authorization": "Bearer an-admins-own-key"}
    async with administered(ServerSettings(admin_port=port), State, int):
        url = f"http://127.0.0.1:{port}/admin/drain"
        async with httpx.AsyncClient(headers=headers) as client:
            for _ in range(50):
                with suppress(httpx.ConnectError):
                    assert (await client.post(url)).json() == {"draining": True, "answers": 0}
                    break
                await asyncio.sleep(0.02)
    assert State.draining


def test_an_admin_port_without_a_key_is_refused(monkeypatch):
    monkeypatch.setenv("QTTS_ADMIN_KEY", "short")
    with pytest.raises(SettingsError, match="QTTS_ADMIN_KEY"):
        read_key(ServerSettings(admin_port=1))
