"""What a kill leaves between a change of records and of their bytes goes at the next start."""

import hashlib

from qtts_openai.http.callers import ANONYMOUS
from qtts_openai.voices.store import VoiceStore


def test_bytes_of_what_was_deleted_or_withdrawn_go_at_once(tmp_path, monkeypatch):
    store, sample = VoiceStore(tmp_path, 10), b"\0\0\0?" * 100
    consent = store.add_consent("Ada", "en", b"yes", None)
    fields = {"type": "audio_sample", "reference_key": hashlib.sha256(sample).hexdigest()}
    kept = store.add(store.new_voice("kept", None, **fields), sample)
    deleted = store.add(store.new_voice("deleted", None, **fields), sample)
    withdrawn = store.add(store.new_voice("gone", None, consent=consent.id, **fields), sample)
    for records in (store.voices, store.consents):
        monkeypatch.setattr(records, "forget_data", lambda records: None)  # killed there
    store.delete_voice(deleted.id, ANONYMOUS)
    store.delete_consent(consent.id, ANONYMOUS, cascade=True)
    files = [store.voices.path(one.id) for one in (deleted, withdrawn)]
    files.append(store.consents.path(consent.id))
    assert all(file.exists() for file in files)
    again = VoiceStore(tmp_path, 10)
    assert not any(file.exists() for file in files)
    assert again.reference(kept) is not None
    assert [voice.disabled for voice in again.voices.all()] == [False, True]
