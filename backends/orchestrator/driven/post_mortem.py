"""What a container's end means: the store's record, else one made of its last words or of what the platform says."""

from __future__ import annotations

from datetime import datetime
from time import time

from backends import outcome, wire
from backends.errors import DuplicateError
from backends.process import utc
from backends.states import PENDING
from backends.store import claims, keys, records

TYPE_CHECKING = False
if TYPE_CHECKING:
    from backends.orchestrator.driven.container import Container
    from backends.orchestrator.driven.container_platform import ContainerStatus
    from backends.store.records import Record


def find_claim(container: Container) -> tuple[claims.Attempt | None, Record | None]:
    """Return the attempt that the container's supervisor claimed, and its record; None for what isn't there."""
    store, run, step = container.store, container.labels.run, container.labels.step
    for number in reversed(records.attempts(store, run, step)):
        claim = records.read_json(store, keys.claim(run, step, number)) or {}
        platform = claim.get("platform")
        if isinstance(platform, dict) and platform.get("attempt") == container.labels.attempt:
            attempt = claims.Attempt(store, run, step, number, str(claim.get("token")))
            return attempt, records.result(store, run, step, number)
    return None, None


def parse_words(container: Container, line: bytes) -> Record | None:
    """Return the supervisor's record from the last line on stderr, if that is one of this container's."""
    try:
        words = wire.loads(line)
        if (words["run"], words["step"]) != (container.labels.run, container.labels.step) or type(words["exit_code"]) is not int:
            return None
        outcome.code_of(words["class"])
        str(words["message"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    record: Record = words
    return record


def reconstruct(
    container: Container, claim: claims.Attempt | None, status: ContainerStatus | None, words: Record | None
) -> Record:
    """Return the record of an attempt whose supervisor left none in the store, and put it there if there is a claim.

    Args:
        container: the container, which has ended.
        claim: its claim, if its supervisor got as far.
        status: what the platform says of it; None if it is gone.
        words: the supervisor's last words.

    Raises:
        InfraError: the store could not be reached.
    """
    record = None
    if words is not None and (status is None or words["exit_code"] == status.exit_code):
        if words["class"] != outcome.SUCCESS:
            record = make_record(container, words["class"], str(words["message"]), words["exit_code"])
        elif good := records.good_result(container.store, container.labels.run, container.labels.step):
            return good  # the step had been done before, so its supervisor did nothing
    if record is None:
        record = make_record(container, *_verdict(container, status, claim is not None))
        record["log_tail"] = container.tail.decode("utf-8", "replace")
    if claim is not None:
        record["attempt"] = claim.number
        try:  # the owner is dead for certain, so nobody has to wait until its silence proves it
            claim.finish(record)
        except DuplicateError:
            return records.result(claim.store, claim.run, claim.step, claim.number) or record
    return record


def _verdict(container: Container, status: ContainerStatus | None, claimed: bool) -> tuple[str, str]:
    """Return the class and the message of a container that left no record."""
    if status is None:
        kind = outcome.TERMINATED if container.is_stopping() else outcome.INFRA
        return kind, "the container was removed before it left a record"
    code = status.exit_code
    if status.state == PENDING:
        return outcome.INFRA, status.message
    if status.kind == outcome.OOM:
        return outcome.OOM, "the out-of-memory killer took the container"
    if container.is_stopping() or code == outcome.code_of(outcome.TERMINATED):
        return outcome.TERMINATED, f"the container was stopped, and ended with {code} without a record"
    if not claimed and code in (0, 126, 127):
        return outcome.CONFIG, (
            f"the container ended with {code} without a record: {container.labels.image} does not run zen-runner; "
            "build it from a zen-runner image and keep its ENTRYPOINT"
        )
    hint = ": something outside it killed it" if code == 137 else ""
    return outcome.INFRA, f"the container ended with {code} without a record{hint}"


def make_record(container: Container, kind: str, message: str, code: int | None = None) -> Record:
    """Return the record of an attempt as far as it is known here.

    Args:
        container: the attempt's container.
        kind: its class in the exit table.
        message: why.
        code: its exit status; None for that of the class.
    """
    now = time()
    record = records.make_record(
        container.labels.run,
        container.labels.step,
        0,
        kind,
        message,
        code=code,
        started=container.started,
        ended=utc(now),
        seconds=round(max(0.0, now - datetime.fromisoformat(container.started).timestamp()), 3),
        config=container.labels.config,
    )
    record["image"] = container.image
    record["platform"] = {"name": "zen-runner", "run": container.labels.run, "attempt": container.labels.attempt}
    return record
