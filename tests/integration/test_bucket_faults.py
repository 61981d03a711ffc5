"""What a bucket may answer, and what becomes of it: each fault at each operation, on the real client over real HTTP."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator

import pytest

from backends.errors import InfraError, PlacementError, ZenRunnerError
from backends.store import bucket, open_store, records
from backends.store.base import Store
from tests.support.claiming import claim
from tests.support.faulty_bucket import FaultyBucket

GOOD = {"class": "success", "exit_code": 0, "outputs": {}}
PASSING: list[int | str] = [408, 409, 425, 429, 500, 502, 503, 504, "reset", "lost"]
LASTING = [400, 401, 403, 404]
OPERATIONS: dict[str, Callable[[Store], object]] = {
    "get": lambda store: store.get("k"),
    "get a part": lambda store: store.get("k", 1),
    "put": lambda store: store.put("k", b"12"),
    "create": lambda store: store.create("new", b"1"),
    "exists": lambda store: store.exists("k"),
    "names": lambda store: store.names("d"),
    "age": lambda store: store.age("k"),
    "delete": lambda store: store.delete("k"),
    "stream": lambda store: b"".join(store.stream("k")),
}


@pytest.fixture(scope="module")
def server() -> Iterator[FaultyBucket]:
    with FaultyBucket() as server:
        yield server


@pytest.fixture
def store(server: FaultyBucket, monkeypatch: pytest.MonkeyPatch) -> Store:
    for name in list(os.environ):
        if name.startswith(("AWS_", "AZURE_", "GOOGLE_")) or name.lower().endswith("_proxy") or name == "SSL_CERT_FILE":
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "id")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
    server.clear()
    made = open_store("s3://zen/p")
    made.put("k", b"12")
    made.put("d/k", b"12")
    return made


@pytest.mark.parametrize("fault", PASSING)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_what_passes_is_not_noticed(store: Store, server: FaultyBucket, operation: str, fault: int | str) -> None:
    undisturbed = OPERATIONS[operation](store)
    store.delete("new")
    store.put("k", b"12")
    server.answer_with(fault, times=2)
    found = OPERATIONS[operation](store)
    assert found == undisturbed or isinstance(found, float)
    assert server.faults_left == 0


@pytest.mark.parametrize("fault", LASTING)
@pytest.mark.parametrize("operation", [name for name in OPERATIONS if name != "stream"])
def test_what_lasts_is_told_at_once(store: Store, server: FaultyBucket, operation: str, fault: int) -> None:
    server.answer_with(fault, times=1000)
    begun = time.monotonic()
    if fault == 404 and operation in ("get", "get a part", "exists", "age", "delete"):
        OPERATIONS[operation](store)  # it is what is said of an object that isn't there
    else:
        with pytest.raises(InfraError) as caught:
            OPERATIONS[operation](store)
        assert caught.value.exit_code == 69
    assert time.monotonic() - begun < 5
    assert 1000 - server.faults_left <= 5


@pytest.mark.parametrize("fault", [503, "reset", 409])
@pytest.mark.parametrize("operation", ["get", "put", "create", "delete"])
def test_what_never_passes_ends_in_time(
    store: Store, server: FaultyBucket, operation: str, fault: int | str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bucket, "PATIENCE", 1.5)
    server.answer_with(fault, times=1000)
    begun = time.monotonic()
    with pytest.raises(InfraError):
        OPERATIONS[operation](store)
    assert 0.5 < time.monotonic() - begun < 5


def test_an_outage_is_survived_for_as_long_as_it_is_said(store: Store, server: FaultyBucket) -> None:
    server.answer_with(503, times=12)
    begun = time.monotonic()
    store.put("k", b"after")
    assert store.get("k") == b"after"
    assert time.monotonic() - begun < bucket.PATIENCE


@pytest.mark.parametrize("operation", ["get", "put", "create", "delete"])
def test_a_server_that_says_nothing_is_asked_again(
    store: Store, server: FaultyBucket, operation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert bucket._CLIENT["read_timeout"] == "12s"  # less than two beats and a half
    monkeypatch.setattr(bucket, "_CLIENT", {**bucket._CLIENT, "read_timeout": "300ms"})
    impatient = open_store("s3://zen/p")
    server.answer_with("mute", times=1)
    OPERATIONS[operation](impatient)
    assert server.faults_left == 0


@pytest.mark.parametrize("fault", ["lost", "reset", 409, 412, 500, "done, then 500"])
def test_a_claim_and_a_result_whose_answer_is_in_doubt(store: Store, server: FaultyBucket, fault: int | str) -> None:
    for operation in ("PUT claim.json", "PUT result.json"):
        server.clear()
        server.answer_with(fault, times=1, only=operation)
        attempt = claim(store, "r", operation[4:-5], {})
        assert attempt.number == 1
        attempt.finish(GOOD)
        assert records.good_result(store, "r", operation[4:-5]) is not None
        assert server.faults_left == 0


def test_what_another_has_created_is_theirs(store: Store, server: FaultyBucket) -> None:
    assert store.create("new", b"theirs")
    for fault in ("reset", 409, 503):
        server.answer_with(fault, times=1)
        assert not store.create("new", b"ours")
    assert store.get("new") == b"theirs"


SECRETS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_REGION")


@pytest.mark.parametrize("name", SECRETS)
@pytest.mark.parametrize("value", ["s3cr3t\n", "s3cr3t\r\n", "s3\tcr3t", "s3cr3té"])
def test_credentials_that_can_t_be_sent(store: Store, monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(PlacementError, match=name) as caught:
        open_store(store.url)
    assert caught.value.exit_code == 76
    assert "cr3t" not in str(caught.value)


@pytest.mark.parametrize(
    "address",
    ["http://[x", "http://a b", "http://h:99999", "localhost:9000", "ftp://x", "http://", "http://%zz", "http://h:0", "http://ä"],
)
def test_an_endpoint_that_is_no_address(store: Store, monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.setenv(name, address)
        with pytest.raises(PlacementError, match=rf"\${name}"):
            open_store(store.url)


def test_a_panic_of_the_client_is_an_error_like_any_other(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backends.store.credentials.check", lambda _cloud, _environ: None)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "id\n")
    broken = open_store(store.url)
    for operation in OPERATIONS.values():
        with pytest.raises(ZenRunnerError, match="the client of the store gave up"):
            operation(broken)
