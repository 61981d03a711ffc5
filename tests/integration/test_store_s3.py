"""A bucket: obstore's real client over HTTP and TLS against moto's S3, the store's model, claims, artifacts and every fault."""

from __future__ import annotations

import datetime
import ipaddress
import itertools
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from moto.s3.models import s3_backends
from werkzeug.wrappers import Response

from backends import process, wire
from backends.errors import ConfigError, DuplicateError, InfraError, InputError, UserError
from backends.store import artifacts, claims, digests, keys, open_store, records
from backends.store import bucket as bucket_store
from backends.store.base import Store
from backends.store.cache import cache_get, cache_put
from backends.store.logs import log_chunks
from tests.support import running, store_model
from tests.support.claiming import claim, hurry
from tests.support.s3 import Server

PREFIXES = itertools.count()
GOOD = {"class": "success", "exit_code": 0, "outputs": {}}


def bucket() -> Any:
    return s3_backends["123456789012"]["aws"].buckets["zen-bucket"]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    server = Server()
    s3_backends["123456789012"]["aws"].create_bucket("zen-bucket", "us-east-1")
    yield server
    server.close()


@pytest.fixture(autouse=True)
def env(server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    for name in list(os.environ):
        if name.startswith(("AWS_", "AZURE_", "GOOGLE_")) or name.lower().endswith("_proxy") or name == "SSL_CERT_FILE":
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "id")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
    yield monkeypatch
    server.fault = None


def fresh() -> Store:
    return open_store(f"s3://zen-bucket/model/{next(PREFIXES)}/")


@pytest.fixture
def store() -> Store:
    return fresh()


StoreMachine = store_model.machine(fresh)
TestBucketObeysTheModel = StoreMachine.TestCase
TestBucketObeysTheModel.settings = settings(
    max_examples=8, stateful_step_count=12, deadline=None, suppress_health_check=list(HealthCheck)
)


def key_of(store: Store, key: str) -> Any:
    return bucket().keys[f"{store.url.removeprefix('s3://zen-bucket/')}/{key}"]


def silence(store: Store, attempt: claims.Attempt, seconds: float) -> None:
    for name in ("claim.json", "heartbeat.json"):
        if store.exists(f"{attempt.prefix}/{name}"):
            key_of(store, f"{attempt.prefix}/{name}").last_modified -= datetime.timedelta(seconds=seconds)


def test_opening_uses_no_network(server: Server) -> None:
    before = server.requests
    store = fresh()
    assert server.requests == before
    assert store.root is None
    assert store.url_of("a/b") == f"{store.url}/a/b"
    assert not store.url.endswith("/")


def test_a_step_s_life_in_a_bucket(store: Store) -> None:
    first = claim(store, "r", "s", {})
    with pytest.raises(DuplicateError, match="attempt 1 is running"):
        claim(store, "r", "s", {})
    assert first.heartbeat({"usage": {"rss": 7}})
    first.finish({"class": "user", "exit_code": 3})
    second = claim(store, "r", "s", {})
    assert second.number == 2
    second.finish(GOOD)
    with pytest.raises(claims.AlreadyDone):
        claim(store, "r", "s", {})
    for number in range(30):
        claim(store, "r", f"t{number}", {}).finish(GOOD)
    store.put("runs/r/t0/1/out/result.json", b"{}")
    found = records.results(store, "r")
    assert len(found) == 31
    assert found["s"]["attempt"] == 2
    assert records.runs(store) == ["r"]
    assert b"".join(log_chunks(store, "r", "s")) == b""


def test_silence_is_death_by_the_bucket_s_clock(store: Store, env: pytest.MonkeyPatch) -> None:
    env.setattr(process, "is_visible", lambda _owner: False)
    first = claim(store, "r", "s", {})
    first.heartbeat({"usage": {"rss": 7}})
    store.put(f"{first.prefix}/log/000001.txt", b"last words\n")
    env.setattr(time, "time", lambda: 4e9)  # this machine's clock is wrong
    silence(store, first, 35)
    with hurry(20):
        second = claim(store, "r", "s", {})
    record = records.result(store, "r", "s", 1)
    assert record is not None
    assert (record["class"], record["usage"], record["log_tail"]) == ("infra", {"rss": 7}, "last words\n")
    assert not first.heartbeat({})
    with pytest.raises(DuplicateError, match="declared dead"):
        first.finish(GOOD)
    second.finish(GOOD)
    names = {key.rpartition("/")[2] for key, _ in store.walk("runs")}
    assert names == {"claim.json", "heartbeat.json", "result.json", "000001.txt"}
    assert not [key for key in bucket().keys if ".tmp-" in key]


def test_the_rest_of_a_dead_one_s_log_is_uploaded(store: Store, tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    for number, text in enumerate(("one\n", "two, grown\n", "three\n"), 1):
        (tmp_path / "log" / f"{number:06d}.txt").write_text(text)
    first = claim(store, "r", "s", {"pid_start": "1", "scratch": str(tmp_path)})
    store.put(f"{first.prefix}/log/000001.txt", b"one\n")
    store.put(f"{first.prefix}/log/000002.txt", b"two")
    claim(store, "r", "s", {})
    assert b"".join(log_chunks(store, "r", "s", 1)) == b"one\ntwo, grown\nthree\n"
    record = records.result(store, "r", "s", 1)
    assert record is not None
    assert record["log_tail"] == "one\ntwo, grown\nthree\n"


def test_what_a_dead_one_left_on_this_machine_is_removed(store: Store, tmp_path: Path, env: pytest.MonkeyPatch) -> None:
    env.setattr("tempfile.tempdir", str(tmp_path))
    good, forged = tmp_path / f"{keys.SCRATCH}abcd_123", tmp_path / "other" / f"{keys.SCRATCH}abcd_123"
    for number, folder in enumerate((good, forged, tmp_path / "mine"), 1):
        (folder / "log").mkdir(parents=True)
        (folder / "log" / "000001.txt").write_text("left\n")
        attempt = claim(store, "r", "s", {"pid_start": "1", "scratch": str(folder)})
        attempt.finish({"class": "infra", "exit_code": 69})  # as one that only looked on writes it
        assert attempt.number == number
    claim(store, "r", "s", {})
    assert not good.exists()
    assert b"".join(log_chunks(store, "r", "s", 1)) == b"left\n"
    assert forged.exists() and (tmp_path / "mine").exists()


def test_of_many_claims_one_wins(store: Store) -> None:
    gate = threading.Barrier(12)

    def compete(_number: int) -> object:
        own = open_store(store.url)
        gate.wait()
        try:
            return claim(own, "r", "s", {}).number
        except DuplicateError:
            return "duplicate"

    with ThreadPoolExecutor(12) as pool:
        found = sorted(map(str, pool.map(compete, range(12))))
    assert found == ["1"] + ["duplicate"] * 11


def test_a_claim_whose_answer_was_lost_is_won(store: Store, server: Server) -> None:
    lost: list[str] = []

    def lose_one(environ: dict[str, Any], work: Callable[[], Any]) -> Response | None:
        if environ["REQUEST_METHOD"] == "PUT" and environ["PATH_INFO"].endswith("claim.json") and not lost:
            work()
            lost.append(environ["PATH_INFO"])
            return Response("<Error><Code>InternalError</Code></Error>", 500)
        return None

    server.fault = lose_one
    assert claim(store, "r", "s", {}).number == 1
    assert len(lost) == 1


def test_a_busy_bucket_is_tried_again(store: Store, server: Server) -> None:
    left = [3]

    def busy(_environ: dict[str, Any], _work: Callable[[], Any]) -> Response | None:
        left[0] -= 1
        return Response("<Error><Code>SlowDown</Code></Error>", 503) if left[0] >= 0 else None

    server.fault = busy
    store.put("k", b"1")
    assert store.get("k") == b"1"


def test_artifacts_go_through_a_bucket(store: Store, tmp_path: Path) -> None:
    big = os.urandom(12 << 20)  # several parts
    (tmp_path / "f").write_bytes(big)
    folder = tmp_path / "d"
    (folder / "sub" / "empty").mkdir(parents=True)
    for number in range(20):
        (folder / f"part-{number} é%.csv").write_bytes(b"x" * number)
    (folder / "sub" / "run.sh").write_bytes(b"#!")
    (folder / "sub" / "run.sh").chmod(0o755)
    (folder / "latest").symlink_to("sub")
    file = artifacts.publish(store, "runs/r/s/1/out/f", str(tmp_path / "f"))
    tree = artifacts.publish(store, "runs/r/s/1/out/d", str(folder))
    assert tree["files"] == 22
    assert artifacts.is_whole(store, file) and artifacts.is_whole(store, tree)
    assert not artifacts.is_whole(store, {**tree, "key": "runs/r/s/1/out/x"})
    got = Path(artifacts.fetch(store, file, str(tmp_path / "scratch")))
    assert got.read_bytes() == big
    got = Path(artifacts.fetch(store, tree, str(tmp_path / "scratch")))
    assert digests.digest(str(got)) == tree["digest"] == digests.digest(str(folder))
    assert os.access(got / "sub" / "run.sh", os.X_OK) and (got / "sub" / "empty").is_dir()
    store.put("runs/r/s/1/out/d/sub/run.sh", b"#?")
    with pytest.raises(InputError, match=r"input 'table' \(s3://.*expected sha256:.*found sha256:"):
        artifacts.fetch(store, tree, str(tmp_path / "scratch"), "table")
    store.delete("runs/r/s/1/out/d/sub/run.sh")
    with pytest.raises(InputError, match="missing from the store"):
        artifacts.fetch(store, tree, str(tmp_path / "scratch"), "table")


def test_what_a_foreach_step_wrote_is_gathered_from_a_bucket(store: Store, tmp_path: Path) -> None:
    write = 'mkdir "$ZEN_OUTPUT_DIR"; echo "$0" | tee "$ZEN_OUTPUT_DIR/x" > "$ZEN_OUTPUT_FILE"; echo "{\\"n\\":$0}" >$ZEN_VALUES'
    steps = {
        "make": {"foreach": list(range(20)), "run": ["sh", "-c", write, "{item}"], "outputs": ["file", "dir"]},
        "use": {
            "run": ["sh", "-c", 'cat "$0"/* "$1"/*/x; ls "$0"; echo "$2"', "{inputs.files}", "{inputs.dirs}", "{make.values.n}"],
            "inputs": {"files": "make.file", "dirs": "make.dir"},
        },
        "list": {"run": ["echo", "{inputs.files}"], "as": "url", "inputs": {"files": "make.file"}},
    }
    path = tmp_path / "config.json"
    path.write_text(wire.dumps({"version": 1, "store": store.url, "code": None, "steps": steps}))
    aws = {name: os.environ[name] for name in os.environ if name.startswith("AWS_")}
    done = running.run("run", "--config", str(path), "--run-id", "r", cwd=tmp_path, env=aws)
    assert done.code == 0, done.errors
    numbers = "".join(f"{number}\n" for number in range(20))
    entries = "".join(f"{number:08d}\n" for number in range(20))
    values = wire.dumps(list(range(20)))
    assert b"".join(log_chunks(store, "r", "use")).decode() == f"{numbers}{numbers}{entries}{values}\n"
    urls = wire.loads(b"".join(log_chunks(store, "r", "list")))
    assert urls == [store.url_of(f"runs/r/make.{number}/1/out/file") for number in range(20)]
    found = records.results(store, "r")
    assert len(found) == 22
    store.put("runs/r/make.7/1/out/dir/x", b"forged")
    aws["ZEN_RUNNER_INPUTS_RUN"] = "r"
    again = running.run("run", "--config", str(path), "--run-id", "two", "--step", "use", cwd=tmp_path, env=aws)
    assert (again.code, "make.7/1/out/dir" in again.record["message"]) == (65, True)


def test_what_a_step_wrote_by_url_is_adopted(store: Store, tmp_path: Path) -> None:
    for name in ("part-0", "part-1", "sub/part-2", "_SUCCESS"):
        store.put(f"out/d/{name}", name.encode() if name != "_SUCCESS" else b"")
    prefix = store.url.removeprefix("s3://zen-bucket/")
    for marker in ("out/d/", "out/d/sub/", "out/d/none/"):  # as some tools leave them
        s3_backends["123456789012"]["aws"].put_object("zen-bucket", f"{prefix}/{marker}", b"")
    tree = artifacts.adopt(store, "out/d")
    assert (tree["files"], tree["size"]) == (4, 22)
    got = artifacts.fetch(store, tree, str(tmp_path))
    assert digests.digest(got) == tree["digest"]
    file = artifacts.adopt(store, "out/d/part-0")
    assert (file["kind"], file["size"]) == ("file", 6)
    with pytest.raises(UserError, match="was not written"):
        artifacts.adopt(store, "out/none")
    store.put("out/sharded-00000-of-00001", b"x")
    with pytest.raises(UserError, match=r"but there is sharded-00000-of-00001 beside it; write to outputs"):
        artifacts.adopt(store, "out/sharded")
    path, digest = artifacts.fetch_url(f"{store.url}/out/d", str(tmp_path))
    assert digest == tree["digest"]
    assert os.path.basename(path) == "d"
    path, digest = artifacts.fetch_url(f"{store.url}/out/d/part-0", str(tmp_path))
    assert digest == file["digest"]
    with pytest.raises(InputError, match="does not exist"):
        artifacts.fetch_url(f"{store.url}/nothing", str(tmp_path))
    with pytest.raises(InputError, match="whole bucket"):
        artifacts.fetch_url("s3://zen-bucket", str(tmp_path))


def test_the_cache_works_in_a_bucket(store: Store, tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    attempt = claim(store, "r", "s", {})
    artifact = artifacts.publish(store, f"{attempt.prefix}/out/d", str(tmp_path / "d"))
    attempt.finish({**GOOD, "outputs": {"d": artifact}})
    cache_put(store, "k", {"run": "r", "step": "s", "attempt": 1})
    assert cache_get(store, "k") == records.good_result(store, "r", "s")
    store.delete(f"{attempt.prefix}/out/d.tree.json")
    assert cache_get(store, "k") is None


EVERYTHING: list[Callable[[Store], object]] = [
    lambda s: s.get("k"),
    lambda s: s.put("k", b"1"),
    lambda s: s.create("k", b"1"),
    lambda s: s.exists("k"),
    lambda s: s.names("k"),
    lambda s: list(s.walk("k")),
    lambda s: s.age("k"),
    lambda s: s.delete("k"),
    lambda s: list(s.stream("k")),
    lambda s: s.upload("k", __file__),
    lambda s: s.download("k", os.devnull + "x"),
]


def test_refusals(store: Store, server: Server) -> None:
    text = "<Error><Code>AccessDenied</Code><Message>no</Message></Error>"
    server.fault = lambda _environ, _work: Response(text, 403)
    for call in EVERYTHING:
        with pytest.raises(InfraError, match=r"cannot \w+ s3://.*access was refused.*s3:GetObject"):
            call(store)


@pytest.mark.parametrize("call", [1, 0, 2, 4, 5, 8, 9])
def test_no_such_bucket(call: int) -> None:
    with pytest.raises(InfraError, match="there is no such bucket; create it"):
        EVERYTHING[call](open_store("s3://no-such-bucket/x"))


def test_nobody_there(env: pytest.MonkeyPatch) -> None:
    env.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    env.setattr(bucket_store, "PATIENCE", 1.0)
    with pytest.raises(InfraError, match="could not be reached: connection refused; check the network") as caught:
        open_store("s3://zen-bucket/x").put("k", b"")
    assert caught.value.exit_code == 69
    assert len(str(caught.value)) < 400


def test_no_credentials(env: pytest.MonkeyPatch) -> None:
    env.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(InfraError, match="AWS_ACCESS_KEY_ID"):
        open_store("s3://zen-bucket/x")
    env.delenv("AWS_SECRET_ACCESS_KEY")
    env.setenv("AWS_METADATA_ENDPOINT", "http://127.0.0.1:9/169.254.169.254")
    with pytest.raises(InfraError, match="no credentials were found; set AWS_ACCESS_KEY_ID"):
        open_store("s3://zen-bucket/x").put("k", b"")


def test_a_missing_local_file_is_not_a_missing_bucket(store: Store, tmp_path: Path) -> None:
    with pytest.raises(InfraError, match=r"cannot read .*/none"):
        store.upload("k", str(tmp_path / "none"))
    store.put("k", b"1")
    with pytest.raises(InfraError, match=r"cannot write .*/none/x"):
        store.download("k", str(tmp_path / "none" / "x"))


@pytest.fixture(scope="module")
def private_ca(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """Return a certificate authority, and a certificate and key that it made for the loopback."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    folder = tmp_path_factory.mktemp("ca")
    now = datetime.datetime.now(datetime.UTC)

    def make(name: str, key: Any, issuer: str, signer: Any, extensions: list[x509.ExtensionType]) -> bytes:
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=2))
        )
        for extension in extensions:
            builder = builder.add_extension(extension, critical=False)
        return builder.sign(signer, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    (folder / "ca.pem").write_bytes(make("test ca", ca_key, "test ca", ca_key, [x509.BasicConstraints(True, None)]))
    (folder / "cert.pem").write_bytes(make("server", key, "test ca", ca_key, [address]))
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "key.pem").write_bytes(private)
    return folder / "ca.pem", folder / "cert.pem", folder / "key.pem"


def test_a_private_certificate_authority(private_ca: tuple[Path, Path, Path], env: pytest.MonkeyPatch) -> None:
    ca, cert, key = private_ca
    server = Server(tls=(str(cert), str(key)))
    try:
        env.setenv("AWS_ENDPOINT_URL", server.url)
        with pytest.raises(InfraError, match="certificate is not trusted; set AWS_CA_BUNDLE"):
            fresh().put("k", b"1")
        for name in ("AWS_CA_BUNDLE", "SSL_CERT_FILE"):
            with env.context() as patch:
                patch.setenv(name, str(ca))
                store = fresh()
                store.put("k", b"1")
                assert store.get("k") == b"1"
        env.setenv("AWS_CA_BUNDLE", str(ca) + "x")
        with pytest.raises(InfraError, match=r"AWS_CA_BUNDLE=.*No such file"):
            fresh()
    finally:
        server.close()


@pytest.mark.parametrize(
    ("url", "kind", "where", "prefix"),
    [
        ("gs://zen/a/b", "GCSStore", {"bucket": "zen"}, "a/b"),
        ("az://zen/a/b", "AzureStore", {"container_name": "zen"}, "a/b"),
        ("abfss://zen@acc.dfs.core.windows.net/a", "AzureStore", {"container_name": "zen", "account_name": "acc"}, "a"),
        ("s3a://zen/a", "S3Store", {"bucket": "zen"}, "a"),
    ],
)
def test_other_clouds_are_addressed(env: pytest.MonkeyPatch, url: str, kind: str, where: dict[str, str], prefix: str) -> None:
    env.setenv("AZURE_STORAGE_ACCOUNT_NAME", "acc")
    store = open_store(url)
    client = store._store  # type: ignore[attr-defined]
    assert type(client).__name__ == kind
    assert str(client.prefix) == prefix
    assert where.items() <= dict(client.config).items()
    assert store.url_of("k") == f"{url}/k"


def test_urls_without_a_bucket(env: pytest.MonkeyPatch) -> None:
    for url in ("s3://", "gs://"):
        with pytest.raises(ConfigError, match=f"write {url}bucket"):
            open_store(url)
    with pytest.raises(InfraError, match=r"Account must be specified; set AZURE_STORAGE_ACCOUNT_NAME"):
        open_store("az://zen/x")


def test_records_are_the_same_bytes_everywhere(store: Store, tmp_path: Path) -> None:
    local = open_store(str(tmp_path))
    for each in (store, local):
        claim(each, "r", "s", {}).finish(GOOD)
        records.write_run(each, "r", {"name": "n"})
        records.put_config(each, {"a": 1})
    assert {k for k, _ in store.walk("")} == {k for k, _ in local.walk("")}
    for key in ("runs/r/s/1/result.json", "runs/r/run.json"):
        data = local.get(key)
        assert store.get(key) == data
        assert data == wire.dumps(wire.loads(data or b"")).encode()
