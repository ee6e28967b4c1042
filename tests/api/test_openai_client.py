"""The real openai client, sync and async, against a real socket."""

import openai
import pytest

from engine import GenerationFailedError, QueueFullError
from tests.api.audio import seconds


def test_create_and_write_to_file(server, tmp_path):
    with server.openai() as client:
        answer = client.audio.speech.create(model="tts-1", voice="alloy", input="Hello there.")
        answer.write_to_file(tmp_path / "hello.mp3")
    assert seconds("mp3", (tmp_path / "hello.mp3").read_bytes()) > 0.3


def test_streaming_helpers(server, tmp_path):
    fields = {"model": "gpt-4o-mini-tts", "voice": "coral", "input": "Hello there."}
    with server.openai() as client:
        speech = client.audio.speech.with_streaming_response
        with speech.create(**fields, response_format="pcm") as answer:
            pcm = b"".join(answer.iter_bytes(1024))
        with speech.create(**fields, response_format="wav") as answer:
            answer.stream_to_file(tmp_path / "x.wav")
    assert (tmp_path / "x.wav").read_bytes()[44:] == pcm


async def test_async_client(server):
    async with openai.AsyncOpenAI(base_url=server.base_url, api_key="none") as client:
        speech = client.audio.speech.with_streaming_response
        async with speech.create(
            model="tts-1", voice="nova", input="Hi.", response_format="flac", extra_body={"seed": 3}
        ) as answer:
            data = b"".join([chunk async for chunk in answer.iter_bytes()])
    assert seconds("flac", data) > 0.2
    assert server.engine.submitted[-1][2].seed == 3


@pytest.mark.parametrize(
    ("fields", "error", "code", "param"),
    [
        ({"voice": "nobody"}, openai.BadRequestError, "invalid_value", "voice"),
        ({"model": "gpt-9"}, openai.NotFoundError, "model_not_found", "model"),
        ({"input": ""}, openai.BadRequestError, "empty_string", "input"),
        ({"speed": 9}, openai.BadRequestError, "invalid_value", "speed"),
    ],
)
def test_errors_are_typed(server, fields, error, code, param):
    with server.openai() as client, pytest.raises(error) as caught:
        client.audio.speech.create(**{"model": "tts-1", "voice": "alloy", "input": "x", **fields})
    assert (caught.value.code, caught.value.param) == (code, param)
    assert caught.value.type == "invalid_request_error"
    assert caught.value.request_id.startswith("req_")


def test_the_client_retries_what_is_worth_it(server):
    submit, errors = (
        server.engine.submit,
        [QueueFullError("full", 0.05), QueueFullError("full", 0.05)],
    )

    def flaky(*arguments):
        if errors:
            raise errors.pop()
        return submit(*arguments)

    server.engine.submit = flaky
    try:
        with server.openai(max_retries=2) as client:
            answer = client.audio.speech.create(model="tts-1", voice="alloy", input="Hi.")
    finally:
        del server.engine.submit
    assert not errors and len(answer.content) > 100


def test_a_failure_before_the_first_audio_is_retryable(server):
    server.engine.fail_after = 0
    server.engine.stream_error = GenerationFailedError("no")
    with server.openai() as client, pytest.raises(openai.InternalServerError) as caught:
        client.audio.speech.create(model="tts-1", voice="alloy", input="Hi.")
    assert caught.value.code == "generation_failed"


def test_a_broken_stream_raises(server):
    server.engine.fail_after = 2
    with (
        server.openai() as client,
        pytest.raises(Exception, match=r"incomplete|peer closed|Connection"),
    ):
        client.audio.speech.create(model="tts-1", voice="alloy", input="word " * 50)


def test_models(server):
    with server.openai() as client:
        ids = [model.id for model in client.models.list()]
        assert {"Qwen/custom", "tts-1"} <= set(ids)
        assert client.models.retrieve("Qwen/custom").id == "Qwen/custom"
        with pytest.raises(openai.NotFoundError):
            client.models.retrieve("gpt-9")
