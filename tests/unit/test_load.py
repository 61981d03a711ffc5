"""The four ways in for a config, and the quick way through for one that is resolved."""

from __future__ import annotations

import base64
import gzip
import hashlib
import http.server
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from backends import wire
from backends.config import bounds, resolve, shape
from backends.errors import ConfigError, InfraError, UsageError
from backends.store import download
from entrypoint.runtime import load
from tests.support.running import ROOT

TEXT = b"version: 1\nsteps:\n  hello: {run: [echo, hello]}\n"
RESOLVED = resolve.resolve({"version": 1, "steps": {"hello": {"run": ["echo", "hello"]}}}, "/base", "quick", {})


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "pipeline.yaml"
    path.write_bytes(TEXT)
    return path


@pytest.fixture(autouse=True)
def _nothing_in_etc(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(
        load, "DEFAULT_FILES", tuple(str(tmp_path / "etc" / f"config.{kind}") for kind in ("yaml", "yml", "json"))
    )


def refusal(config: str | None, **environ: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load.find(config, environ)
    return str(caught.value)


def test_the_first_one_found_wins(config: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.yaml"
    other.write_bytes(b"other")
    (tmp_path / "etc").mkdir()
    environ = {"ZEN_RUNNER_CONFIG": "inline", "ZEN_RUNNER_CONFIG_FILE": str(other)}
    for name in ("json", "yml", "yaml"):
        (tmp_path / "etc" / f"config.{name}").write_text(name)
        assert load.find(None, {}).data == name.encode()
    assert load.find(str(config), environ).data == TEXT
    assert load.find(None, environ).data == b"inline"
    assert load.find(None, {**environ, "ZEN_RUNNER_CONFIG": ""}).data == b"other"


def test_without_a_config_the_four_ways_are_named() -> None:
    message = refusal(None)
    for way in ("--config PATH", "$ZEN_RUNNER_CONFIG ", "$ZEN_RUNNER_CONFIG_FILE", load.DEFAULT_FILES[0]):
        assert way in message


def test_a_file_knows_its_place_and_name(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(config.parent)
    source = load.find("pipeline.yaml", {})
    assert (source.data, source.origin, source.base, source.name) == (TEXT, "pipeline.yaml", str(config.parent), "pipeline")
    assert load.load(source, environ={})[0]["name"] == "pipeline"
    assert load.find(f"file://{config}", {}).base == str(config.parent)


def test_an_inline_config_starts_from_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    source = load.find(None, {"ZEN_RUNNER_CONFIG": TEXT.decode()})
    assert (source.data, source.origin, source.base) == (TEXT, "$ZEN_RUNNER_CONFIG", str(tmp_path))
    with pytest.raises(ConfigError, match=r"^\$ZEN_RUNNER_CONFIG:1: not UTF-8"):
        load.load(load.find(None, {"ZEN_RUNNER_CONFIG": "a: \udce9"}), environ={})


def test_files_that_cannot_be_read(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = config.parent
    assert refusal(str(folder)) == f"--config: {folder} is a directory; in that directory: pipeline.yaml"
    assert refusal(str(folder / "pipline.yaml")) == (
        f"--config: there is no file {folder}/pipline.yaml (did you mean '{folder}/pipeline.yaml'?)"
    )
    assert refusal(str(folder / "x")) == f"--config: there is no file {folder}/x; in that directory: pipeline.yaml"
    assert refusal(None, ZEN_RUNNER_CONFIG_FILE="/no/x.yaml") == (
        "$ZEN_RUNNER_CONFIG_FILE: there is no file /no/x.yaml: there is no directory /no; check the path, or the mount"
    )
    assert "there is no file" in refusal(str(config / "below"))
    assert "empty" in refusal("")
    assert "NUL" in refusal("a\0b")
    assert "can't be opened: Too many levels of symbolic links" in refusal(_loop(folder))
    assert refusal("/dev/zero") == "/dev/zero: it has more than 16 MiB, which no config has; is it the right file?"

    def denied(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", denied)  # root, which the tests may run as, is never refused
    assert refusal(str(config)).endswith(f"{config} may not be read by uid {os.getuid()}; make it readable: chmod a+r {config}")


def _loop(folder: Path) -> str:
    (folder / "loop").symlink_to(folder / "loop")
    return str(folder / "loop")


def test_a_path_where_the_config_itself_belongs(config: Path) -> None:
    assert refusal(None, ZEN_RUNNER_CONFIG=str(config)) == (
        f"$ZEN_RUNNER_CONFIG: it holds the path {config}; put a path in $ZEN_RUNNER_CONFIG_FILE"
    )


@pytest.mark.processes
def test_standard_input_and_pipes(tmp_path: Path) -> None:
    program = "import sys\nfrom entrypoint.runtime import load\ns = load.find(sys.argv[1], {})\nprint(s.data, s.origin, s.base)"
    for argument in ("-", "/dev/stdin"):
        command = [sys.executable, "-c", program, argument]
        environ = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, input=TEXT, capture_output=True, cwd=tmp_path, env=environ, check=True)
        assert done.stdout.decode().split("\n")[0] == f"{TEXT!r} {'stdin' if argument == '-' else argument} {tmp_path}"


# -- gz: -------------------------------------------------------------------------------------------------------------


def _packed(data: bytes) -> str:
    return "gz:" + base64.b64encode(gzip.compress(data, mtime=0)).decode()


def test_a_packed_config() -> None:
    assert load.find(None, {"ZEN_RUNNER_CONFIG": _packed(TEXT)}).data == TEXT
    folded = "\n".join(_packed(TEXT)[at : at + 20] for at in range(0, len(_packed(TEXT)), 20))
    assert load.find(None, {"ZEN_RUNNER_CONFIG": folded + "\n"}).data == TEXT


@pytest.mark.parametrize(
    "value", ["gz:", "gz:!!!", "gz:é", "gz:aGVsbG8=", _packed(TEXT)[:-9], _packed(TEXT)[:-10] + "AAAAAAAAA="]
)
def test_a_packed_config_that_is_broken(value: str) -> None:
    assert refusal(None, ZEN_RUNNER_CONFIG=value).startswith("$ZEN_RUNNER_CONFIG: ")
    assert "`zen-runner encode` writes it" in refusal(None, ZEN_RUNNER_CONFIG=value)


def test_a_packed_bomb_is_not_unpacked() -> None:
    packed = _packed(bytes(bounds.MAX_BYTES + 1))
    assert len(packed) < 131_072
    assert "more than 16 MiB" in refusal(None, ZEN_RUNNER_CONFIG=packed)


# -- ref: and URLs ---------------------------------------------------------------------------------------------------


def _reference(url: object, data: bytes = TEXT) -> str:
    return f"ref:{url}#sha256={hashlib.sha256(data).hexdigest()}"


class _Handler(http.server.BaseHTTPRequestHandler):
    failures: ClassVar[list[int]] = []

    def do_GET(self) -> None:
        status = self.failures.pop() if self.failures else 200 if self.path.startswith("/cfg.yaml?sig=a%2Fb") else 404
        self.send_response(status)
        self.end_headers()
        self.wfile.write(TEXT if status == 200 else b"no")

    def log_message(self, *_: object) -> None:
        """Keep the test's output clean."""


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()
        thread.join()


def test_a_reference_to_a_file(config: Path) -> None:
    for url in (config, f"file://{config}"):
        source = load.find(None, {"ZEN_RUNNER_CONFIG": _reference(url)})
        assert (source.data, source.base) == (TEXT, str(config.parent))


def test_a_reference_over_http(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "WAITS", (0.0, 0.0))
    monkeypatch.setattr(_Handler, "failures", [503, 429])
    url = f"{server}/cfg.yaml?sig=a%2Fb"
    source = load.find(None, {"ZEN_RUNNER_CONFIG": _reference(url)})
    assert (source.data, source.origin) == (TEXT, f"{server}/cfg.yaml")  # a signature is nobody's business
    assert load.find(url, {}).data == TEXT
    assert refusal(f"{server}/no.yaml") == f"{server}/no.yaml: there is no such file on the server (HTTP 404); check the URL"
    for status in (403, 500):
        monkeypatch.setattr(_Handler, "failures", [status] * 3)
        with pytest.raises(InfraError, match=f"HTTP {status}"):
            load.find(url, {})


def test_an_unreachable_server_is_no_fault_of_the_config(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "WAITS", (0.0, 0.0))
    with pytest.raises(InfraError, match=r"^http://127.0.0.1:9/x: it can't be fetched: .*refused"):
        load.find("http://127.0.0.1:9/x?token=s", {})


@pytest.mark.large
def test_a_reference_into_a_bucket(monkeypatch: pytest.MonkeyPatch) -> None:
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
        }.items():
            monkeypatch.setenv(name, value)
        s3 = boto3.client("s3")
        s3.create_bucket(Bucket="configs")
        s3.put_object(Bucket="configs", Key="a/b.yaml", Body=TEXT)
        source = load.find(None, {"ZEN_RUNNER_CONFIG": _reference("s3://configs/a/b.yaml")})
        assert (source.data, source.origin, source.name) == (TEXT, "s3://configs/a/b.yaml", "b")
        assert refusal("s3://configs/a/no.yaml") == "s3://configs/a/no.yaml: there is no such object; check the URL"
    finally:
        server.stop()


@pytest.mark.parametrize(
    ("reference", "says"),
    [
        ("ref:/x.yaml", "the reference has no digest; write ref:/x.yaml#sha256=HEX"),
        ("ref:https://u:p@h/x?sig=s", "the reference has no digest; write ref:https://h/x#sha256=HEX"),
        ("ref:/x.yaml#sha256=12", "after '#sha256=' come the 64 hexadecimal digits"),
        ("ref:/x.yaml#sha256=" + "g" * 64, "after '#sha256=' come the 64 hexadecimal digits"),
        ("ref:/no/x.yaml#sha256=" + "0" * 64, "there is no file /no/x.yaml"),
        ("ref:file://x.yaml#sha256=" + "0" * 64, "a file URL has three slashes: file:///x.yaml"),
        ("ref:s3://bucket#sha256=" + "0" * 64, "this names no object; write such as s3://bucket/path/config.json"),
        ("ref:gopher://h/x#sha256=" + "0" * 64, "no such kind of store"),
        ("ref:http://u:secret@h/x#sha256=" + "0" * 64, "the URL has a user or password in it"),
    ],
)
def test_references_that_are_wrong(reference: str, says: str) -> None:
    message = refusal(None, ZEN_RUNNER_CONFIG=reference)
    assert says in message
    assert "secret@" not in message


def test_a_file_that_changed_is_refused(config: Path) -> None:
    message = refusal(None, ZEN_RUNNER_CONFIG=_reference(config, b"other"))
    assert f"{config} is not the file that was meant: its SHA-256 is {hashlib.sha256(TEXT).hexdigest()}, not" in message


# -- load ------------------------------------------------------------------------------------------------------------


def _load(data: bytes, *overrides: str, backend: str | None = None, origin: str = "cfg.json") -> tuple[dict[str, object], str]:
    return load.load(load.Source(data, origin, "/somewhere", "name"), overrides=overrides, backend=backend, environ={})


def test_a_resolved_config_is_taken_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    text = wire.dumps(RESOLVED).encode()
    with monkeypatch.context() as patch:
        patch.setattr(resolve, "load", None)  # not needed
        assert _load(text) == (RESOLVED, hashlib.sha256(text).hexdigest())
        assert _load(b" ".join([text[:1], text[1:], b"\n"]))[1] == hashlib.sha256(text).hexdigest()
    assert _load(text, "steps.hello.cache=true")[0]["steps"]["hello"]["cache"] is True  # type: ignore[index]
    assert _load(text, backend="local")[0] == RESOLVED


def test_the_digest_is_that_of_the_canonical_json() -> None:
    config, digest = _load(TEXT, origin="cfg.yaml")
    assert digest == hashlib.sha256(wire.dumps(config).encode()).hexdigest()


def test_the_keys_that_a_resolved_config_must_have_are_those_that_resolving_gives() -> None:
    assert RESOLVED.keys() == shape.CONFIG
    assert RESOLVED["steps"]["hello"].keys() == shape.STEP.keys() | {"run"}


@pytest.mark.parametrize("missing", sorted(shape.CONFIG))
def test_a_resolved_config_that_lacks_a_key_is_checked_in_full(missing: str) -> None:
    broken = {key: value for key, value in RESOLVED.items() if key != missing}
    if missing in ("version", "steps", "resolved"):
        says = f"{missing}: missing" if missing != "resolved" else "base: this key is written by `zen-runner resolve` only"
        with pytest.raises(ConfigError, match=f"cfg.json:1: {says}"):
            _load(wire.dumps(broken).encode())
    else:
        assert _load(wire.dumps(broken).encode())[0].keys() == RESOLVED.keys()


@pytest.mark.parametrize("missing", sorted(shape.STEP.keys() | {"run"}))
def test_a_resolved_step_that_lacks_a_key_is_checked_in_full(missing: str) -> None:
    step = {key: value for key, value in RESOLVED["steps"]["hello"].items() if key != missing}
    text = wire.dumps({**RESOLVED, "steps": {"hello": step}}).encode()
    if missing == "run":
        with pytest.raises(ConfigError, match="nothing says what the step does"):
            _load(text)
    else:
        assert _load(text)[0]["steps"]["hello"].keys() == shape.STEP.keys() | {"run"}  # type: ignore[index]


def test_a_resolved_config_of_an_older_version_is_taken_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    step = RESOLVED["steps"]["hello"]
    older = {key: value for key, value in step["resources"].items() if key not in ("gpu_memory", "cuda")}
    assert len(older) == 3
    config = {**RESOLVED, "steps": {"hello": {**step, "resources": older}}}
    text = wire.dumps(config).encode()
    with monkeypatch.context() as patch:
        patch.setattr(resolve, "load", None)  # not needed
        assert _load(text) == (config, hashlib.sha256(text).hexdigest())
    assert _load(text, "steps.hello.cache=true")[0]["steps"]["hello"]["resources"] == step["resources"]  # type: ignore[index]


@pytest.mark.parametrize("text", [b'{"resolved"', b'{"resolved": true, "steps": []}', b"{" * 100_000 + b'"resolved"'])
def test_what_only_looks_resolved_is_refused(text: bytes) -> None:
    with pytest.raises(ConfigError, match=r"^cfg\.json"):
        _load(text)


def test_an_override_without_a_value_is_a_usage_error() -> None:
    for text in ("steps.hello.cache", "=1", "steps..cache=1", ""):
        with pytest.raises(UsageError, match="--set takes PATH=VALUE"):
            _load(TEXT, text, origin="cfg.yaml")


@pytest.mark.processes
def test_the_quick_way_imports_next_to_nothing(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(wire.dumps(RESOLVED))
    program = """
import sys
sys.path.insert(0, sys.argv[1])
from entrypoint.runtime import load
environ = {"ZEN_RUNNER_CONFIG": sys.argv[3]} if sys.argv[3:] else {}
load.load(load.find(None if environ else sys.argv[2], environ), environ={})
print(*sorted({name.partition(".")[0] for name in sys.modules}))
"""
    ours = {"backends", "entrypoint"}
    quick = {"__future__", "_json", "_sha256", "_sha2", "_hashlib", "binascii", "zlib", "errno"}
    plain = "import os, sys; print(*sorted(sys.modules))"
    bare = set(
        subprocess.run([sys.executable, "-I", "-S", "-c", plain], capture_output=True, text=True, check=True).stdout.split()
    )
    packed = "gz:" + base64.b64encode(gzip.compress(path.read_bytes())).decode()
    for arguments in ([str(ROOT), str(path)], [str(ROOT), "", packed], [str(ROOT), "", f"ref:{path}#sha256=" + _digest(path)]):
        command = [sys.executable, "-I", "-S", "-c", program, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert set(done.stdout.split()) - bare <= ours | quick


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
