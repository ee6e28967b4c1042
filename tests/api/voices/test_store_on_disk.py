"""The store of voices without HTTP: kills, several processes, disks that take nothing more."""

import hashlib
import logging
import os
import stat
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest

from engine import ReferenceAudio
from qtts_openai.errors import ApiError
from qtts_openai.http.callers import ANONYMOUS, Caller
from qtts_openai.voices.record_store import ORPHANS_AFTER_S
from qtts_openai.voices.records import StoredVoice
from qtts_openai.voices.store import VoiceStore

SAMPLES = b"\0" * 40_000
KEY = hashlib.sha256(SAMPLES).hexdigest()
SAMPLE = ReferenceAudio(KEY, SAMPLES)


def add(store: VoiceStore, name: str = "a", owner: str | None = None, **options) -> StoredVoice:
    voice = store.new_voice(name, owner, type="audio_sample", reference_key=KEY)
    return store.add(voice, SAMPLES, **options)


def describe(store: VoiceStore, name: str = "a") -> StoredVoice:
    return store.add(store.new_voice(name, None, type="prompt", prompt="A man.", seed=1))


def listed(store: VoiceStore) -> list[str]:
    return [voice.id for voice in store.visible(ANONYMOUS)]


def assert_whole(store: VoiceStore) -> None:
    """Every record has its bytes, and there are no others but those of a write that was cut off."""
    for voice in store.voices.all():
        if voice.type == "audio_sample" or voice.reference_key is not None:
            assert store.reference(voice) is not None


# ---- what starts find ----


def test_a_start_removes_old_bytes_of_no_record_and_leaves_those_of_others(tmp_path):
    store = VoiceStore(tmp_path, 10)
    voice, folder = add(store), tmp_path / "voices"
    old, new = folder / "voice_1.bin", folder / "voice_2.bin.ab.part"
    for path in (old, new):
        path.write_bytes(b"orphan")
    before = time.time() - ORPHANS_AFTER_S - 1
    for path in (old, store.voices.path(voice.id)):
        os.utime(path, (before, before))
    again = VoiceStore(tmp_path, 10)
    assert listed(again) == [voice.id] and again.reference(voice) == SAMPLE
    assert not old.exists() and new.exists(), "another server may just write it"


def test_stray_files_never_stop_a_start(tmp_path, caplog):
    folder = tmp_path / "voices"
    (folder / "voice_dir.json").mkdir(parents=True)
    (folder / "voice_x.bin.part").mkdir()
    for name, text in {
        "voice_a.json": "",
        "voice_b.json": "{",
        "voice_c.json": "[" * 100_000,
    }.items():
        (folder / name).write_text(text)
    (folder / "voice_d.json").symlink_to(folder / "nowhere")
    store = VoiceStore(tmp_path, 10)
    assert caplog.text.count("cannot be read and is skipped") == 3
    assert listed(store) == [] and add(store).id in listed(store)
    assert (folder / "voice_b.json").exists(), "what cannot be read is kept"


def test_records_of_earlier_versions_are_taken_in(tmp_path):
    folder = tmp_path / "voices"
    folder.mkdir(mode=0o755)
    for number, name in enumerate(("Old", "old", "Other")):
        fields = {"id": f"voice_{number}", "created_at": number, "name": name}
        fields |= {"type": "audio_sample", "consent": "cons_1", "reference_key": KEY}
        (folder / f"voice_{number}.json").write_bytes(msgspec.json.encode(fields))
        (folder / f"voice_{number}.bin").write_bytes(SAMPLES)
    store = VoiceStore(tmp_path, 10)
    assert listed(store) == ["voice_0", "voice_1", "voice_2"]
    found = store.find("OLD", ANONYMOUS)
    assert found is not None and found.id == "voice_1" and store.reference(found) == SAMPLE
    store.delete_voice("old", ANONYMOUS)
    assert listed(VoiceStore(tmp_path, 10)) == ["voice_2"], "all of that name are gone, for good"
    assert {path.suffix for path in folder.iterdir()} == {".db", ".db-journal", ".bin"}


def test_a_damaged_database_is_said_and_the_server_starts(tmp_path, caplog):
    add(VoiceStore(tmp_path, 10))
    (tmp_path / "voices" / "records.db").write_bytes(b"noise" * 5000)
    store = VoiceStore(tmp_path, 10)
    assert any(record.levelno == logging.ERROR for record in caplog.records)
    for ask in (lambda: add(store), lambda: store.visible(ANONYMOUS)):
        with pytest.raises(ApiError) as caught:
            ask()
        assert (caught.value.status, caught.value.code) == (507, "storage_failed")


def test_a_damaged_record_is_skipped(tmp_path, caplog):
    store = VoiceStore(tmp_path, 10)
    bad, good = add(store, "bad"), add(store, "good")
    with store.database.write() as db:
        db.execute("UPDATE records SET body = '{' WHERE id = ?", (bad.id,))
    assert listed(store) == [good.id] and bad.id in caplog.text


def test_nobody_else_on_the_machine_may_read_voices(tmp_path):
    old = tmp_path / "voices"
    old.mkdir(mode=0o755)
    store = VoiceStore(tmp_path, 10)
    add(store)
    store.add_consent("Anna", "en", b"recording", None)
    for folder in (old, tmp_path / "consents"):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        for path in folder.iterdir():
            assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


# ---- compare and put ----


def test_what_was_deleted_meanwhile_does_not_come_back(tmp_path):
    store = VoiceStore(tmp_path, 10)
    voice = describe(store)
    store.delete_voice(voice.id, ANONYMOUS)
    assert store.keep_utterance(voice, SAMPLE, "words") is None
    assert listed(store) == [] and not store.voices.path(voice.id).exists()
    consent = store.add_consent("Anna", "en", b"recording", None)
    store.delete_consent(consent.id, ANONYMOUS, cascade=False)
    with pytest.raises(ApiError, match="no voice consent"):
        store.rename_consent(consent.id, "Otto", ANONYMOUS)
    assert store.visible_consents(ANONYMOUS) == []


def test_the_first_utterance_stays_where_two_servers_make_one(tmp_path):
    first, second = VoiceStore(tmp_path, 10), VoiceStore(tmp_path, 10)
    voice = describe(first)
    other = ReferenceAudio(hashlib.sha256(b"1234").hexdigest(), b"1234")
    kept = first.keep_utterance(voice, SAMPLE, "words")
    assert kept is not None and second.keep_utterance(voice, other, "others") == kept
    assert second.reference(kept) == SAMPLE


def race_for_a_name_and_the_last_place(stores: list[VoiceStore]) -> None:
    """Six stores of one place each: one wins either time."""

    def try_to(store: VoiceStore, name: str) -> int:
        try:
            add(store, name, overwrite=False)
        except ApiError as error:
            return error.status
        return 200

    with ThreadPoolExecutor(6) as pool:
        assert sorted(pool.map(try_to, stores, ["same"] * 6)) == [200, *[409] * 5]
        stores[0].delete_voice("same", ANONYMOUS)
        assert sorted(pool.map(try_to, stores, "abcdef")) == [200, *[400] * 5]


def test_of_many_at_once_one_gets_the_name_and_the_last_place(tmp_path):
    race_for_a_name_and_the_last_place([VoiceStore(tmp_path, 1) for _ in range(6)])


def test_a_consent_withdrawn_while_a_sample_is_read_makes_no_voice(tmp_path):
    store = VoiceStore(tmp_path, 10)
    consent = store.add_consent("Anna", "en", b"recording", None)
    voice = store.new_voice("a", None, type="audio_sample", reference_key=KEY, consent=consent.id)
    store.delete_consent(consent.id, ANONYMOUS, cascade=False)
    with pytest.raises(ApiError, match="no voice consent"):
        store.add(voice, SAMPLES)
    assert listed(store) == [] and not store.voices.path(voice.id).exists()


def test_a_sample_whose_consent_is_withdrawn_while_it_is_read_is_gone_and_not_damaged(tmp_path):
    store = VoiceStore(tmp_path, 10)
    consent = store.add_consent("Anna", "en", b"recording", None)
    fields = {"type": "audio_sample", "reference_key": KEY, "consent": consent.id}
    voice = store.add(store.new_voice("a", None, **fields), SAMPLES)
    store.delete_consent(consent.id, ANONYMOUS, cascade=True)
    with pytest.raises(ApiError) as caught:
        store.reference(voice)
    assert caught.value.status == 400


# ---- owners ----

ANNA, OTTO, ADMIN = Caller("1a", "anna"), Caller("2b", "otto"), Caller("3c", "root", True)


def test_names_lead_to_ones_own_voice_then_to_the_shared_one(tmp_path):
    store = VoiceStore(tmp_path, 10)
    shared, annas, ottos = add(store, "x"), add(store, "X", "1a"), add(store, "x", "2b")
    found = [store.find("x", caller) for caller in (ANNA, OTTO, ADMIN, ANONYMOUS)]
    assert found == [annas, ottos, shared, shared]
    assert store.find(ottos.id, ANNA) is None and store.find(ottos.id, ADMIN) == ottos
    assert store.visible(ANNA) == [shared, annas] and len(store.visible(ADMIN)) == 3


def test_only_the_owner_or_an_admin_deletes(tmp_path):
    store = VoiceStore(tmp_path, 10)
    shared, annas = add(store, "x"), add(store, "y", "1a")
    consent = store.add_consent("Anna", "en", b"recording", "1a")
    for name in (annas.id, "y"):
        with pytest.raises(ApiError) as caught:
            store.delete_voice(name, OTTO)
        assert caught.value.status == 404
    with pytest.raises(ApiError) as caught:
        store.delete_consent(consent.id, OTTO, cascade=True)
    assert caught.value.status == 404
    with pytest.raises(ApiError) as caught:
        store.delete_voice("x", ANNA)
    assert caught.value.status == 403
    store.delete_voice("y", ANNA)
    store.delete_voice(shared.id, ADMIN)
    store.delete_consent(consent.id, ADMIN, cascade=False)
    assert store.visible(ADMIN) == [] and store.visible_consents(ADMIN) == []


def test_a_new_name_is_free_of_the_owners_others_and_the_rest_stays(tmp_path):
    store = VoiceStore(tmp_path, 10)
    voice, other, annas = add(store, "x"), add(store, "y"), add(store, "z", "1a")
    for name, caller, status in (("y", OTTO, 403), (annas.id, OTTO, 404), ("none", ADMIN, 404)):
        with pytest.raises(ApiError) as caught:
            store.rename_voice(name, "new", caller)
        assert caught.value.status == status
    with pytest.raises(ApiError) as caught:
        store.rename_voice("x", "Y", ADMIN)
    assert (caught.value.status, caught.value.code) == (409, "name_taken")
    renamed = store.rename_voice("x", "Z", ADMIN)  # which anna has, and everybody not
    assert renamed == msgspec.structs.replace(voice, name="Z")
    assert store.visible(ADMIN) == [renamed, other, annas], "in the order in which they were made"
    assert store.find("x", ADMIN) is None and store.find("z", ADMIN) == renamed
    assert store.find("z", ANNA) == annas and store.reference(renamed) == SAMPLE
    assert store.rename_voice(voice.id, "z", ADMIN).name == "z", "as it should be written"


def test_of_many_new_names_at_once_one_is_taken(tmp_path):
    race_for_a_new_name([VoiceStore(tmp_path, 10) for _ in range(6)])


def race_for_a_new_name(stores: list[VoiceStore]) -> None:
    voices = [add(store, f"v{number}") for number, store in enumerate(stores)]

    def rename(store: VoiceStore, voice: StoredVoice) -> int:
        try:
            store.rename_voice(voice.id, "same", ANONYMOUS)
        except ApiError as error:
            return error.status
        return 200

    with ThreadPoolExecutor(6) as pool:
        assert sorted(pool.map(rename, stores, voices)) == [200, *[409] * 5]
    assert sorted(listed(stores[0])) == sorted(voice.id for voice in voices)


def test_room_and_names_are_counted_per_owner(tmp_path):
    store = VoiceStore(tmp_path, 1)
    add(store, "x", "1a")
    add(store, "x", "2b")
    with pytest.raises(ApiError, match="delete some first"):
        add(store, "y", "1a")


# ---- kills, processes, disks ----

# Two servers at a time on one directory, killed in the middle of whatever they do; each tells what
# it has done in lines that are written whole.
KILLED = """
    import hashlib, itertools, os, pathlib, random, signal, sys, time
    from engine import ReferenceAudio
    from qtts_openai.http.callers import ANONYMOUS
    from qtts_openai.voices.store import VoiceStore

    directory, rounds = pathlib.Path(sys.argv[1]), int(sys.argv[2])
    samples = bytes(40_000)
    key = hashlib.sha256(samples).hexdigest()

    def tell(what, voice):
        os.write(1, f"{what} {voice.id}\\n".encode())
        os.write(progress, b".")

    def write(who):
        store = VoiceStore(directory, 10**6)
        for n in itertools.count():
            fields = {"type": "audio_sample", "reference_key": key}
            voice = store.add(store.new_voice(f"{who} {n}", None, **fields), samples)
            tell("made", voice)
            store.rename_voice(voice.id, f"{who} {n} renamed", ANONYMOUS)
            tell("renamed", voice)
            fields = {"type": "prompt", "prompt": "A man.", "seed": 1}
            voice = store.add(store.new_voice(f"{who} {n} gone", None, **fields))
            store.keep_utterance(voice, ReferenceAudio(key, samples), "words")
            tell("made", voice)
            tell("deleting", voice)
            store.delete_voice(voice.id, ANONYMOUS)
            tell("deleted", voice)

    watched, progress = os.pipe()
    for number in range(rounds):
        writers = []
        for who in "ab":
            writers.append(os.fork())
            if not writers[-1]:
                write(f"{number}{who}")
        for _ in range(random.randint(8, 40)):
            os.read(watched, 1)
        time.sleep(random.uniform(0, 0.02))
        for writer in writers:
            os.kill(writer, signal.SIGKILL)
            os.waitpid(writer, 0)
"""


def kill_often(directory: Path, rounds: int) -> None:
    """What was told before a kill is so afterwards."""
    command = [sys.executable, "-c", textwrap.dedent(KILLED), str(directory), str(rounds)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=240, check=True)
    told = [line.split() for line in done.stdout.splitlines()]
    made, renamed, deleting, deleted = (
        {id_ for what, id_ in told if what == kind}
        for kind in ("made", "renamed", "deleting", "deleted")
    )
    store = VoiceStore(directory, 10)
    there = {voice.id for voice in store.voices.all()}
    assert made and renamed and deleted
    assert renamed <= {one.id for one in store.voices.all() if one.name.endswith(" renamed")}
    assert made - deleting <= there, "an acknowledged voice is lost"
    assert not deleted & there, "a deleted voice is back"
    assert_whole(store)


@pytest.mark.process
def test_kill_9_loses_nothing_that_was_told(tmp_path):
    kill_often(tmp_path, rounds=6)


@pytest.mark.slow
@pytest.mark.attack
def test_kill_9_for_a_minute(tmp_path):
    kill_often(tmp_path, rounds=150)


OTHER = """
    import pathlib, sys
    from qtts_openai.http.callers import ANONYMOUS
    from qtts_openai.voices.store import VoiceStore
    store = VoiceStore(pathlib.Path(sys.argv[1]), 10)
    for line in sys.stdin:
        what, name = line.split()
        if what == "make":
            store.add(store.new_voice(name, None, type="prompt", prompt="A man.", seed=1))
        elif what == "rename":
            store.rename_voice(name, "other", ANONYMOUS)
        elif what == "delete":
            store.delete_voice(name, ANONYMOUS)
        print(store.find(name, ANONYMOUS) is not None, flush=True)
"""


def test_two_processes_see_each_other_at_once(tmp_path):
    store = VoiceStore(tmp_path, 10)
    command = [sys.executable, "-c", textwrap.dedent(OTHER), str(tmp_path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as other:

        def ask(what: str) -> bool:
            other.stdin.write(f"{what}\n")
            other.stdin.flush()
            return other.stdout.readline() == "True\n"

        assert ask("make theirs")
        assert [voice.name for voice in store.visible(ANONYMOUS)] == ["theirs"]
        describe(store, "mine")
        assert ask("find mine") and not ask("rename mine") and ask("find other")
        assert store.find("mine", ANONYMOUS) is None
        assert not ask("delete other") and store.find("other", ANONYMOUS) is None
        store.delete_voice("theirs", ANONYMOUS)
        assert not ask("find theirs")


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 256 KB of its own; only root can have one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("tmpfs cannot be mounted here")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def refused(act, *args) -> None:
    with pytest.raises(ApiError) as caught:
        act(*args)
    assert (caught.value.status, caught.value.code) == (507, "storage_failed")


def test_a_full_disk_refuses_and_still_deletes(small_disk):
    store = VoiceStore(small_disk, 100)
    kept = [add(store, "first").id]
    with pytest.raises(ApiError) as caught:
        while len(kept) < 50:
            kept.append(add(store, f"{len(kept)}").id)
    assert caught.value.status == 507 and len(kept) > 2
    filler = small_disk / "filler"
    with suppress(OSError), filler.open("wb", 0) as file:
        while True:
            file.write(bytes(4096))
    refused(add, store, "more")
    refused(describe, store, "x" * 5000)
    assert listed(store) == kept, "and it can be read"
    assert len(list((small_disk / "voices").glob("*.bin*"))) == len(kept), "nothing is left over"
    store.delete_voice("first", ANONYMOUS)
    assert listed(store) == kept[1:]
    assert add(store, "now").id in listed(store)


def test_a_read_only_disk_refuses_and_forgets_nothing(small_disk):
    store = VoiceStore(small_disk, 10)
    voice = add(store)
    consent = store.add_consent("Anna", "en", b"recording", None)
    remount = ["mount", "-o", "remount,ro", str(small_disk)]
    subprocess.run(remount, check=True)
    store = VoiceStore(small_disk, 10)
    assert store.reference(voice) == SAMPLE
    refused(add, store, "more")
    refused(store.delete_voice, voice.id, ANONYMOUS)
    refused(store.rename_voice, voice.id, "b", ANONYMOUS)
    refused(store.rename_consent, consent.id, "b", ANONYMOUS)
    assert listed(store) == [voice.id]
    assert [one.id for one in store.visible_consents(ANONYMOUS)] == [consent.id]


def test_an_empty_read_only_disk_lists_nothing(small_disk):
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    store = VoiceStore(small_disk, 10)
    assert listed(store) == []
    refused(add, store)


def test_writers_in_threads_and_processes_take_turns(tmp_path):
    """A second look at the file by one thread ended the locks of the others in its process."""
    code = """
    import pathlib, sys
    from concurrent.futures import ThreadPoolExecutor
    from qtts_openai.http.callers import ANONYMOUS
    from qtts_openai.voices.store import VoiceStore
    store, mark = VoiceStore(pathlib.Path(sys.argv[1]), 10**6), sys.argv[2]
    def add(i):
        store.add(store.new_voice(f"{mark}{i}", None, type="prompt", prompt="A man.", seed=1))
        return store.find(f"{mark}{i}", ANONYMOUS) is not None
    with ThreadPoolExecutor(8) as pool:
        print(sum(pool.map(add, range(25))))
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)]
    running = [
        subprocess.Popen([*command, mark], stdout=subprocess.PIPE, text=True) for mark in "ab"
    ]
    assert [one.communicate(timeout=60)[0].strip() for one in running] == ["25", "25"]
    assert len(listed(VoiceStore(tmp_path, 10**6))) == 50
