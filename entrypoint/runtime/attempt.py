"""One attempt of one step, from its claim to its last words; alone in a container, or beside others of a local run."""

from __future__ import annotations

import errno
import os
from time import monotonic

from backends import outcome, wire
from backends.config import placeholders
from backends.errors import ConfigError, InfraError, InputError, PlacementError, Terminated, UserError, ZenRunnerError
from backends.process import utc
from backends.store import artifacts, claims, digests, keys, records
from backends.store.cache import cache_get, cache_key, cache_put
from entrypoint.runtime import cgroup
from entrypoint.runtime.identity import ARG, identity
from entrypoint.runtime.logs import Log, Uploader
from entrypoint.runtime.proc import find_program
from entrypoint.runtime.supervise import Process, Supervisor

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Callable, Mapping
    from typing import Any

    from backends.store.base import Store
    from backends.store.digests import Artifact
    from backends.store.records import Record
    from entrypoint.runtime.gpu.claim import Claim

    Config = dict[str, Any]
else:
    import _signal as signal


ARGUMENT = 131_000  # bytes a single argument may have on Linux (MAX_ARG_STRLEN is 131,072), less a little
VALUES = 1 << 20  # bytes of values that a step may return
SHIM = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "shims", "call.py")


class Run:
    """What all attempts of one run in this process share.

    Args:
        config: the resolved config.
        sha: its sha256.
        run: the run's id.
        store: the artifact store.
        environ: this process's environment.
    """

    def __init__(self, config: Config, sha: str, run: str, store: Store, environ: Mapping[str, str]) -> None:
        self.config = config
        self.sha = sha
        self.run = run
        self.store = store
        self.environ = environ
        self.cwd = config["code"] or os.getcwd()
        # A replay takes its inputs from the run it repeats.
        self.inputs_run = environ.get("ZEN_RUNNER_INPUTS_RUN") or run
        self.python = environ.get("ZEN_RUNNER_PYTHON") or "python3"
        self.platform = identity(environ)[1]
        self.group = cgroup.memory()
        self.gpus: set[str] = set()  # that running steps have, by UUID
        self.code_digest: str | None = None

    def enter(self) -> None:
        """Make the code's directory the working directory: every step of a run starts there."""
        if self.cwd.startswith("sha256:"):
            from backends.shipping import shipment

            self.cwd = shipment.receive(self.cwd, self.store, self.environ)
        try:
            os.chdir(self.cwd)
        except OSError as error:
            raise ConfigError(
                f"code: the directory {self.cwd} can't be entered ({error.strerror}); mount it there, "
                "or write `code: null` if the code is in the image"
            ) from error


class StepAttempt:
    """One attempt: ``start`` it, let the supervisor watch it, ``finish`` it.

    Args:
        run: what it shares with others.
        name: the step.
        supervisor: who watches the process.
        output: gets (stream, bytes) beside the log.
        memory: bytes that this attempt may use, enforced where a control group can be made; None for what the container has.
        alone: this is the only step in this control group, so that its out-of-memory counter speaks of this step.
    """

    def __init__(
        self,
        run: Run,
        name: str,
        supervisor: Supervisor,
        output: Callable[[int, bytes], None],
        memory: int | None = None,
        alone: bool = True,
    ) -> None:
        self.run = run
        self.name = name
        self.step: dict[str, Any] = run.config["steps"][name]
        self.process: Process | None = None
        self._supervisor = supervisor
        self._output = output
        self._memory = memory
        self._alone = alone
        self._attempt: claims.Attempt | None = None
        self._log: Log | None = None
        self._uploader: Uploader | None = None
        self._group: cgroup.Memory | None = None
        self._gpus: Claim | None = None
        self._oom_before = 0
        self._fenced = False
        self._scratch = ""
        self._started = utc()
        self._began = monotonic()
        self._inputs: dict[str, str] = {}
        self._paths: dict[str, Any] = {}
        self._outputs: dict[str, str] = {}
        self._cache_key: str | None = None
        self._parents: dict[str, Record] = {}
        self._engine: str | None = None  # that the step runs on: beam or spark

    def start(self) -> Record | None:
        """Claim the step and start its process; return a record instead where it is over before it began."""
        try:
            self._claim()
        except claims.AlreadyDone as done:
            return done.record
        except ZenRunnerError as error:
            return self._record(error.outcome_class, str(error), error.exit_code)
        try:
            cached = self._prepare()
            if cached is not None:
                return self._close(cached)
            self._launch()
        except ZenRunnerError as error:
            return self._close(self._record(error.outcome_class, str(error), error.exit_code))
        except OSError as error:
            return self._close(self._record(outcome.INFRA, f"could not prepare the step: {error}"))
        return None

    def finish(self) -> Record:
        """Publish what the ended process left, and return its record."""
        try:
            record = self._judge()
        except ZenRunnerError as error:
            record = self._record(error.outcome_class, str(error), error.exit_code)
        except OSError as error:
            record = self._record(outcome.INFRA, f"could not publish the step's outputs: {error}")
        return self._close(record)

    def stop(self, reason: str = "terminated") -> None:
        """Ask the process to end; its grace period begins."""
        if self.process is not None:
            self._supervisor.stop(self.process, reason)

    def refuse(self, reason: str) -> Record:
        """Return the record of an attempt that was stopped before it began."""
        return self._record(outcome.TERMINATED, reason)

    # -- before ---------------------------------------------------------------------------------------------------------------

    def _claim(self) -> None:
        run = self.run
        self._refuse_retry()
        owner: dict[str, Any] = {"config": run.sha, "platform": run.platform}
        if run.group is not None:
            owner["cgroup"] = run.group.path
            owner["oom_kill"] = run.group.oom_kills()
        if run.store.root is None:
            import tempfile

            self._scratch = tempfile.mkdtemp(prefix="zen-runner-")
            owner["scratch"] = self._scratch
        self._attempt = claims.claim(run.store, run.run, self.name, owner)
        if run.store.root is not None:
            self._scratch = os.path.join(run.store.root, keys.scratch(*self._attempt.place))
            self._log = Log(os.path.join(run.store.root, keys.logs(*self._attempt.place)))
        else:
            self._log = Log(os.path.join(self._scratch, "log"))
            self._uploader = Uploader(run.store, self._attempt, self._log, self._beat, records.HEARTBEAT_EVERY)
        self._supervisor.beat(records.HEARTBEAT_EVERY, self._tick)

    def _refuse_retry(self) -> None:
        """End as the last attempt did where the platform repeats any that failed, and this one should not be repeated.

        Both have the platform's same name then; another submission, or a person's retry, gives another or starts anew.
        """
        environ = self.run.environ
        if environ.get("ZEN_RUNNER_RETRY") != "any" or environ.get("KFP_RETRY_INDEX") == "0":
            return
        numbers = records.attempts(self.run.store, self.run.run, self.name)
        last = records.result(self.run.store, self.run.run, self.name, numbers[-1]) if numbers else None
        if last is None or last["class"] == outcome.SUCCESS or last.get("platform") != self.run.platform:
            return
        if not outcome.is_retried(last["class"], last["exit_code"], self.step["retry"]["on"]):
            raise claims.AlreadyDone(last)

    def _prepare(self) -> Record | None:
        """Check what the step needs, fetch its inputs, look into the cache; return a record on a hit."""
        assert self._attempt is not None
        step = self.step
        self._check_placement()
        if self._supervisor.stopped_by is not None:
            raise Terminated("stopped before the step began")
        for folder in (self._scratch, os.path.join(self._scratch, "out")):
            try:
                os.mkdir(folder, 0o755)
            except FileExistsError:
                pass
        self._parents = records.good_results(self.run.store, self.run.inputs_run, step["parents"])
        for name, source in step["inputs"].items():
            self._paths[name] = self._fetch(name, source)
        for name in step["outputs"]:
            if step["as"] == "url":
                self._outputs[name] = self.run.store.url_of(keys.out(*self._attempt.place, name))
                if self.run.store.root is not None:
                    os.makedirs(os.path.dirname(self._outputs[name]), exist_ok=True)
            else:
                self._outputs[name] = os.path.join(self._scratch, "out", name)
        for parent in step["parents"]:
            self._parent(parent)
        if step["cache"]:
            return self._look_into_cache()
        return None

    def _check_placement(self) -> None:
        wanted = self.step["resources"]
        if wanted["memory"]:
            limit = self.run.group.limit() if self.run.group is not None else None
            here = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
            if limit is not None:
                here = min(here, limit)
            if wanted["memory"] > here:
                raise PlacementError(
                    f"steps.{self.name}.resources.memory asks for {wanted['memory']} bytes, and there are {here} here"
                )
        if wanted["gpu"]:
            from entrypoint.runtime.gpu import claim

            self._gpus = claim.Claim(self.name, wanted, *visible_gpus(self.run, self.name), self.run.environ, self.run.gpus)

    def _parent(self, name: str) -> Record:
        found = self._parents.get(name)
        if found is None:
            found = records.good_result(self.run.store, self.run.inputs_run, name)
            if found is None:
                raise InputError(
                    f"steps.{self.name} needs step {name!r}, which has no good result in run {self.run.inputs_run} "
                    f"of {self.run.store.url}; run that step first, or give its run's id as $ZEN_RUNNER_RUN_ID"
                )
            self._parents[name] = found
        return found

    def _fetch(self, name: str, source: dict[str, Any]) -> Any:
        """Return where the step finds an input: a path, or for ``as: url`` a URL; of what is gathered, a list of URLs."""
        run = self.run
        if "gather" in source:
            gathered = [self._artifact(name, part) for part in source["gather"]]
            self._inputs[name] = digests.gathered_digest(gathered)
            if self.step["as"] == "url":
                return [run.store.url_of(artifact["key"]) for artifact in gathered]
            return artifacts.gather(run.store, gathered, self._scratch, name)
        if "url" in source:
            if self.step["as"] == "url":
                self._inputs[name] = source["url"]
                return source["url"]
            path, self._inputs[name] = artifacts.fetch_url(source["url"], self._scratch, name)
            return path
        artifact = self._artifact(name, source)
        self._inputs[name] = artifact["digest"]
        if self.step["as"] == "url":
            return run.store.url_of(artifact["key"])
        return artifacts.fetch(run.store, artifact, self._scratch, name)

    def _artifact(self, name: str, source: dict[str, Any]) -> Artifact:
        found = self._parent(source["step"])["outputs"].get(source["output"])
        if found is None:
            raise InputError(
                f"steps.{self.name}.inputs.{name}: step {source['step']!r} published no output {source['output']!r} "
                f"in run {self.run.inputs_run}"
            )
        return found

    def _look_into_cache(self) -> Record | None:
        run, step = self.run, self.step
        if run.code_digest is None:
            from backends.shipping import archive, listing

            run.code_digest = ""
            if run.config["code"]:
                # A config that lies in the code's directory is no code: what it says of this step is in the key already.
                exclude = [*listing.configs(run.cwd), *([run.store.root] if run.store.root else [])]
                run.code_digest = archive.digest(run.cwd, exclude=exclude)
        image = run.environ.get("ZEN_RUNNER_IMAGE_DIGEST") or self._interpreter()

        def by_content(reference: tuple[str, ...]) -> Any:
            # Paths hold the run's id, so an input goes by its digest, and an output by its name.
            if reference[0] == "inputs":
                return self._inputs[reference[1]]
            return list(reference) if reference[0] == "outputs" else self._look_up(reference)

        what = {**step, "env": {**run.config["env"], **step["env"]}, "foreach": None}
        plain: Any = placeholders.substitute(what, by_content)
        plain["foreach"] = step["foreach"]  # whatever is in an item is no placeholder
        self._cache_key = cache_key(self.name, plain, self._inputs, run.code_digest, image)
        found = cache_get(run.store, self._cache_key)
        if found is None:
            return None
        record = self._record(outcome.SUCCESS, "")
        record["outputs"] = found["outputs"]
        record["values"] = found["values"]
        record["cached_from"] = {"run": found["run"], "step": found["step"], "attempt": found["attempt"]}
        return record

    def _interpreter(self) -> str:
        """Name the software a step runs on where there is no image: the user's Python, as a file and its age."""
        python = find_program(self.run.python, self.run.environ.get("PATH", os.defpath))
        state = os.stat(python)
        return f"{os.path.realpath(python)}:{state.st_size}:{state.st_mtime_ns}"

    # -- the process ----------------------------------------------------------------------------------------------------------

    def _launch(self) -> None:
        assert self._attempt is not None and self._log is not None
        step = self.step
        env = self._environment()
        block = step["backend"]
        if (block is not None and block["type"] == "processing") or not ("call" in step or "run" in step):
            argv = self._engine_argv()
        elif "call" in step:
            argv = self._shim_argv()
        else:
            argv = self._render(step["run"])
        for where, text in [*((f"run[{number}]", text) for number, text in enumerate(argv)), *env.items()]:
            if "\0" in text:
                raise ConfigError(f"steps.{self.name}: {where} holds a NUL character, which no program can be given")
        self._write_replay()
        self._group = self.run.group
        if self._memory is not None and self._group is not None:
            child = self._group.child(f"zen-runner-{os.getpid()}-{self.name}-{self._attempt.number}", self._memory)
            if child is not None:
                self._group = child
                # The shell moves itself in and becomes the program, so that not one page is charged elsewhere.
                find_program(argv[0], env.get("PATH", os.defpath))
                argv = ["/bin/sh", "-c", 'echo $$ >"$0" && exec "$@"', child.procs, *argv]
        self._oom_before = self._group.oom_kills() if self._group is not None else 0
        try:
            self.process = self._supervisor.spawn(
                argv, env, output=self._print, timeout=step["timeout"], grace=step["grace_period"]
            )
        except OSError as error:
            self._raise_unstartable(argv[0], error)
        assert self.process is not None
        if self._gpus is not None:
            self._gpus.watch(self.process)

    def _raise_unstartable(self, program: str, error: OSError) -> None:
        if isinstance(error, FileNotFoundError):
            if "run" not in self.step:
                raise PlacementError(
                    f"no Python for the step: {program!r} is not on PATH; install one or set ZEN_RUNNER_PYTHON"
                ) from error
            raise _Unstartable(127, f"{program!r} was not found on the step's PATH") from error
        if isinstance(error, PermissionError) or error.errno == errno.ENOEXEC:
            raise _Unstartable(126, f"{error.filename or program!r} is not executable") from error
        if error.errno == errno.E2BIG:
            raise ConfigError(
                f"steps.{self.name}: the command line and environment are larger than this system takes; "
                "pass large values through an input file"
            ) from error
        raise InfraError(f"could not start {program!r}: {error.strerror}") from error

    def _shim_argv(self) -> list[str]:
        step = self.step
        spec = wire.dumps(
            {
                "kind": "call",
                "target": step["call"],
                "as": step["as"],
                "paths": {**self._paths, **self._outputs},
                "args": self._values(step["args"]),
                "values": os.path.join(self._scratch, "values.json"),
                "error": os.path.join(self._scratch, "error.json"),
            }
        )
        if len(spec) > ARGUMENT:
            path = os.path.join(self._scratch, "call.json")
            with open(path, "w") as file:
                file.write(spec)
            spec = "@" + path
        return [self.run.python, SHIM, spec]

    def _engine_argv(self) -> list[str]:
        from entrypoint.runtime import processing

        assert self._attempt is not None
        run, step = self.run, self.step
        self._engine = processing.engine_of(step)
        limit = self._memory or step["resources"]["memory"]
        return processing.command(
            step,
            python=run.python,
            scratch=self._scratch,
            name=f"{run.config['name']}-{self.name}-{run.run}",
            root=run.store.url_of(keys.scratch(*self._attempt.place)),
            code=run.cwd if run.config["code"] else None,
            exclude=[run.store.root] if run.store.root else [],
            inputs=self._paths,
            outputs=self._outputs,
            args=self._values(step["args"]),
            program=self._render(step["run"]) if "run" in step else (),
            memory=limit or (run.group.limit() if run.group is not None and self._alone else None),
        )

    def _environment(self) -> dict[str, str]:
        assert self._attempt is not None
        run = self.run
        env = {name: value for name, value in run.environ.items() if not name.startswith(("ZEN_RUNNER_", "ZEN_ITEM"))}
        env.setdefault("PYTHONUNBUFFERED", "1")
        env.update({"CUDA_VISIBLE_DEVICES": ""} if self._gpus is None else self._gpus.variables())  # none asked for: none seen
        for name, value in {**run.config["env"], **self.step["env"]}.items():
            env[name] = placeholders.render(self._values(value))
        for name, reference in run.config["secrets"].items():
            env[name] = self._secret(name, reference)
        env["ZEN_RUN_ID"] = run.run
        env["ZEN_STEP"] = self.name
        env["ZEN_ATTEMPT"] = str(self._attempt.number)
        if self.step["foreach"] is not None:
            env["ZEN_ITEM"] = wire.dumps(self.step["foreach"]["item"])
            env["ZEN_ITEM_INDEX"] = str(self.step["foreach"]["index"])
        env["ZEN_CLAIM"] = self._attempt.token
        env["ZEN_VALUES"] = os.path.join(self._scratch, "values.json")
        for name, path in self._paths.items():
            text = placeholders.render(path)
            if len(text) < ARGUMENT or "call" not in self.step:  # a function has the list itself, however many URLs there are
                env["ZEN_INPUT_" + name.upper()] = text
        for name, path in self._outputs.items():
            env["ZEN_OUTPUT_" + name.upper()] = path
        env["TRACEPARENT"] = _traceparent(run.environ.get("TRACEPARENT", ""), run.run)
        return env

    def _secret(self, name: str, reference: dict[str, Any]) -> str:
        environ = self.run.environ
        if "file" in reference:
            try:
                with open(reference["file"], encoding="utf-8") as file:
                    return file.read().rstrip("\n")
            except (OSError, UnicodeDecodeError) as error:
                raise PlacementError(f"secrets.{name}: the file {reference['file']} can't be read: {error}") from error
        # Kubernetes, AWS and Google hand a secret over as an environment variable of the secret's own name.
        variable = reference.get("env", name)
        if variable not in environ:
            kind = next(iter(reference))
            raise PlacementError(
                f"secrets.{name}: ${variable} is not set here"
                + ("" if kind == "env" else f", and a {kind} reference can only be read by its platform")
            )
        return environ[variable]

    def _render(self, argv: list[str]) -> list[str]:
        return [placeholders.render(self._values(argument)) for argument in argv]

    def _values(self, value: Any) -> Any:
        return placeholders.substitute(value, self._look_up)

    def _look_up(self, reference: tuple[str, ...]) -> Any:
        head, *rest = reference
        if head == "inputs":
            return self._paths[rest[0]]
        if head == "outputs":
            return self._outputs[rest[0]]
        if head == "args":
            value: Any = self._values(self.step["args"][rest[0]])
            way, path = f"args.{rest[0]}", rest[1:]
        elif head not in self.run.config["steps"]:  # a foreach step: one value a member
            from backends import graph

            return [self._look_up((name, *rest)) for name in graph.members(self.run.config["steps"], head)]
        else:
            value = self._parent(head)["values"]
            way, path = f"{head}.values", rest[1:]
        for part in path:
            if isinstance(value, dict) and part in value:
                value = value[part]
            elif isinstance(value, list) and part.isdigit() and int(part) < len(value):
                value = value[int(part)]
            else:
                have = ", ".join(map(str, value)) if isinstance(value, dict) and value else "nothing"
                raise InputError(f"steps.{self.name}: {{{'.'.join(reference)}}}: {way} has {have}, but no {part!r}")
            way = f"{way}.{part}"
        return value

    def _write_replay(self) -> None:
        """Leave what is needed to run this attempt again: references only, no secret's value."""
        assert self._attempt is not None
        run = self.run
        replay = {
            "version": 1,
            "run": run.run,
            "step": self.name,
            "attempt": self._attempt.number,
            "config": run.sha,
            "store": run.store.url,
            "image": self.step["image"],
            "image_digest": run.environ.get("ZEN_RUNNER_IMAGE_DIGEST"),
            "code": run.config["code"],
            "files": sorted(source["url"] for source in self.step["inputs"].values() if source.get("url", "").startswith("/")),
            "secrets": sorted(run.config["secrets"]),
            "arguments": {name: text for name, text in run.environ.items() if name.startswith(ARG)},
            "resources": self.step["resources"],
        }
        run.store.put(keys.replay(*self._attempt.place), wire.dumps(replay).encode())

    def _print(self, stream: int, data: bytes) -> None:
        self._output(stream, data)
        writer = self._uploader or self._log
        if writer is not None:
            writer.write(data)

    def _beat(self) -> None:
        """Tell the store that this attempt lives; learn whether another took over."""
        assert self._attempt is not None
        try:
            if not self._attempt.heartbeat({"usage": self._usage()}):
                self._fenced = True
        except (ZenRunnerError, OSError):
            pass  # a store that is away for a while is no reason to stop; the end of the step tells

    def _tick(self) -> None:
        if self._uploader is None:
            self._beat()
        if self._fenced:
            self.stop("fenced")

    def _usage(self) -> dict[str, Any]:
        usage: dict[str, Any] = {}
        if self._group is not None:
            usage = {
                "memory": self._group.current(),
                "memory_peak": self._group.peak(),
                "memory_limit": self._group.limit(),
                "oom_kill": self._group.oom_kills() - self._oom_before,
            }
        if self.process is not None:
            usage.update(_use(self.process))
        if self._gpus is not None:
            usage["gpus"] = self._gpus.usage()
        return usage

    # -- after ----------------------------------------------------------------------------------------------------------------

    def _judge(self) -> Record:
        """Tell how the process ended, and publish its outputs if it ended well."""
        process = self.process
        assert process is not None and process.status is not None
        status = process.status
        if process.reason == "terminated":
            number = self._supervisor.stopped_by or signal.SIGTERM
            return self._record(outcome.TERMINATED, f"stopped by {_signal_name(number)}")
        if process.reason == "timeout":
            return self._record(outcome.TIMEOUT, f"ran past its timeout of {self.step['timeout']:g} s")
        if process.reason == "fenced":
            return self._record(outcome.DUPLICATE, "this attempt was taken for dead, and another has taken over")
        error = self._shim_error() if "run" not in self.step or self._engine == "spark" else None
        if status != 0:
            lost = self._gpus.lost() if self._gpus is not None else None
            if lost is not None:  # another machine may have a GPU that lasts, so this is no fault of the step's
                ending = error[1] if error is not None else f"exited with status {status}"
                return self._record(outcome.INFRA, f"the step lost {lost}; it ended with: {ending}")
            if self._was_oom(process):
                limit = self._group.limit() if self._group is not None else None
                return self._record(
                    outcome.OOM, "the out-of-memory killer took the step" + (f"; the limit is {limit} bytes" if limit else "")
                )
            if error is not None:
                record = self._record(error[0], error[1])
                if error[2]:
                    record["traceback"] = error[2]
                return record
            if process.signal is not None:
                message = f"ended by {_signal_name(process.signal)}"
                if process.signal == signal.SIGKILL:
                    message += ", and not by the out-of-memory killer"
            else:
                message = f"exited with status {status}"
            return self._record(outcome.USER, message, outcome.own_status(status))
        values = self._read_values()
        outputs = self._publish()
        record = self._record(outcome.SUCCESS, "")
        record["outputs"] = outputs
        record["values"] = values
        return record

    def _was_oom(self, process: Process) -> bool:
        if self._group is None or self._group.oom_kills() <= self._oom_before:
            return False
        # In a group shared with other steps the counter alone can't say whom it took.
        return self._alone or self._group is not self.run.group or process.signal == signal.SIGKILL

    def _shim_error(self) -> tuple[str, str, str] | None:
        """Return the class, the message and the traceback that a shim left."""
        try:
            with open(os.path.join(self._scratch, "error.json"), "rb") as file:
                found = wire.loads(file.read(VALUES))
            # A step can write this file, too; so it says no more than a step may.
            kinds = (outcome.CONFIG, outcome.PLACEMENT, outcome.INFRA) if self._engine else (outcome.CONFIG,)
            kind = found["class"] if found["class"] in kinds else outcome.USER
            return kind, str(found["message"]), str(found.get("traceback", ""))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _read_values(self) -> dict[str, Any]:
        path = os.path.join(self._scratch, "values.json")
        try:
            with open(path, "rb") as file:
                data = file.read(VALUES + 1)
        except FileNotFoundError:
            return {}
        if len(data) > VALUES:
            raise UserError(f"the step's values are larger than {VALUES} bytes; write an output instead")
        try:
            values = wire.loads(data)
        except (ValueError, RecursionError) as error:
            raise UserError(f"the step wrote values that are not JSON: {error}") from error
        if not isinstance(values, dict):
            raise UserError(f"the step's values must be a JSON mapping, not a {type(values).__name__}")
        return values

    def _publish(self) -> dict[str, Any]:
        assert self._attempt is not None
        published = {}
        if self.step["as"] == "url":
            return {name: artifacts.adopt(self.run.store, keys.out(*self._attempt.place, name)) for name in self.step["outputs"]}
        missing = [name for name in self.step["outputs"] if not os.path.lexists(self._outputs[name])]
        if missing:
            found = os.listdir(os.path.join(self._scratch, "out"))
            raise UserError(
                "the step ended well but did not write "
                + ", ".join(f"output {name!r} (expected at {self._outputs[name]})" for name in missing)
                + "".join(artifacts.beside(name, found, f"{{outputs.{name}}}/part") for name in missing)
            )
        for name in self.step["outputs"]:
            published[name] = artifacts.publish(self.run.store, keys.out(*self._attempt.place, name), self._outputs[name])
        return published

    def _record(self, kind: str, message: str, code: int | None = None) -> Record:
        process = self.process
        record = records.make_record(
            self.run.run,
            self.name,
            self._attempt.number if self._attempt is not None else 0,
            kind,
            message,
            code=code,
            started=self._started,
            seconds=round(monotonic() - self._began, 3),
            status=process.status if process is not None else None,
            signal=process.signal if process is not None else None,
            inputs=self._inputs,
            config=self.run.sha,
            usage=self._usage(),
        )
        record["platform"] = self.run.platform
        record["image"] = self.run.environ.get("ZEN_RUNNER_IMAGE_DIGEST")
        return record

    def _close(self, record: Record) -> Record:
        """Write the record last, when all else is in the store, and clean up."""
        assert self._attempt is not None and self._log is not None
        self._supervisor.unbeat(self._tick)
        if self._engine is not None:
            self._add_engine(record)
        if self._gpus is not None:
            self._gpus.release()
        process = self.process
        if process is not None and record["class"] != outcome.SUCCESS:
            record["log_tail"] = process.tail.decode("utf-8", "replace")
        if process is not None and (process.reason is not None or self._engine is not None):
            # What left the process group, as Spark's Python workers do, is still known by its environment.
            from backends.store import autopsy

            autopsy.kill_processes(self._attempt.token)
        if self._log.lost is not None:
            record["log_lost"] = str(self._log.lost)
        try:
            if self._uploader is not None:
                self._uploader.close()
                self._uploader.flush()
            self._attempt.finish(record)
            if self._cache_key is not None and record["class"] == outcome.SUCCESS and record["cached_from"] is None:
                cache_put(self.run.store, self._cache_key, record)
        except ZenRunnerError as error:
            if record["class"] == outcome.SUCCESS:
                record = {**record, "class": error.outcome_class, "exit_code": error.exit_code, "message": str(error)}
            else:
                record["message"] += f" (and its record could not be stored: {error})"
            return record  # the scratch directory stays: the next attempt here can still save the log
        finally:
            if self._group is not None and self._group is not self.run.group:
                self._group.remove()
        _remove(self._scratch)
        return record

    def _add_engine(self, record: Record) -> None:
        """Add what the engine counted, and keep Spark's event log."""
        from entrypoint.runtime import processing

        assert self._attempt is not None
        record["engine"] = str(self._engine)
        record["metrics"] = processing.metrics(self._scratch) or {}
        if self._engine == "spark":
            try:
                record["event_log"] = processing.keep_events(self.run.store, self._attempt, self._scratch)
            except (ZenRunnerError, OSError) as error:  # the result doesn't hang on it
                record["event_log_lost"] = str(error)


def visible_gpus(run: Run, step: str) -> tuple[str | None, bool]:
    """Return what limits the GPUs that a step may see, and whether its config says so itself and keeps it so.

    Args:
        run: what the run's attempts share.
        step: the step's name.
    """
    for env in (run.config["steps"][step]["env"], run.config["env"]):
        if "CUDA_VISIBLE_DEVICES" in env:
            text = env["CUDA_VISIBLE_DEVICES"]
            return (None if placeholders.names(text) else placeholders.render(text)), True
    return run.environ.get("CUDA_VISIBLE_DEVICES"), False


def _use(process: Process) -> dict[str, Any]:
    """Return what a process and its descendants used: at its end, or so far."""
    tree = process.tree
    if process.status is None:
        if tree is None:
            return {}
        done = {"cpu_seconds": round(tree.cpu_seconds, 3), "rss": tree.rss, "rss_peak": tree.rss_peak}
        io: tuple[int, ...] | None = tree.io
    else:
        cpu, io = process.cpu_seconds, process.io
        if tree is not None:
            more, more_io = tree.beside()
            cpu += more
            io = tuple(map(sum, zip(io, more_io, strict=True))) if io is not None else tree.io
        done = {"cpu_seconds": round(cpu, 3), "max_rss": process.max_rss}
        done["rss_peak"] = max(process.max_rss, tree.rss_peak if tree is not None else 0)
    if io is not None:
        done.update(zip(("io_read", "io_written", "disk_read", "disk_written"), io, strict=True))
    return done


class _Unstartable(UserError):
    """The step's program could not be executed; the shell's own two codes."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code

    @property
    def exit_code(self) -> int:
        return self.code


def _signal_name(number: int) -> str:
    for name in dir(signal):
        if name.startswith("SIG") and not name.startswith("SIG_") and getattr(signal, name) == number:
            return name
    return f"signal {number}"


def _traceparent(parent: str, run: str) -> str:
    """Return the step's W3C trace context: the caller's trace, or one made of the run's id, with a span of its own.

    Source: W3C Trace Context, section 3.2.
    """
    parts = parent.split("-")
    span = os.urandom(8).hex()
    if len(parts) >= 4 and len(parts[1]) == 32 and len(parts[2]) == 16 and parts[1].strip("0"):
        return f"{parts[0]}-{parts[1]}-{span}-{parts[3]}"
    return f"00-{wire.sha256(run.encode())[:32]}-{span}-01"


def _remove(folder: str) -> None:
    """Remove the scratch directory; the usual few entries by hand, since shutil costs a quarter of an interpreter's start."""
    try:
        for name in os.listdir(folder):
            path = os.path.join(folder, name)
            if name in ("out", "in"):
                os.rmdir(path)
            else:
                os.unlink(path)
        os.rmdir(folder)
    except FileNotFoundError:
        return
    except OSError:
        import shutil

        shutil.rmtree(folder, ignore_errors=True)
