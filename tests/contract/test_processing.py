"""The processing backends keep the contract that every backend keeps."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st

from backends.errors import ConfigError
from backends.processing.direct import RUNNER, ProcessingDirectBackend
from backends.processing.spark import ProcessingSparkBackend, masters
from tests.contract.suite import BackendContract

seconds = st.floats(0.5, 1e6, allow_nan=False)


class TestDirect(BackendContract):
    cls = ProcessingDirectBackend
    source = "direct"
    arguments = st.fixed_dictionaries(
        {},
        optional={
            "direct_num_workers": st.none() | st.integers(0, 64),
            "direct_running_mode": st.none() | st.sampled_from(["in_memory", "multi_threading", "multi_processing"]),
            "options": st.none() | st.dictionaries(st.sampled_from(["temp_location", "streaming"]), st.text() | st.booleans()),
        },
    )

    def test_its_options_are_flags_of_beams(self) -> None:
        options: dict[str, str | int | float | bool | list[str] | None] = {"temp_location": "/t", "streaming": True, "off": False}
        options |= {"unset": None, "experiments": ["a", "b"], "n": 3}
        backend = ProcessingDirectBackend(direct_num_workers=2, direct_running_mode="multi_threading", options=options)
        assert backend.get_beam_args("name", "/root") == [
            "--direct_num_workers=2",
            "--direct_running_mode=multi_threading",
            "--experiments=a",
            "--experiments=b",
            "--n=3",
            f"--runner={RUNNER}",
            "--streaming",
            "--temp_location=/t",
        ]

    def test_another_runner_can_be_named(self) -> None:
        assert ProcessingDirectBackend(options={"runner": "PrismRunner"}).get_beam_args("n", "r") == ["--runner=PrismRunner"]

    @pytest.mark.parametrize(
        ("args", "said"),
        [
            ({"direct_num_workers": -1}, "args.direct_num_workers: must be 0"),
            ({"options": {"direct_num_workers": 1}}, "write it beside `options`"),
            ({"options": {"--temp-location": "/t"}}, "is no option's name; write temp_location"),
            ({"direct_running_mode": "fast"}, "args.direct_running_mode"),
        ],
    )
    def test_what_is_wrong_is_told(self, args: dict[str, object], said: str) -> None:
        with pytest.raises(ConfigError, match=said):
            ProcessingDirectBackend(**args)  # type: ignore[arg-type]


class TestSpark(BackendContract):
    cls = ProcessingSparkBackend
    source = "spark"
    arguments = st.fixed_dictionaries(
        {},
        optional={
            "master": st.sampled_from(["local", "local[*]", "local[2,3]", "spark://a:7077,b:7077", "k8s://https://c:443"]),
            "conf": st.none() | st.dictionaries(st.just("spark.sql.shuffle.partitions"), st.integers(1, 9) | st.text()),
            "packages": st.none() | st.lists(st.text()),
            "py_files": st.none() | st.lists(st.sampled_from(["a.py", "lib/b.zip"])),
            "event_log": st.booleans(),
            "executors": st.none() | st.integers(1, 100),
            "executor_cores": st.none() | st.integers(1, 100),
            "executor_memory": st.none() | st.just("2g"),
            "namespace": st.text(),
            "service_account": st.none() | st.text(),
            "startup_timeout": seconds,
            "idle_timeout": st.none() | seconds,
        },
    )

    def test_local_properties(self) -> None:
        assert ProcessingSparkBackend(conf={"spark.ui.enabled": True, "spark.x": 3}).get_spark_conf("n", "i") == {
            "spark.app.name": "n",
            "spark.hadoop.fs.s3.impl": "org.apache.hadoop.fs.s3a.S3AFileSystem",
            "spark.submit.deployMode": "client",
            "spark.ui.enabled": "true",
            "spark.ui.showConsoleProgress": "false",
            "spark.x": "3",
        }

    def test_the_drivers_heap_follows_the_steps_memory(self) -> None:
        assert ProcessingSparkBackend().get_spark_conf("n", "i", 10 << 30)["spark.driver.memory"] == "6144m"
        own = ProcessingSparkBackend(conf={"spark.driver.memory": "1g"})
        assert own.get_spark_conf("n", "i", 10 << 30)["spark.driver.memory"] == "1g"

    def test_executors_of_a_standalone_cluster_are_cores(self) -> None:
        conf = ProcessingSparkBackend(master="spark://m:7077", executors=3, executor_cores=2).get_spark_conf("n", "i")
        assert (conf["spark.cores.max"], conf["spark.executor.cores"]) == ("6", "2")

    def test_kubernetes_properties(self) -> None:
        """Spark 4.1, "Running Spark on Kubernetes": the names."""
        backend = ProcessingSparkBackend(
            master="k8s://https://c:6443",
            namespace="ml",
            service_account="spark",
            executors=4,
            executor_memory="2g",
            packages=["a:b:1", "c:d:2"],
        )
        conf = backend.get_spark_conf("Penguins-clean-Run_1", "registry.example/zen-runner:spark")
        assert {name: value for name, value in conf.items() if "kubernetes" in name or "executor" in name or "jars" in name} == {
            "spark.executor.instances": "4",
            "spark.executor.memory": "2g",
            "spark.jars.packages": "a:b:1,c:d:2",
            "spark.kubernetes.authenticate.driver.serviceAccountName": "spark",
            "spark.kubernetes.authenticate.executor.serviceAccountName": "spark",
            "spark.kubernetes.container.image": "registry.example/zen-runner:spark",
            "spark.kubernetes.executor.podNamePrefix": "penguins-clean-run-1",
            "spark.kubernetes.namespace": "ml",
        }

    def test_the_names_of_pods_tell_runs_apart(self) -> None:
        backend = ProcessingSparkBackend(master="k8s://https://c:6443")
        confs = [backend.get_spark_conf(f"{'long-' * 20}é-{run}", "i") for run in ("a1", "b2")]
        names = {conf["spark.kubernetes.executor.podNamePrefix"] for conf in confs}
        assert len(names) == 2 and all(len(name) <= 47 and name.isascii() and name[0] != "-" for name in names)

    @pytest.mark.parametrize(
        ("master", "found"),
        [
            ("local[*]", []),
            ("spark://a:7077,b:7078", [("a", 7077), ("b", 7078)]),
            ("k8s://https://c", [("c", 443)]),
            ("k8s://c:6443", [("c", 6443)]),
        ],
    )
    def test_where_a_master_is(self, master: str, found: list[tuple[str, int]]) -> None:
        assert masters(master) == found

    @pytest.mark.parametrize(
        ("args", "said"),
        [
            *(
                ({"master": master}, "is not a Spark master")
                for master in ("spark://a", "spark://:7077", "yarn", "local[0]", "local[x]")
            ),
            *(
                ({"master": master}, "is not a Spark master")
                for master in ("k8s://ftp://a", "spark://a:0", "spark://a:70000", "")
            ),
            ({"conf": {"spark.master": "local"}}, "set by zen-runner"),
            ({"conf": {"executor.memory": "1g"}}, "write spark.executor.memory"),
            ({"executors": 0}, "args.executors: must be at least 1"),
            ({"startup_timeout": 0.0}, "args.startup_timeout: must be more than 0"),
            ({"idle_timeout": -1.0}, "args.idle_timeout: must be more than 0"),
            ({"py_files": ["../x.py"]}, r"args.py_files\[0\]: '../x.py' is not below"),
        ],
    )
    def test_what_is_wrong_is_told(self, args: dict[str, object], said: str) -> None:
        with pytest.raises(ConfigError, match=said):
            ProcessingSparkBackend(**args)  # type: ignore[arg-type]
