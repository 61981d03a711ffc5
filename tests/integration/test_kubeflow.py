"""The kubeflow orchestrator: its pipelines by kfp's own local runner on a real engine, its submissions by kfp's client."""

from __future__ import annotations

import http.server
import json
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest

from backends import calls, wire
from backends.errors import ConfigError, InfraError, PlacementError
from backends.orchestrator.kubeflow import OrchestratorKubeFlowBackend
from backends.shipping.shipment import ship, upload
from backends.store import open_store, records
from backends.store.base import Store
from backends.store.logs import log_chunks
from entrypoint.runtime.load import Source, load
from tests import helpers
from tests.emulators import kfp_local
from tests.emulators.kfp_api import KfpApi
from tests.images.build_fixture import cpu_image
from tests.integration.test_store_s3 import Server

__all__ = ["cpu_image"]  # a fixture

pytest.importorskip("kfp", reason="the kubeflow extra is not installed")

EXAMPLE = helpers.ROOT / "examples" / "penguins"
BUCKET = "s3://kubeflow"
NO_RETRY = {"limit": 0}


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    server = Server()
    keys = {"aws_access_key_id": "id", "aws_secret_access_key": "secret"}
    boto3.client("s3", endpoint_url=server.url, region_name="us-east-1", **keys).create_bucket(Bucket="kubeflow")
    yield server
    server.close()


@pytest.fixture
def bucket(server: Server, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """Return the URL of an empty store in a bucket; the environment says how it is reached."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "id")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    return f"{BUCKET}/{wire.sha256(request.node.name.encode())[:12]}"


def resolve(store: str, **document: Any) -> dict[str, Any]:
    text = json.dumps({"version": 1, "name": "demo", "store": store, "code": None, "retry": NO_RETRY, **document})
    return load(Source(text.encode(), "test", "/"), environ={})[0]


# -- what is rendered, run --------------------------------------------------------------------------------------------


def execute(
    config: dict[str, Any], folder: Path, run_id: str = "r", marked: list[str] | None = None, **parameters: Any
) -> tuple[int, str, dict[str, dict[str, Any]]]:
    """Ship a config and run what is rendered of it; return the exit status, what kfp printed, and the last records."""
    store = open_store(config["store"])
    shipment = ship(config, str(folder))
    upload(shipment, store)
    ended = kfp_local.run(OrchestratorKubeFlowBackend(parameters=marked).render(shipment.config, run_id), folder, **parameters)
    return ended.returncode, ended.stdout, records.results(store, run_id)


@pytest.mark.engine
@pytest.mark.xdist_group("image")
@pytest.mark.usefixtures("cpu_image")
class TestByKfpItself:
    def test_the_example_gives_the_artifacts_of_a_local_run(self, tmp_path: Path, bucket: str) -> None:
        # Inputs don't ship: the table is in the bucket for one, and in the checkout for the other.
        open_store(bucket).upload("data/penguins.csv", str(EXAMPLE / "data" / "penguins.csv"))
        text = (EXAMPLE / "pipeline.yaml").read_bytes()
        overrides = [f"store={bucket}", f"steps.ingest.inputs.source={bucket}/data/penguins.csv"]
        config, _ = load(Source(text, "pipeline.yaml", str(EXAMPLE)), overrides=overrides, environ={})
        code, printed, remote_ones = execute(config, tmp_path)
        assert code == 0, printed
        shutil.copytree(EXAMPLE, tmp_path / "local", ignore=shutil.ignore_patterns("runs", "__pycache__"))
        path = str(tmp_path / "local" / "pipeline.yaml")
        ended = helpers.run("run", "--config", path, "--run-id", "r", cwd=tmp_path, timeout=120)
        assert ended.code == 0, ended.errors
        local_ones = records.results(open_store(str(tmp_path / "local" / "runs")), "r")
        assert digests(remote_ones) == digests(local_ones)
        assert set(digests(remote_ones)) == {"ingest", "check", "clean", "train", "evaluate"}
        assert all(record["platform"]["attempt"] for record in remote_ones.values())

    def test_a_failing_step_fails_the_pipeline_and_is_not_repeated(self, tmp_path: Path, bucket: str) -> None:
        retry = {"limit": 2, "on": ["infra"], "backoff": 0}
        steps = {"bad": {"run": ["sh", "-c", "exit 7"], "retry": retry}, "never": {"run": ["true"], "after": ["bad"]}}
        code, printed, found = execute(resolve(bucket, steps=steps), tmp_path)
        assert code != 0
        assert list(found) == ["bad"] and (found["bad"]["class"], found["bad"]["exit_code"]) == ("user", 7)
        # kfp repeats whatever fails: the supervisor ends the repetitions at once, with the record that there is.
        assert found["bad"]["attempt"] == 1
        assert printed.count('"attempt":1,"class":"user","exit_code":7') == 3

    def test_a_class_that_retry_names_is_repeated(self, tmp_path: Path, bucket: str) -> None:
        retry = {"limit": 2, "on": ["user"], "backoff": 0}
        step = {"run": ["sh", "-c", '[ "$ZEN_ATTEMPT" = 2 ]'], "retry": retry}
        code, printed, found = execute(resolve(bucket, steps={"flaky": step}), tmp_path)
        assert code == 0, printed
        assert (found["flaky"]["attempt"], found["flaky"]["class"]) == (2, "success")

    def test_another_submission_of_a_failed_run_tries_again(self, tmp_path: Path, bucket: str) -> None:
        step = {"run": ["sh", "-c", '[ "$ZEN_ATTEMPT" = 2 ]'], "retry": {"limit": 1, "on": ["infra"], "backoff": 0}}
        config = resolve(bucket, steps={"flaky": step})
        assert execute(config, tmp_path)[0] != 0
        code, printed, found = execute(config, tmp_path)
        assert (code, found["flaky"]["attempt"]) == (0, 2), printed

    def test_parameters_reach_the_step_in_their_types(self, tmp_path: Path, bucket: str) -> None:
        args = {"n": 3, "rate": 0.5, "text": "a: b", "on": True, "sizes": ["x"], "more": {"k": "v"}, "rest": 1}
        show = {"run": ["sh", "-c", 'printf %s "$1" > "$ZEN_VALUES"', "sh", json.dumps({n: f"{{args.{n}}}" for n in args})]}
        show["run"][4] = "{" + ",".join(f'"{name}":{{args.{name}}}' for name in args if name != "text") + "}"
        text = {"run": ["sh", "-c", 'printf %s "$1" > "$ZEN_OUTPUT_X"', "sh", "{args.text}"], "outputs": ["x"]}
        config = resolve(bucket, steps={"show": {**show, "args": args}, "text": {**text, "args": args}})
        marked = [f"{step}.{name}" for step in ("show", "text") for name in args if name != "rest"]
        awkward = "007: 'x' \"y\" {inputs.z} \\ é"
        given = {"show_n": 5, "show_rate": 1.0, "show_on": False, "show_sizes": ["y", "z"], "show_more": {"w": "u"}}
        code, printed, found = execute(config, tmp_path, "r", marked, **given, text_text=awkward)
        assert code == 0, printed
        values = {"n": 5, "rate": 1.0, "on": False, "sizes": ["y", "z"], "more": {"w": "u"}, "rest": 1}
        assert found["show"]["values"] == values and type(found["show"]["values"]["rate"]) is float
        assert open_store(bucket).get(found["text"]["outputs"]["x"]["key"]) == awkward.encode()
        # The config that was shipped is the one that the records name.
        assert {record["config"] for record in found.values()} == {wire.sha256(wire.dumps({**config, "base": "/"}).encode())}

    def test_a_rendered_pipeline_runs_under_kubeflows_own_id(self, tmp_path: Path, bucket: str) -> None:
        config = resolve(bucket, steps={"a": {"run": ["true"]}, "b": {"run": ["true"], "after": ["a"]}})
        documents = OrchestratorKubeFlowBackend().render(config)
        for _ in range(2):
            assert kfp_local.run(documents, tmp_path).returncode == 0
        runs = records.runs(open_store(bucket))
        assert len(runs) == 2
        assert all(set(records.results(open_store(bucket), run)) == {"a", "b"} for run in runs)

    def test_the_manifest_of_the_manual_runs(self, tmp_path: Path, bucket: str) -> None:
        import yaml

        text = (helpers.ROOT / "docs" / "kubeflow.md").read_text()
        (manifest,) = (part.partition("```")[0] for part in text.split("```yaml\n") if part.startswith("pipelineInfo"))
        ended = kfp_local.run(list(yaml.safe_load_all(manifest.replace("s3://my-bucket/runs", bucket))), tmp_path)
        assert ended.returncode == 0, ended.stdout
        (run,) = records.runs(open_store(bucket))
        assert b"".join(log_chunks(open_store(bucket), run, "hello")) == b"hello\n"

    def test_a_large_config_runs_by_reference(self, tmp_path: Path, bucket: str) -> None:
        noise = "".join(wire.sha256(str(number).encode()) for number in range(80_000))  # 5 MB that don't pack
        steps = {"a": {"run": ["sh", "-c", "exit 0"], "args": {"blob": noise}}}
        code, printed, found = execute(resolve(bucket, steps=steps), tmp_path)
        assert code == 0, printed
        assert found["a"]["class"] == "success"

    def test_a_fan_out_is_a_task_an_item(self, tmp_path: Path, bucket: str) -> None:
        steps = {
            "part": {"run": ["sh", "-c", "echo $1 > $ZEN_OUTPUT_X", "sh", "{item}"], "foreach": ["one", "two"], "outputs": ["x"]},
            "all": {
                "run": ["sh", "-c", "cat $ZEN_INPUT_PARTS/* > $ZEN_OUTPUT_Y"],
                "inputs": {"parts": "part.x"},
                "outputs": ["y"],
            },
        }
        code, printed, found = execute(resolve(bucket, steps=steps), tmp_path)
        assert code == 0, printed
        assert open_store(bucket).get(found["all"]["outputs"]["y"]["key"]) == b"one\ntwo\n"

    def test_an_image_that_does_not_exist_fails_the_pipeline(self, tmp_path: Path, bucket: str) -> None:
        steps = {"a": {"run": ["true"], "image": "127.0.0.1:1/no/such:image"}}
        code, _, found = execute(resolve(bucket, steps=steps), tmp_path)
        assert code != 0 and found == {}


def digests(found: dict[str, dict[str, Any]]) -> dict[str, dict[str, str]]:
    return {
        step: {name: artifact["digest"] for name, artifact in record["outputs"].items()} | {"class": record["class"]}
        for step, record in found.items()
    }


# -- submissions ------------------------------------------------------------------------------------------------------


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[KfpApi]:
    monkeypatch.setattr(calls, "sleep", lambda seconds: None)
    monkeypatch.setenv("HOME", str(tmp_path))  # kfp reads ~/.config/kfp/context.json
    # On Kubeflow a store has to be a bucket; to the API it makes no difference.
    monkeypatch.setattr(OrchestratorKubeFlowBackend, "mounts", lambda self: [str(tmp_path)])
    monkeypatch.setenv("KFP_TOKEN", "s3cret")
    with KfpApi("s3cret") as api:
        yield api


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "store"))


def make(api: KfpApi, **args: Any) -> OrchestratorKubeFlowBackend:
    return OrchestratorKubeFlowBackend(**{"host": api.url, "token": {"env": "KFP_TOKEN"}, "request_timeout": 5.0, **args})


def two_steps(store: Store, **document: Any) -> dict[str, Any]:
    return resolve(store.url, **{"steps": {"a": {"run": ["true"]}, "b_c": {"run": ["true"], "after": ["a"]}}, **document})


def test_a_run_is_submitted_once(api: KfpApi, store: Store) -> None:
    backend = make(api, experiment="trials", service_account="runner", image_pull_policy="Always")
    config = two_steps(store)
    handle = backend.submit(config, "r", store)
    assert backend.submit(config, "r", store)["state"] == handle["state"]
    (run,) = api.runs.values()
    assert (run["display_name"], run["service_account"]) == ("r", "runner")
    assert api.experiments[run["experiment_id"]]["display_name"] == "trials"
    sent = run["pipeline_spec"]
    assert [sent["pipeline_spec"], sent["platform_spec"]] == backend.render({**config, "base": "/"}, "r")
    assert handle["state"]["run"] == run["run_id"]
    assert json.loads(store.get("runs/r/handle.json") or b"")["state"]["run"] == run["run_id"]


def test_an_answer_that_was_lost_gives_one_run(api: KfpApi, store: Store) -> None:
    api.tear = True
    handle = make(api).submit(two_steps(store), "r", store)
    assert list(api.runs) == [handle["state"]["run"]]
    assert api.calls["POST runs"] == 1


def test_a_submission_cut_short_is_completed_not_doubled(api: KfpApi, store: Store) -> None:
    backend, config = make(api), two_steps(store)
    documents = backend.render(config, "r")
    for dies_at in (1, 2):
        saved: list[dict[str, Any]] = []
        state: dict[str, Any] = {"round": 1}

        def save(dies_at: int = dies_at, saved: list[dict[str, Any]] = saved, state: dict[str, Any] = state) -> None:
            if len(saved) + 1 == dies_at:
                raise KeyboardInterrupt
            saved.append(json.loads(json.dumps(state)))

        with pytest.raises(KeyboardInterrupt):
            backend._submit(config, documents, "r", store, state, save)
        again = saved[-1] if saved else {"round": 1}
        backend._submit(config, documents, "r", store, again, lambda: None)
        assert list(api.runs) == [again["run"]]


def test_a_failed_run_submitted_again_is_another_run_there(api: KfpApi, store: Store) -> None:
    backend, config = make(api), two_steps(store)
    first = backend.submit(config, "r", store)
    api.set_states(first["state"]["run"], "FAILED", a="FAILED")
    second = backend.submit(config, "r", store)
    assert second["state"]["run"] != first["state"]["run"]
    assert [run["display_name"] for run in api.runs.values()] == ["r", "r (2)"]


def test_the_same_run_id_in_another_store_is_another_run(api: KfpApi, store: Store, tmp_path: Path) -> None:
    other = open_store(str(tmp_path / "other"))
    make(api).submit(two_steps(store), "r", store)
    make(api).submit(two_steps(other), "r", other)
    assert len(api.runs) == 2


def test_status_says_what_the_server_says(api: KfpApi, store: Store) -> None:
    backend = make(api, namespace="ml")
    handle = backend.submit(two_steps(store), "r", store)
    run, key = handle["state"]["run"], next(key for key, step in handle["state"]["tasks"].items() if step == "b_c")
    assert backend.status(handle)["steps"] == {"a": "pending", "b_c": "pending"}
    api.calls.clear()
    # A task begins with a pod of Kubeflow's own; only the one named executor is the step's.
    api.set_states(run, "RUNNING", a="RUNNING")
    assert backend.status(handle)["steps"]["a"] == "running"
    assert api.calls == {"GET runs/ID": 1}
    for detail in api.runs[run]["run_details"]["task_details"]:
        if detail["display_name"] == "executor":
            detail["state"] = "PENDING"
    waiting = backend.status(handle)
    assert waiting["steps"] == {"a": "pending", "b_c": "pending"}
    assert backend._status(handle["state"])["a"].message.endswith(f"`kubectl -n ml describe pods -l pipeline/runid={run}` does")
    api.set_states(run, "FAILED", a="FAILED")
    status = backend.status(handle)
    assert (status["state"], status["class"], status["steps"]) == ("failed", "infra", {"a": "failed", "b_c": "skipped"})
    api.set_states(run, "SUCCEEDED", a="SUCCEEDED", **{key.replace("-", "_"): "SUCCEEDED"})
    status = backend.status(handle)
    assert status["class"] == "config" and "does not run zen-runner" in status["message"]


def test_a_status_that_cannot_be_read_is_unknown(api: KfpApi, store: Store) -> None:
    backend = make(api)
    handle = backend.submit(two_steps(store), "r", store)
    api.faults = [503] * 50
    status = backend.status(handle)
    assert (status["state"], set(status["steps"].values())) == ("unknown", {"unknown"})
    assert "503, the server is not well" in status["message"]


def test_a_server_that_stumbles_is_asked_again(api: KfpApi, store: Store) -> None:
    api.faults = [503, 429]
    handle = make(api).submit(two_steps(store), "r", store)
    assert list(api.runs) == [handle["state"]["run"]]


def test_cancel_is_said_once_and_to_what_runs(api: KfpApi, store: Store) -> None:
    backend = make(api)
    handle = backend.submit(two_steps(store), "r", store)
    backend.cancel(handle)
    backend.cancel(handle)
    assert api.calls["POST runs/ID:terminate"] == 1
    assert api.runs[handle["state"]["run"]]["state"] == "CANCELING"
    api.set_states(handle["state"]["run"], "CANCELED", a="CANCELED")
    status = backend.status(handle)
    assert (status["state"], status["class"], status["exit_code"]) == ("cancelled", "terminated", 143)
    assert status["steps"]["b_c"] == "skipped"


def test_a_run_that_does_not_start_is_cancelled_and_says_where_to_look(
    api: KfpApi, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OrchestratorKubeFlowBackend, "poll_first", 0.01)
    api.terminated = "CANCELED"
    backend = make(api, startup_timeout=0.2)
    handle = backend.submit(two_steps(store), "r", store)
    api.set_states(handle["state"]["run"], "RUNNING", a="PENDING")
    summary = backend.wait(handle)
    assert (summary["class"], summary["exit_code"]) == ("infra", 69)
    assert "'a' did not start within 0.2 s" in summary["message"] and "kubectl describe pods" in summary["message"]
    assert api.runs[handle["state"]["run"]]["state"] == "CANCELED"


def test_cancel_finds_a_run_whose_submission_was_cut_short(api: KfpApi, store: Store) -> None:
    backend, config = make(api), two_steps(store)
    saved: list[dict[str, Any]] = []
    state: dict[str, Any] = {"round": 1}
    backend._submit(config, backend.render(config, "r"), "r", store, state, lambda: saved.append(dict(state)))
    assert "run" not in saved[0]
    backend._cancel(saved[0])
    assert [run["state"] for run in api.runs.values()] == ["CANCELING"]
    backend._cancel({"round": 1})


def test_a_token_can_be_in_a_file(api: KfpApi, store: Store, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("s3cret\n")
    make(api, token={"file": str(tmp_path / "token")}).submit(two_steps(store), "r", store)
    assert len(api.runs) == 1


def test_nothing_is_printed(api: KfpApi, store: Store, capfd: pytest.CaptureFixture[str]) -> None:
    make(api).submit(two_steps(store), "r", store)
    assert capfd.readouterr() == ("", "")


def by_token(api: KfpApi) -> dict[str, Any]:
    return {"token": None}


def by_wrong_token(api: KfpApi) -> dict[str, Any]:
    api.token = "another"
    return {}


def by_unset_token(api: KfpApi) -> dict[str, Any]:
    return {"token": {"env": "NO_SUCH_VARIABLE"}}


def by_lost_token(api: KfpApi) -> dict[str, Any]:
    return {"token": {"file": "/no/such/file"}}


def by_port(api: KfpApi) -> dict[str, Any]:
    return {"host": "http://127.0.0.1:1"}


def by_name(api: KfpApi) -> dict[str, Any]:
    return {"host": "http://no-such-host.invalid"}


def by_path(api: KfpApi) -> dict[str, Any]:
    return {"host": f"{api.url}/elsewhere"}


@pytest.mark.parametrize(
    ("wrong", "error", "words"),
    [
        (by_token, ConfigError, "401, Request header error: .*; set args.token"),
        (by_wrong_token, ConfigError, "401, .*; check args.token"),
        (by_unset_token, ConfigError, r"args.token: \$NO_SUCH_VARIABLE is not set here"),
        (by_lost_token, ConfigError, "args.token: /no/such/file can't be read"),
        (by_port, InfraError, "http://127.0.0.1:1: .*Connection refused.*check args.host"),
        (by_name, InfraError, "no-such-host.invalid: .*check args.host"),
        (by_path, ConfigError, "check args.host"),
    ],
)
def test_bad_input_is_one_clear_error_and_leaves_nothing(
    api: KfpApi,
    store: Store,
    wrong: Callable[[KfpApi], dict[str, Any]],
    error: type[Exception],
    words: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    backend = make(api, **wrong(api))
    with pytest.raises(error, match=words) as raised:
        backend.submit(two_steps(store), "r", store)
    assert "\n" not in str(raised.value) and "s3cret" not in str(raised.value)
    assert capfd.readouterr() == ("", "")
    assert api.runs == {} and not store.exists("runs/r/handle.json")


def test_what_the_server_refuses_leaves_nothing(api: KfpApi, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(KfpApi, "_refuse", lambda self, run: "too large for the workflow")
    with pytest.raises(ConfigError, match="create run 'r': 400, too large for the workflow"):
        make(api).submit(two_steps(store), "r", store)
    assert not store.exists("runs/r/handle.json")


def test_a_page_that_is_not_the_api_is_a_config_error(api: KfpApi, store: Store) -> None:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.do_GET()

        def do_GET(self) -> None:
            body = b"<html>Welcome</html>"
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    page = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=page.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    try:
        with pytest.raises(ConfigError, match=r"not that of Kubeflow Pipelines 2; check args.host"):
            make(api, host=f"http://127.0.0.1:{page.server_port}").submit(two_steps(store), "r", store)
    finally:
        page.shutdown()
        page.server_close()


@pytest.mark.parametrize("reference", [{"env": "API_KEY"}, {"aws": "arn:aws:secretsmanager:eu-west-1:1:secret:k"}])
def test_a_secret_that_cannot_travel_is_a_config_error(api: KfpApi, store: Store, reference: dict[str, str]) -> None:
    config = two_steps(store, secrets={"API_KEY": reference})
    with pytest.raises(ConfigError, match=r"secrets.API_KEY: .*write \{kubernetes: SECRET/KEY\}"):
        make(api).submit(config, "r", store)
    assert api.runs == {} and not store.exists("runs/r/handle.json")


def test_a_local_store_is_a_config_error(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "store"))
    with pytest.raises(ConfigError, match=r"store: .* is a directory of this machine"):
        OrchestratorKubeFlowBackend(host="http://127.0.0.1:1").submit(two_steps(store), "r", store)


def test_without_kfp_it_says_what_to_install(api: KfpApi, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "kfp", None)
    with pytest.raises(PlacementError, match=r"pip install 'zen-runner\[kubeflow\]'"):
        make(api).submit(two_steps(store), "r", store)


def test_a_dry_run_needs_neither_network_nor_kfp(tmp_path: Path) -> None:
    block = {"type": "orchestrator", "source": "kubeflow", "args": {"host": "http://127.0.0.1:1"}}
    path = helpers.config(tmp_path, steps={"a": {"run": ["true"]}}, store="s3://bucket/runs", code=None, backend=block)
    (tmp_path / "kfp.py").write_text("raise SystemExit('kfp was imported')")
    arguments = ("submit", "--config", str(path), "--dry-run", "--output", "json")
    ended = helpers.run(*arguments, cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert ended.code == 0, ended.errors
    documents = json.loads(ended.stdout)
    assert documents[0]["root"]["dag"]["tasks"].keys() == {"a"}
