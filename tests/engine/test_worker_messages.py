"""One bad message, or one bad recording, fails its own utterance. The worker and others go on."""

import socket
from concurrent.futures import Future
from functools import partial

import msgspec
import numpy as np
import pytest

from engine.client import EngineClient
from engine.config import EngineConfig
from engine.core import EngineCore
from engine.protocol import (
    HEADER,
    Append,
    AudioChunk,
    Embed,
    Embedding,
    Failed,
    Finished,
    ForgetVoice,
    Outbound,
    ReferenceAudio,
    RegisterVoice,
)
from engine.worker import Connection, Malformed, handle
from tests.engine.speaking import Speaker, assert_idle, prompt, recording, submit

BASE = "base-0b6"


def steps(core: EngineCore) -> list[Outbound]:
    told = []
    while core.has_work:
        told += core.step()
    return told


@pytest.mark.parametrize("cut", [1, 2, 3])
def test_a_recording_that_was_cut(core: EngineCore, cut: int) -> None:
    whole = recording(77, 9_600)
    key = f"cut by {cut}"
    handle(core, RegisterVoice(BASE, ReferenceAudio(key, whole.samples[:-cut])))
    with Speaker(core) as speaker:
        speaker.add(submit(1, BASE, prompt=prompt(reference=key)))
        speaker.add(submit(2, BASE))
        heard = speaker.run()
    failed = heard[1].failed
    assert failed is not None and (failed.kind, failed.param) == ("invalid_prompt", "ref_audio")
    assert "broken" in failed.message
    assert heard[2].finished is not None and len(heard[2].codes) == 10
    assert_idle(core)


def test_a_message_that_is_not_of_the_protocol(core: EngineCore) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        bad = msgspec.msgpack.encode({"type": "Submit", "id": 5, "model": 3})
        good = msgspec.msgpack.encode(submit(6))
        ours.sendall(b"".join(HEADER.pack(len(data)) + data for data in (bad, good)))
        first, second = Connection(theirs).read(None)
    assert isinstance(first, Malformed) and first.id == 5 and second == submit(6)
    handle(core, first)
    (failed,) = steps(core)
    assert isinstance(failed, Failed) and (failed.id, failed.kind) == (5, "generation")


def test_a_message_without_an_utterance_is_dropped(core: EngineCore) -> None:
    handle(core, Malformed(None, msgspec.ValidationError("no")))
    assert steps(core) == []


def test_a_prompt_that_cannot_be_laid_out(core: EngineCore, monkeypatch) -> None:
    """Whatever start-up of one sequence raises, in the step in which others speak."""
    runner = core.talker.runners["custom_voice-0b6"]
    build = runner.prompts.build
    bad = prompt(9)

    def fail_one(one, voice):
        if one.text == bad.text:
            raise RuntimeError("secret text of torch at /some/path")
        return build(one, voice)

    monkeypatch.setattr(runner.prompts, "build", fail_one)
    with Speaker(core) as speaker:
        heard = speaker.run([submit(1), submit(2, prompt=bad), submit(3)])
    failed = heard[2].failed
    assert failed is not None and failed.kind == "generation"
    assert "secret" not in failed.message and "sequence 2" in failed.message
    assert len(heard[1].codes) == len(heard[3].codes) == 10
    assert_idle(core)


def test_text_that_cannot_be_appended(core: EngineCore, monkeypatch) -> None:
    live = submit(1, prompt=prompt(2, streaming_text=True, text_open=True))
    with Speaker(core) as speaker:
        speaker.add(live)
        speaker.step()
        monkeypatch.setattr(core, "append", lambda *_: 1 / 0)
        handle(core, Append(1, (3,), False))
        heard = speaker.run([submit(2)])
    assert heard[1].failed is not None and "division" not in heard[1].failed.message
    assert len(heard[2].codes) == 10
    assert_idle(core)


def test_a_voice_that_is_ready_does_not_wait_for_another(core: EngineCore, monkeypatch) -> None:
    slow: Future = Future()
    ready = core.voices[BASE].request
    core.register_voice(BASE, recording(78, 9_600))
    core.register_voice(BASE, recording(79, 9_600))
    quick = ready("ref-78-9600", False)
    quick.result(timeout=30)
    monkeypatch.setattr(core.voices[BASE], "request", lambda key, _: slow if "79" in key else quick)
    with Speaker(core) as speaker:
        speaker.add(submit(1, BASE, prompt=prompt(reference="ref-79-9600")))
        speaker.add(submit(2, BASE, prompt=prompt(reference="ref-78-9600")))
        waited = []
        monkeypatch.setattr("engine.core.wait", lambda fs, **how: waited.append(how))
        speaker.step()
        assert waited[0]["return_when"] == "FIRST_COMPLETED"
        assert not core.encoding.get(2) and len(core.encoding) == 1
    assert_idle(core)


def test_nothing_is_kept_of_a_forgotten_voice(core: EngineCore) -> None:
    """Neither samples nor what the encoder, the codec and the prefill made of them; utterances
    that speak with it end.
    """
    voice, other = recording(78, 9_600), recording(79, 9_600)
    clone = {"reference_text": (5, 6, 7)}
    for reference in (voice, other):
        handle(core, RegisterVoice(BASE, reference))
    with Speaker(core) as speaker:
        speaker.add(submit(1, BASE, prompt=prompt(reference=voice.key, **clone)))
        speaker.add(submit(2, BASE, prompt=prompt(reference=other.key, **clone)))
        heard = speaker.run()
        assert all(heard[id_].finished is not None for id_ in (1, 2))
        assert keys_kept(core) >= {voice.key, other.key}
        speaker.add(submit(3, BASE, prompt=prompt(reference=voice.key, **clone)))
        handle(core, ForgetVoice(voice.key))
        heard = speaker.run()
    assert heard[3].failed is not None and "deleted" in heard[3].failed.message
    assert voice.key not in keys_kept(core) and other.key in keys_kept(core)
    with Speaker(core) as speaker:
        speaker.add(submit(4, BASE, prompt=prompt(reference=voice.key)))
        failed = speaker.run()[4].failed
    assert failed is not None and "not registered" in failed.message
    assert_idle(core)


def keys_kept(core: EngineCore) -> set[str]:
    encoder, runner = core.voices[BASE], core.talker.runners[BASE]
    kept = {*encoder.samples, *(key for key, _ in encoder.done)}
    kept |= {key for _, key in core.codec_stage.snapshots}
    return kept | {key[0] for key in runner.prefixes.kept if key[0]}


def test_what_a_speaker_encoder_hears(core: EngineCore) -> None:
    """As a prompt is cloned from it, of a recording that is not kept, amid speech."""
    sample = recording(5, 9_600)
    kept = dict(core.voices[BASE].samples)
    core.add(submit(1, BASE))
    handle(core, Embed(7, BASE, sample.samples))
    handle(core, Embed(8, BASE, sample.samples[:-2]))
    handle(core, Embed(9, "custom_voice-0b6", sample.samples))
    told = {fact.id: fact for fact in steps(core) if not isinstance(fact, AudioChunk)}
    heard, broken, deaf = told[7], told[8], told[9]
    assert isinstance(told[1], Finished)
    assert isinstance(heard, Embedding)
    row = np.frombuffer(heard.numbers, "<f4")
    expected = core.voices[BASE].encode(sample.samples, False).speaker_embedding
    assert len(row) == core.voices[BASE].embedding_size
    assert np.allclose(row, expected.float().numpy(), atol=1e-5)
    assert isinstance(broken, Failed) and "broken" in broken.message
    assert isinstance(deaf, Failed) and deaf.param == "model"
    assert core.voices[BASE].samples == kept and not core.hearing
    assert_idle(core)


def test_every_replica_is_told_to_forget() -> None:
    client = EngineClient(EngineConfig(data_parallel_size=3), [])
    told: list[tuple[int, object]] = []
    for worker in client._workers:
        worker._voices["base", "key"] = worker._voices["base", "other"] = None
        worker.send = partial(lambda index, message: told.append((index, message)), worker.index)
    client.forget_voice("key")
    assert told == [(index, ForgetVoice("key")) for index in range(3)]
    assert all(list(worker._voices) == [("base", "other")] for worker in client._workers)
