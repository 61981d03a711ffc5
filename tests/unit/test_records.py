"""Claims, heartbeats, results, takeovers, cache and logs on a local store."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends import wire
from backends.errors import DuplicateError, InfraError, UsageError
from backends.process import process_start, utc
from backends.store import artifacts, autopsy, claims, open_store, records, watch
from backends.store.base import Store
from backends.store.cache import cache_get, cache_key, cache_put
from backends.store.keys import check_run_id, new_run_id
from backends.store.local import LocalStore
from backends.store.logs import log_chunks
from tests.support.claiming import claim, hurry

GOOD = {"class": "success", "exit_code": 0, "outputs": {}}
BAD = {"class": "user", "exit_code": 3}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "runs"))


def silence(store: Store, attempt: claims.Attempt, seconds: float) -> None:
    """Make an attempt look as if it had last been heard of so many seconds ago."""
    for name in ("claim.json", "heartbeat.json"):
        path = f"{store.root}/{attempt.prefix}/{name}"
        if os.path.exists(path):
            now = os.stat(path).st_mtime
            os.utime(path, (now - seconds, now - seconds))


def foreign(store: Store, attempt: claims.Attempt) -> None:
    """Make an attempt look like another machine's."""
    claimed = records.read_json(store, f"{attempt.prefix}/claim.json")
    assert claimed is not None
    store.put(f"{attempt.prefix}/claim.json", wire.dumps({**claimed, "host": "elsewhere", "boot": "b"}).encode())


def dead_process() -> dict[str, Any]:
    """Return who a process was that is gone."""
    child = subprocess.run(
        [sys.executable, "-c", "from backends import process, wire; print(wire.dumps(process.whoami()))"],
        capture_output=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    found: dict[str, Any] = wire.loads(child.stdout)
    return found


def test_a_step_s_life(store: Store) -> None:
    attempt = claim(store, "r1", "clean", {"config": "abc"})
    assert (attempt.number, attempt.prefix) == (1, "runs/r1/clean/1")
    claimed = records.read_json(store, "runs/r1/clean/1/claim.json")
    assert claimed is not None
    assert claimed["pid"] == os.getpid()
    assert claimed["config"] == "abc"
    assert claimed["host"] == os.uname().nodename
    assert records.good_result(store, "r1", "clean") is None
    assert attempt.heartbeat({"usage": {"rss": 1}})
    assert wire.loads(store.get("runs/r1/clean/1/heartbeat.json") or b"")["usage"] == {"rss": 1}
    attempt.finish(GOOD)
    record = records.good_result(store, "r1", "clean")
    assert record == {**GOOD, "version": 1, "run": "r1", "step": "clean", "attempt": 1}
    with pytest.raises(claims.AlreadyDone) as caught:
        claim(store, "r1", "clean", {})
    assert caught.value.record == record
    assert records.results(store, "r1") == {"clean": record}


def test_a_failed_attempt_is_followed_by_the_next_number(store: Store) -> None:
    for number in (1, 2, 3):
        attempt = claim(store, "r", "s", {})
        assert attempt.number == number
        attempt.finish(BAD if number < 3 else GOOD)
    assert records.attempts(store, "r", "s") == [1, 2, 3]
    assert records.results(store, "r")["s"]["attempt"] == 3
    with pytest.raises(claims.AlreadyDone):
        claim(store, "r", "s", {})


def test_ten_is_after_nine(store: Store) -> None:
    for _ in range(11):
        claim(store, "r", "s", {}).finish(BAD)
    assert claim(store, "r", "s", {}).number == 12
    assert records.results(store, "r")["s"]["attempt"] == 11


def test_a_live_attempt_is_left_alone(store: Store) -> None:
    claim(store, "r", "s", {})
    with pytest.raises(DuplicateError) as caught:
        claim(store, "r", "s", {})
    text = str(caught.value)
    for part in ("'s'", "'r'", "attempt 1", f"process {os.getpid()}", os.uname().nodename, "0 s ago", "30 s"):
        assert part in text
    assert caught.value.exit_code == 73


@pytest.mark.parametrize("where", ["here", "elsewhere"])
def test_silence_is_death(store: Store, where: str) -> None:
    first = claim(store, "r", "s", {})
    first.heartbeat({"usage": {"rss": 5}})
    if where == "elsewhere":
        foreign(store, first)
    silence(store, first, 31)
    begun = time.monotonic()
    with hurry(20):
        second = claim(store, "r", "s", {})
    assert 0.5 <= time.monotonic() - begun < 1.5  # two beats, for it had been silent before
    assert second.number == 2
    record = records.result(store, "r", "s", 1)
    assert record is not None
    assert record["class"] == "infra"
    assert record["exit_code"] == 69
    assert record["usage"] == {"rss": 5}
    assert re.search(r"silent for 3[12] s, last heartbeat", record["message"])
    # The one that was not dead after all learns it, and can't change the outcome.
    assert not first.heartbeat({})
    with pytest.raises(DuplicateError, match="declared dead"):
        first.finish(GOOD)
    assert records.result(store, "r", "s", 1) == record
    assert second.heartbeat({})
    second.finish(GOOD)


def test_silence_under_our_eyes_is_death_after_its_whole_time(store: Store) -> None:
    foreign(store, claim(store, "r", "s", {}))
    begun = time.monotonic()
    with hurry(20):
        assert claim(store, "r", "s", {}).number == 2
    assert 1.5 <= time.monotonic() - begun < 3


@pytest.mark.parametrize("clock", [0, 3600, -3600])
def test_a_heartbeat_that_moves_is_life_whatever_the_clock_says(store: Store, clock: int) -> None:
    first = claim(store, "r", "s", {})
    foreign(store, first)

    def beat() -> None:
        while not over.wait(0.25):
            first.heartbeat({})
            silence(store, first, clock)

    over = threading.Event()
    silence(store, first, clock)
    owner = threading.Thread(target=beat)
    owner.start()
    try:
        begun = time.monotonic()
        with hurry(20), pytest.raises(DuplicateError, match="attempt 1 is running"):
            claim(store, "r", "s", {})
        assert time.monotonic() - begun < 0.5  # two beats
    finally:
        over.set()
        owner.join()


@pytest.mark.parametrize("clock", [0, 3600, -3600])
def test_the_dead_are_dead_whatever_the_clock_says(store: Store, clock: int) -> None:
    first = claim(store, "r", "s", {})
    first.heartbeat({})
    foreign(store, first)
    silence(store, first, clock)
    with hurry():
        assert claim(store, "r", "s", {}).number == 2


def test_a_store_that_is_away_says_nothing_of_the_owner(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    foreign(store, claim(store, "r", "s", {}))
    candidate = claims.Candidate(store, "r", "s", {})
    assert candidate.claim() is None
    now = time.monotonic()
    monkeypatch.setattr(watch, "monotonic", lambda: now)
    for _ in range(20):  # looks that took 45 s each
        now += 45
        if candidate.claim() is not None:
            break
        assert records.result(store, "r", "s", 1) is None
    assert now - time.monotonic() > 14 * 45


@pytest.mark.parametrize("end", [GOOD, BAD])
def test_an_owner_that_ends_hands_over(store: Store, end: dict[str, Any]) -> None:
    first = claim(store, "r", "s", {})
    foreign(store, first)
    candidate = claims.Candidate(store, "r", "s", {})
    assert candidate.claim() is None
    first.finish(end)
    assert candidate.claim() is None  # it does not look more often than once a second
    with hurry():
        time.sleep(watch.LOOK_EVERY)
        if end is GOOD:
            with pytest.raises(claims.AlreadyDone):
                candidate.claim()
        else:
            second = candidate.claim()
            assert second is not None
            assert second.number == 2


def test_of_silent_newcomers_one_wins(store: Store) -> None:
    foreign(store, claim(store, "r", "s", {}))
    found: list[object] = []

    def compete() -> None:
        try:
            found.append(claim(open_store(store.url), "r", "s", {}).number)
        except DuplicateError:
            found.append("duplicate")

    with hurry(60):
        newcomers = [threading.Thread(target=compete) for _ in range(16)]
        for newcomer in newcomers:
            newcomer.start()
        for newcomer in newcomers:
            newcomer.join()
    assert sorted(map(str, found)) == ["2"] + ["duplicate"] * 15


class Doubtful(LocalStore):
    """A store that fails at some creates, before or after they were done.

    Args:
        root: its directory.
        doubt: how the key ends, whether it is done, and how often.
    """

    def __init__(self, root: str, doubt: tuple[str, bool, int]) -> None:
        super().__init__(root)
        self.ending, self.done, self.left = doubt

    def create(self, key: str, data: bytes) -> bool:
        if key.endswith(self.ending) and self.left:
            self.left -= 1
            if self.done:
                super().create(key, data)
            raise InfraError("the store is away")
        return super().create(key, data)


@pytest.mark.parametrize("done", [False, True])
def test_an_own_claim_whose_answer_was_lost_is_no_duplicate(tmp_path: Path, done: bool) -> None:
    store = Doubtful(str(tmp_path), ("claim.json", done, 1))
    with pytest.raises(InfraError):
        claim(store, "r", "s", {})
    assert claim(store, "r", "s", {}).number == (2 if done else 1)
    if done:
        record = records.result(store, "r", "s", 1)
        assert record is not None
        assert "the answer to its claim was lost" in record["message"]


@pytest.mark.parametrize("done", [False, True])
def test_an_own_result_that_could_not_be_stored_is_stored_again(tmp_path: Path, done: bool) -> None:
    store = Doubtful(str(tmp_path), ("result.json", done, 2))
    first = claim(store, "r", "s", {})
    os.makedirs(store.url_of(f"{first.prefix}/tmp"))
    with pytest.raises(InfraError):
        first.finish(GOOD)
    if not done:
        with pytest.raises(InfraError):
            claim(store, "r", "s", {})
    with pytest.raises(claims.AlreadyDone) as caught:
        claim(store, "r", "s", {})
    assert caught.value.record["attempt"] == 1
    assert done or not os.path.exists(store.url_of(f"{first.prefix}/tmp"))


@pytest.mark.parametrize("token", [["x"], {}, 7, None, "0" * 16])
def test_a_forged_token_is_nobodys(store: Store, token: object) -> None:
    store.put("runs/r/s/1/claim.json", wire.dumps({"token": token}).encode())
    with hurry():
        assert claim(store, "r", "s", {}).number == 2


@pytest.mark.processes
def test_a_process_that_is_gone_is_dead_at_once(store: Store) -> None:
    claim(store, "r", "s", dead_process())
    second = claim(store, "r", "s", {})
    assert second.number == 2
    record = records.result(store, "r", "s", 1)
    assert record is not None
    assert "its process is gone, no heartbeat" in record["message"]


@pytest.mark.parametrize("change", [{"boot": "x"}, {"pid_ns": "pid:[1]"}, {"host": "x"}, {"pid_start": None}])
@pytest.mark.processes
def test_a_process_that_can_t_be_seen_from_here_is_given_its_time(store: Store, change: dict[str, Any]) -> None:
    claim(store, "r", "s", {**dead_process(), **change})
    candidate = claims.Candidate(store, "r", "s", {})
    assert candidate.claim() is None
    with hurry():
        time.sleep(watch.LOOK_EVERY)
        assert candidate.claim() is None


def test_a_pid_that_is_somebody_else_s_now_is_not_the_owner(store: Store) -> None:
    claim(store, "r", "s", {"pid_start": "1"})
    assert claim(store, "r", "s", {}).number == 2


@pytest.mark.processes
def test_a_zombie_is_dead(store: Store) -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    start = process_start(child.pid)
    assert start
    claim(store, "r", "s", {"pid": child.pid, "pid_start": start})
    with pytest.raises(DuplicateError):
        claim(store, "r", "s", {})
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # dead, not reaped
    assert claim(store, "r", "s", {}).number == 2
    child.communicate()


@pytest.mark.processes
def test_a_good_result_that_came_late_counts(store: Store) -> None:
    first = claim(store, "r", "s", dead_process())
    first.finish(GOOD)
    watch.settle(store, ("r", "s", 1), store.get("runs/r/s/1/claim.json") or b"")  # a judge who had not seen the result
    assert records.result(store, "r", "s", 1) == records.good_result(store, "r", "s")
    with pytest.raises(claims.AlreadyDone):
        claim(store, "r", "s", {})


@pytest.mark.parametrize("torn", [b"", b'{"class":"succ', b"[]", b"{}", b"\xff", b"null"])
@pytest.mark.processes
def test_a_torn_result_is_none(store: Store, torn: bytes) -> None:
    claim(store, "r", "s", dead_process())
    store.put("runs/r/s/1/result.json", torn)
    assert records.good_result(store, "r", "s") is None
    assert records.results(store, "r") == {}
    assert claim(store, "r", "s", {}).number == 2
    record = records.result(store, "r", "s", 1)
    assert record is not None
    assert record["class"] == "infra"


@pytest.mark.parametrize("torn", [b"", b'{"pid":', b"[1]", b"\xff"])
def test_a_torn_claim_holds_for_its_time(store: Store, torn: bytes) -> None:
    store.put("runs/r/s/1/claim.json", torn)
    assert claims.Candidate(store, "r", "s", {}).claim() is None
    with hurry():
        assert claim(store, "r", "s", {}).number == 2


def test_a_folder_without_a_claim_is_no_attempt(store: Store) -> None:
    os.makedirs(f"{store.root}/runs/r/s/1")
    Path(f"{store.root}/runs/r/s/1/.tmp-0").write_bytes(b"{")
    assert claim(store, "r", "s", {}).number == 1


@pytest.mark.parametrize("source", ["heartbeat", "v2", "v1", "nothing new"])
@pytest.mark.processes
def test_the_dead_one_s_counters_tell_oom(store: Store, tmp_path: Path, source: str) -> None:
    owner = {**dead_process(), "cgroup": str(tmp_path), "oom_kill": 2}
    if source == "v2":
        (tmp_path / "memory.events").write_text("low 0\noom 3\noom_kill 3\noom_group_kill 0\n")
    elif source == "v1":
        (tmp_path / "memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n")
    elif source == "nothing new":
        (tmp_path / "memory.events").write_text("oom_kill 2\n")
    attempt = claim(store, "r", "s", owner)
    attempt.heartbeat({"usage": {"oom_kill": 1 if source == "heartbeat" else 0}})
    claim(store, "r", "s", {})
    record = records.result(store, "r", "s", 1)
    assert record is not None
    assert (record["class"], record["exit_code"]) == (("infra", 69) if source == "nothing new" else ("oom", 137))


@pytest.mark.processes
def test_the_dead_one_s_last_log_is_kept(store: Store) -> None:
    attempt = claim(store, "r", "s", dead_process())
    store.put(f"{attempt.prefix}/log/000001.txt", b"a" * 5000 + b"last of one\n")
    store.put(f"{attempt.prefix}/log/000002.txt", "schön\n".encode() * 3)
    claim(store, "r", "s", {})
    record = records.result(store, "r", "s", 1)
    assert record is not None
    assert record["log_tail"].endswith("last of one\nschön\nschön\nschön\n")
    assert len(record["log_tail"].encode()) == 2048
    assert b"".join(log_chunks(store, "r", "s", 1)).endswith("schön\n".encode())


@pytest.mark.processes
def test_what_it_left_behind_is_removed_and_killed(store: Store) -> None:
    attempt = claim(store, "r", "s", dead_process())
    store.put(f"{attempt.prefix}/tmp/model/part", b"half")
    store.put(f"{attempt.prefix}/out/done", b"whole")
    mine = {"ZEN_RUN_ID": "r", "ZEN_STEP": "s", "ZEN_ATTEMPT": "1"}
    token = {"ZEN_CLAIM": attempt.token}
    sleeper = [sys.executable, "-c", "import subprocess, sys; print('up', flush=True); subprocess.run(['sleep', '60'])"]
    orphan = subprocess.Popen(sleeper, env={**os.environ, **mine, **token}, stdout=subprocess.PIPE, start_new_session=True)
    other = subprocess.Popen(sleeper, env={**os.environ, **mine, "ZEN_CLAIM": "0" * 16}, stdout=subprocess.PIPE)
    try:
        for child in (orphan, other):
            assert child.stdout is not None
            assert child.stdout.readline() == b"up\n"
        claim(store, "r", "s", {})
        assert orphan.wait(10) == -signal.SIGKILL
        assert other.poll() is None
        mark = f"ZEN_CLAIM={attempt.token}".encode()
        left = [p for p in Path("/proc").glob("[0-9]*/environ") if mark in _environ(p)]
        assert left == []
    finally:
        for child in (orphan, other):
            child.kill()
            child.wait()
        autopsy.kill_processes("0" * 16)
    assert sorted(os.listdir(f"{store.root}/{attempt.prefix}")) == ["claim.json", "out", "result.json"]


def _environ(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _race(root: str, gate: str, answers: multiprocessing.SimpleQueue[str]) -> None:
    store = open_store(root)
    while not os.path.exists(gate):
        pass
    try:
        answers.put(str(claim(store, "r", "s", {}).number))
    except DuplicateError:
        answers.put("duplicate")
    except BaseException as error:
        answers.put(repr(error))
        raise
    time.sleep(2)  # stay alive until all have tried


@pytest.mark.parametrize("before", ["nothing", "a failure", "a death"])
@pytest.mark.processes
def test_of_16_claims_one_wins(store: Store, tmp_path: Path, before: str) -> None:
    if before != "nothing":
        attempt = claim(store, "r", "s", dead_process() if before == "a death" else {})
        if before == "a failure":
            attempt.finish(BAD)
    context = multiprocessing.get_context("fork")
    answers: multiprocessing.SimpleQueue[str] = context.SimpleQueue()
    assert store.root is not None
    children = [context.Process(target=_race, args=(store.root, str(tmp_path / "gate"), answers)) for _ in range(16)]
    for child in children:
        child.start()
    (tmp_path / "gate").touch()
    found = sorted(answers.get() for _ in children)
    for child in children:
        child.kill()
        child.join()
    assert found == ["1" if before == "nothing" else "2"] + ["duplicate"] * 15


@given(st.text(max_size=80))
def test_new_run_ids_are_dns_labels(name: str) -> None:
    run = new_run_id(name)
    assert check_run_id(run) == run
    assert len(run) <= 63
    assert set(run) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
    assert run[0] not in "-" and run[-1] not in "-"


def test_run_ids() -> None:
    first, second = new_run_id("My Pipeline!"), new_run_id("My Pipeline!")
    assert first != second
    assert first.startswith("my-pipeline-20")
    for good in ("a", "A.b_c-1", "x" * 63):
        assert check_run_id(good) == good
    for bad in ("", ".", "..", "-a", "a/b", "a b", "é", "x" * 64, "a\n"):
        with pytest.raises(UsageError, match="run id"):
            check_run_id(bad)


def test_runs_and_configs(store: Store) -> None:
    assert records.read_run(store, "r") is None
    records.write_run(store, "r", {"name": "n", "state": "running"})
    records.write_run(store, "r", {"name": "n", "state": "success"})
    assert records.read_run(store, "r") == {"version": 1, "run": "r", "name": "n", "state": "success"}
    assert records.runs(store) == ["r"]
    assert records.results(store, "r") == {}
    sha = records.put_config(store, {"b": 1, "a": [2]})
    assert sha == records.put_config(store, {"a": [2], "b": 1}) == wire.sha256(b'{"a":[2],"b":1}')
    assert records.get_config(store, sha) == {"a": [2], "b": 1}
    store.put(f"configs/{sha}.json", b'{"a":[3],"b":1}')
    assert records.get_config(store, sha) is None


def test_the_cache_needs_the_artifacts(store: Store, tmp_path: Path) -> None:
    step = {"call": "m:f", "run": None, "args": {"x": 1}, "outputs": ["f", "d"], "as": "path", "env": {}, "timeout": 5}
    key = cache_key("s", step, {"i": "sha256:1"}, "code", "image")
    assert cache_get(store, key) is None
    attempt = claim(store, "r", "s", {})
    (tmp_path / "f").write_bytes(b"1")
    (tmp_path / "d").mkdir()
    outputs = {name: artifacts.publish(store, f"{attempt.prefix}/out/{name}", str(tmp_path / name)) for name in ("f", "d")}
    cache_put(store, key, {"run": "r", "step": "s", "attempt": 1})
    assert cache_get(store, key) is None  # no result yet
    attempt.finish({**GOOD, "outputs": outputs})
    record = cache_get(store, key)
    assert record == records.good_result(store, "r", "s")
    for name in ("f", "d"):
        kept = Path(store.url_of(f"{attempt.prefix}/out/{name}"))
        kept.rename(tmp_path / "away")
        assert cache_get(store, key) is None
        (tmp_path / "away").rename(kept)
    assert cache_get(store, key) == record
    for torn in (b"", b"{}", b'{"run":"../..","step":"s","attempt":1}', b'{"run":"r","step":"s","attempt":"x"}'):
        store.put(f"cache/{key}.json", torn)
        assert cache_get(store, key) is None


def test_the_cache_key_holds_what_matters() -> None:
    step = {"call": "m:f", "args": {"x": 1}, "outputs": ["f"], "as": "path", "env": {}, "timeout": 5, "retry": {}}
    key = cache_key("s", step, {"i": "1"}, "c", "i")
    assert key == cache_key("s", {**step, "timeout": 6, "retry": {"limit": 1}}, {"i": "1"}, "c", "i")
    others = [
        cache_key("t", step, {"i": "1"}, "c", "i"),
        cache_key("s", {**step, "args": {"x": 2}}, {"i": "1"}, "c", "i"),
        cache_key("s", {**step, "env": {"A": "1"}}, {"i": "1"}, "c", "i"),
        cache_key("s", step, {"i": "2"}, "c", "i"),
        cache_key("s", step, {"j": "1"}, "c", "i"),
        cache_key("s", step, {"i": "1"}, None, "i"),
        cache_key("s", step, {"i": "1"}, "c", None),
    ]
    assert len({key, *others}) == 8


def test_logs_are_followed_over_segments_and_attempts(store: Store) -> None:
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.extend(log_chunks(store, "r", "s", follow=True)))
    reader.start()
    first = claim(store, "r", "s", {})
    for text in (b"1", b"12", b"123"):
        store.put(f"{first.prefix}/log/000001.txt", text)
        time.sleep(0.15)
    store.put(f"{first.prefix}/log/000002.txt", b"4")
    second = _fail_and_claim(store, first)
    store.put(f"{second.prefix}/log/000001.txt", b"5")
    second.finish(GOOD)
    reader.join(10)
    assert not reader.is_alive()
    assert b"".join(got) == b"12345"
    assert b"".join(log_chunks(store, "r", "s")) == b"5"
    assert b"".join(log_chunks(store, "r", "s", attempt=1)) == b"1234"


def _fail_and_claim(store: Store, attempt: claims.Attempt) -> claims.Attempt:
    """Let the retry begin before a reader can see that the attempt has ended."""
    body = wire.dumps({"pid": os.getpid()}).encode()
    store.put(f"runs/{attempt.run}/{attempt.step}/{attempt.number + 1}/claim.json", body)
    attempt.finish(BAD)
    return claims.Attempt(store, attempt.run, attempt.step, attempt.number + 1, "0" * 16)


def test_following_can_be_stopped(store: Store) -> None:
    assert list(log_chunks(store, "r", "s")) == []
    assert list(log_chunks(store, "r", "s", follow=True, stop=lambda: True)) == []


def test_times_are_rfc_3339() -> None:
    assert utc(0) == "1970-01-01T00:00:00.000Z"
    assert utc(1700000000.9876) == "2023-11-14T22:13:20.987Z"
