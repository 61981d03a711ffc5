"""Code and config get to another machine through the store: packed once, unpacked once, and nothing of this machine with them."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from backends import wire
from backends.errors import ConfigError, InfraError, InputError
from backends.orchestrator.docker import OrchestratorDockerBackend
from backends.shipping.shipment import archive_key, receive, ship, upload
from backends.store import open_store
from backends.store.local import LocalStore
from entrypoint.runtime import load
from tests.support import configs, running


def resolved(folder: Path, **document: Any) -> dict[str, Any]:
    document = {"name": "p", "store": "s3://bucket/x", "steps": {"a": {"run": ["true"]}}, **document}
    path = configs.config(folder, **document)
    return load.load(load.find(str(path), {}), environ={})[0]


def code(folder: Path) -> Path:
    return configs.write(folder / "code", {"mod.py": "def run(): return {'answer': 42}\n", "data/x.txt": "x"})


def test_the_same_code_and_config_give_the_same_bytes_on_every_machine(tmp_path: Path) -> None:
    shipments = []
    for place in ("one", "two/deeper"):
        (tmp_path / place).mkdir(parents=True)
        code(tmp_path / place)
        config = resolved(tmp_path / place, code="code")
        shipments.append(ship(config, str(tmp_path / place)))
        assert config["code"] == str(tmp_path / place / "code")  # left as it was
    assert shipments[0].sha == shipments[1].sha == wire.sha256(shipments[0].data)
    assert str(tmp_path) not in shipments[0].data.decode()
    assert shipments[0].config["code"] == "sha256:" + wire.sha256(Path(shipments[0].archive or "").read_bytes())
    assert shipments[0].receipt is not None and shipments[0].receipt["files"] == 2


def test_no_code_and_shipped_code_need_no_archive(tmp_path: Path) -> None:
    for config in (resolved(tmp_path, code=None), {**resolved(tmp_path, code=None), "code": "sha256:" + "0" * 64}):
        shipment = ship(config, str(tmp_path))
        assert shipment.archive is None and shipment.receipt is None
        assert shipment.config["code"] == config["code"]


def test_a_shipped_config_is_a_resolved_one(tmp_path: Path) -> None:
    config = {**resolved(tmp_path, code=None), "code": "sha256:" + "0" * 64, "base": "/"}
    source = load.Source(wire.dumps(config).encode(), "shipped", str(tmp_path))
    assert load.load(source, environ={}, overrides=["steps.a.cache=false"])[0] == config
    body = OrchestratorDockerBackend().render(config)[0]["container"]
    assert body["HostConfig"]["Mounts"] == []


def test_what_is_on_this_machine_alone_is_refused_all_at_once(tmp_path: Path) -> None:
    (tmp_path / "x.csv").touch()
    config = resolved(
        tmp_path, store="./runs", code=None, steps={"a": {"run": ["true"], "inputs": {"x": "./x.csv", "y": "s3://b/y"}}}
    )
    with pytest.raises(ConfigError) as caught:
        ship(config, str(tmp_path))
    assert [problem.path for problem in caught.value.problems] == ["store", "steps.a.inputs.x"]
    assert "s3://bucket/prefix" in str(caught.value) and str(tmp_path / "x.csv") in str(caught.value)
    ship(config, str(tmp_path), mounts=[str(tmp_path)])
    with pytest.raises(ConfigError):
        ship(config, str(tmp_path), mounts=[str(tmp_path)[:-1]])


def test_the_store_inside_the_code_does_not_ship(tmp_path: Path) -> None:
    code(tmp_path)
    configs.write(tmp_path / "code" / "runs", {"big": "x" * 1000})
    config = resolved(tmp_path, code="code", store="./code/runs")
    receipt = ship(config, str(tmp_path), mounts=["/"]).receipt
    assert receipt is not None and receipt["files"] == 2


def test_all_is_uploaded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code(tmp_path)
    shipment = ship(resolved(tmp_path, code="code"), str(tmp_path))
    store = open_store(str(tmp_path / "store"))
    upload(shipment, store)
    key = archive_key(shipment.config["code"])
    assert wire.sha256(store.get(key) or b"") == key.split("/")[1].removesuffix(".tar.gz")
    assert store.get(f"configs/{shipment.sha}.json") == shipment.data

    def refuse(*args: object) -> None:
        raise AssertionError("written again")

    monkeypatch.setattr(LocalStore, "upload", refuse)
    monkeypatch.setattr(LocalStore, "put", refuse)
    upload(shipment, store)


def test_a_shipped_config_whose_code_is_elsewhere_is_refused(tmp_path: Path) -> None:
    shipment = ship({**resolved(tmp_path, code=None), "code": "sha256:" + "0" * 64}, str(tmp_path))
    with pytest.raises(ConfigError, match="submit from the config"):
        upload(shipment, open_store(str(tmp_path / "store")))


class TestReceive:
    @pytest.fixture
    def shipped(self, tmp_path: Path) -> tuple[str, LocalStore]:
        code(tmp_path)
        shipment = ship(resolved(tmp_path, code="code"), str(tmp_path))
        store = LocalStore(str(tmp_path / "store"))
        upload(shipment, store)
        return shipment.config["code"], store

    def test_it_is_unpacked_once_where_only_this_user_writes(self, tmp_path: Path, shipped: tuple[str, LocalStore]) -> None:
        name, store = shipped
        environ = {"TMPDIR": str(tmp_path / "tmp")}
        (tmp_path / "tmp").mkdir()
        target = Path(receive(name, store, environ))
        assert target == tmp_path / "tmp" / f"zen-runner-code-{os.geteuid()}" / name.removeprefix("sha256:")
        assert target.parent.stat().st_mode & 0o777 == 0o700
        assert sorted(path.name for path in target.rglob("*")) == ["data", "mod.py", "x.txt"]
        shutil.rmtree(store.root)
        assert receive(name, store, environ) == str(target)  # not so much as a look at the store

    def test_a_directory_can_be_named(self, tmp_path: Path, shipped: tuple[str, LocalStore]) -> None:
        environ = {"ZEN_RUNNER_CODE_DIR": str(tmp_path / "deep" / "er")}
        assert Path(receive(*shipped, environ)).parent == tmp_path / "deep" / "er"

    def test_a_bucket_store_is_downloaded_and_leaves_no_archive(
        self, tmp_path: Path, shipped: tuple[str, LocalStore], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        name, store = shipped
        remote = _Remote(store)
        environ = {"ZEN_RUNNER_CODE_DIR": str(tmp_path / "dir")}
        target = receive(name, remote, environ)  # type: ignore[arg-type]
        assert os.listdir(tmp_path / "dir") == [os.path.basename(target)]

    @pytest.mark.parametrize("what", ["writable by others", "a link", "a file"])
    def test_a_directory_of_others_is_not_trusted(self, tmp_path: Path, shipped: tuple[str, LocalStore], what: str) -> None:
        (tmp_path / "elsewhere").mkdir(mode=0o700)
        place = tmp_path / f"zen-runner-code-{os.geteuid()}"
        if what == "a link":
            place.symlink_to(tmp_path / "elsewhere")
        elif what == "a file":
            place.touch()
        else:
            place.mkdir()
            place.chmod(0o777)
        with pytest.raises(ConfigError, match="ZEN_RUNNER_CODE_DIR"):
            receive(*shipped, {"TMPDIR": str(tmp_path)})

    def test_a_place_that_can_not_be_written(self, tmp_path: Path, shipped: tuple[str, LocalStore]) -> None:
        with pytest.raises(InfraError, match="ZEN_RUNNER_CODE_DIR"):
            receive(*shipped, {"TMPDIR": str(tmp_path / "nowhere")})

    def test_a_missing_or_changed_archive_is_an_input_error(self, tmp_path: Path, shipped: tuple[str, LocalStore]) -> None:
        name, store = shipped
        environ = {"TMPDIR": str(tmp_path)}
        store.put(archive_key(name), b"something else")
        with pytest.raises(InputError, match="sha256"):
            receive(name, store, environ)
        store.delete(archive_key(name))
        for kind in (store, _Remote(store)):
            with pytest.raises(InputError, match="submit the pipeline again"):
                receive(name, kind, environ)  # type: ignore[arg-type]

    @pytest.mark.processes
    def test_a_step_runs_in_it(self, tmp_path: Path, shipped: tuple[str, LocalStore]) -> None:
        config = resolved(tmp_path, code="code", store="./store", steps={"a": {"call": "mod:run", "cache": True}})
        config = {**config, "code": shipped[0]}
        env = {"ZEN_RUNNER_CONFIG": json.dumps(config), "ZEN_RUNNER_STEP": "a", "TMPDIR": str(tmp_path)}
        shutil.rmtree(tmp_path / "code")
        ended = running.run(cwd=tmp_path, env=env, ZEN_RUNNER_RUN_ID="r1")
        assert ended.code == 0, ended.errors
        assert running.results(tmp_path, "r1", "a")[0]["values"] == {"answer": 42}
        assert json.loads((tmp_path / "store/runs/r1/a/1/replay.json").read_text())["code"] == shipped[0]

        # The cache knows the code by its contents, wherever it lies.
        code(tmp_path)
        config["code"] = str(tmp_path / "code")
        ended = running.run(cwd=tmp_path, env={**env, "ZEN_RUNNER_CONFIG": json.dumps(config)}, ZEN_RUNNER_RUN_ID="r2")
        assert ended.code == 0, ended.errors
        assert running.results(tmp_path, "r2", "a")[0]["cached_from"]["run"] == "r1"


class _Remote:
    """A local store behind the face of one that is not."""

    root = None

    def __init__(self, store: LocalStore) -> None:
        self._store = store
        self.download = store.download
        self.exists = store.exists
        self.url_of = store.url_of
