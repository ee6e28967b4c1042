"""Names of voices that are read again while the server speaks."""

import msgspec
import pytest

from qtts_openai.settings import Settings, SettingsError, VoiceEntry, VoiceSettings
from tests.api.speech.test_streaming import LONG


def changed(settings: Settings, **voices: object) -> Settings:
    """Another directory than the server's: voices of users are not read again."""
    fields = {"directory": "elsewhere", "aliases": {"wink": "ryan"}, **voices}
    return msgspec.structs.replace(settings, voices=VoiceSettings(**fields))


def test_a_name_is_there_and_another_gone_and_no_stream_ends(start):
    server = start(defaults=Settings(models=()).defaults)
    service = server.uvicorn.app.state.service
    server.engine.chunk_delay_s = 0.05
    body = {"model": "tts-1", "voice": "alloy", "input": LONG, "response_format": "pcm"}
    assert server.speak(voice="wink").status_code == 400
    with server.http.stream("POST", "/audio/speech", json=body) as answer:
        pieces = answer.iter_raw()
        heard = next(pieces)
        entry = VoiceEntry(name="Wise", speaker="vivian")
        service.read_voices_again(changed(service.settings, extra=(entry,)))
        assert server.speak(voice="wink", max_new_tokens=2).status_code == 200
        assert server.speak(voice="wise", max_new_tokens=2).status_code == 200
        assert server.speak(voice="alloy", max_new_tokens=2).status_code == 400
        heard += b"".join(pieces)
    assert len(heard) == server.engine.streams[0].num_frames * 3840
    names = {one["name"] for one in server.http.get("/audio/voices").json()["voices"]}
    assert {"wink", "Wise"} <= names and "alloy" not in names


def test_names_that_mean_nothing_change_nothing(start):
    server = start()
    service = server.uvicorn.app.state.service
    with pytest.raises(SettingsError, match=r"voices\.aliases\.wink: there is no speaker 'nobody'"):
        service.read_voices_again(changed(service.settings, aliases={"wink": "nobody"}))
    assert server.speak(max_new_tokens=2).status_code == 200
