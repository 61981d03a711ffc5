"""The client of AWS Batch and CloudWatch Logs."""

from __future__ import annotations

from functools import partial

from backends.calls import Fault, call, sdk
from backends.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    Document = dict[str, Any]


DESCRIBED = 100
"""Jobs in one call. Source: AWS Batch API, DescribeJobs ``jobs``, and ListJobs ``maxResults`` with a filter."""
REASON = "cancelled by zen-runner"
# Source: botocore's standard retry mode, and the codes that Batch documents.
_THROTTLED = frozenset(
    (
        *("Throttling", "ThrottlingException", "ThrottledException", "RequestThrottled", "RequestThrottledException"),
        *("TooManyRequestsException", "RequestLimitExceeded", "LimitExceededException", "SlowDown", "PriorRequestNotComplete"),
    )
)
_UNKNOWN_CALLER = frozenset(
    (
        *("UnrecognizedClientException", "InvalidClientTokenId", "InvalidSignatureException", "SignatureDoesNotMatch"),
        *("ExpiredToken", "ExpiredTokenException", "IncompleteSignature", "MissingAuthenticationToken", "AuthFailure"),
    )
)
_DENIED = frozenset(("AccessDeniedException", "AccessDenied", "UnauthorizedOperation", "OptInRequired"))
_GIVE_CREDENTIALS = "give credentials in AWS_PROFILE, AWS_ACCESS_KEY_ID or as this machine's role"


class Client:
    """Batch and CloudWatch Logs, asked with patience.

    Args:
        region: the region; None for the environment's.

    Raises:
        PlacementError: boto3 is not installed.
        ConfigError: no region is known, or it is none.
    """

    def __init__(self, region: str | None) -> None:
        boto3 = sdk("boto3", "aws")
        self._errors = sdk("botocore.exceptions", "aws")
        # `call` retries, since a SubmitJob must not be repeated blindly.
        options = sdk("botocore.config", "aws").Config(
            retries={"total_max_attempts": 1}, connect_timeout=10, read_timeout=60, user_agent_extra="zen-runner"
        )
        self._session = boto3.session.Session(region_name=region)
        try:
            self._batch = self._session.client("batch", config=options)
        except self._errors.NoRegionError as error:
            raise ConfigError("backend.args.region: no region is known; write it here, or set AWS_REGION") from error
        except (self._errors.BotoCoreError, ValueError) as error:
            raise ConfigError(f"backend.args.region: no client for AWS Batch can be made: {error}") from error
        self._options = options
        self._region = self._batch.meta.region_name
        self.doubtful = False
        """Whether the last SubmitJob may have been carried out although it failed here."""

    def check_queue(self, queue: str) -> None:
        """See that the queue is there and takes jobs.

        Raises:
            ConfigError: it isn't, or doesn't.
            InfraError: Batch can't be asked.
        """
        what = f"DescribeJobQueues of queue {queue!r}"
        found = self._call(what, lambda: self._batch.describe_job_queues(jobQueues=[queue]), tries=3)["jobQueues"]
        where = f"backend.args.queue: queue {queue!r}"
        if not found:
            from backends.text import did_you_mean

            others = self._call("DescribeJobQueues", self._batch.describe_job_queues)["jobQueues"]
            there = sorted(other["jobQueueName"] for other in others)
            hint = did_you_mean(queue, there)
            raise ConfigError(
                f"{where} does not exist in {self._region}{hint}; the queues there are {', '.join(there) or 'none'}"
            )
        [there] = found
        if there.get("state") != "ENABLED" or there.get("status", "VALID") not in ("VALID", "UPDATING", "CREATING"):
            reason = f": {there['statusReason']}" if there.get("statusReason") else ""
            raise ConfigError(f"{where} in {self._region} takes no jobs: {there.get('state')}, {there.get('status')}{reason}")

    def define(self, request: Document) -> str:
        """Return a definition with its revision; registered if there is none of its name, which says all that is in it."""
        name = request["jobDefinitionName"]
        found = self._call(
            f"DescribeJobDefinitions of {name}",
            lambda: self._batch.describe_job_definitions(jobDefinitionName=name, status="ACTIVE"),
        )["jobDefinitions"]
        if found:
            return f"{name}:{max(there['revision'] for there in found)}"
        made = self._call(f"RegisterJobDefinition of {name}", lambda: self._batch.register_job_definition(**request))
        return f"{name}:{made['revision']}"

    def submit(self, job: str, request: Document) -> str:
        """Submit one job and return its id; one that a lost answer spoke of is not submitted again."""
        self.doubtful = False

        def once() -> str:
            if self.doubtful:
                before = self._list(request["jobQueue"], request["jobName"])
                if before:
                    return str(before[-1]["jobId"])
            self.doubtful = True
            try:
                return str(self._batch.submit_job(**request)["jobId"])
            except self._errors.ClientError as error:
                self.doubtful = _status_code(error) >= 500
                raise
            except (self._errors.EndpointConnectionError, self._errors.NoCredentialsError):
                self.doubtful = False  # nothing was sent
                raise

        job_id: str = self._call(f"SubmitJob of {job!r} to queue {request['jobQueue']!r}", once)
        return job_id

    def submitted(self, queue: str, prefix: str) -> dict[str, str]:
        """Return the ids of the jobs by their names, for names that begin with ``prefix``; the oldest counts."""
        found = self._call(f"ListJobs of queue {queue!r}", lambda: self._list(queue, f"{prefix}*"))
        return {job["jobName"]: job["jobId"] for job in found if job["jobName"].startswith(prefix)}

    def _list(self, queue: str, name: str) -> list[Document]:
        """Return the jobs of a name, or of a prefix and ``*``, the newest first."""
        found: list[Document] = []
        request = {"jobQueue": queue, "filters": [{"name": "JOB_NAME", "values": [name]}], "maxResults": DESCRIBED}
        while True:
            page = self._batch.list_jobs(**request)
            found += [job for job in page["jobSummaryList"] if ":" not in job["jobId"]]  # no members of array jobs
            if not page.get("nextToken"):
                return sorted(found, key=lambda job: int(job["createdAt"]), reverse=True)
            request["nextToken"] = page["nextToken"]

    def describe(self, job_ids: list[str]) -> list[Document]:
        """Return what Batch knows of jobs, asked a hundred at a time; it forgets them some days after their end."""
        found: list[Document] = []
        for start in range(0, len(job_ids), DESCRIBED):
            some = job_ids[start : start + DESCRIBED]
            found += self._call("DescribeJobs", partial(self._batch.describe_jobs, jobs=some))["jobs"]
        return found

    def terminate(self, job_id: str) -> None:
        """End a job, whatever state it is in."""
        self._call(f"TerminateJob of {job_id}", lambda: self._batch.terminate_job(jobId=job_id, reason=REASON))

    def log(self, group: str, stream: str) -> Iterator[bytes]:
        """Yield the lines of a log stream from its beginning."""
        logs = self._session.client("logs", config=self._options)
        request: Document = {"logGroupName": group, "logStreamName": stream, "startFromHead": True}
        while True:
            page = self._call(f"GetLogEvents of {group} {stream}", lambda: _one_page(logs, request))
            for event in page["events"]:
                yield event["message"].encode() + b"\n"
            if page["nextForwardToken"] in (None, request.get("nextToken")):  # how the end is told
                return
            request["nextToken"] = page["nextForwardToken"]

    def _call(self, what: str, function: Callable[[], Any], tries: int = 8) -> Any:
        return call(function, f"AWS Batch in {self._region}: {what}", self._judge, tries=tries)

    def _judge(self, error: Exception) -> Fault | None:
        errors = self._errors
        if isinstance(error, errors.ClientError):
            said = error.response.get("Error", {})
            code, message = str(said.get("Code", "")), str(said.get("Message") or said.get("message") or "")
            why = ": ".join(part for part in (code, message) if part)
            status = _status_code(error)
            if code in _THROTTLED or status == 429:
                return Fault(True, why, "the account's request rate is used up; try again later")
            if status >= 500 or code in ("ServerException", "InternalFailure", "ServiceUnavailable"):
                return Fault(True, why, "it is the service's own trouble; submit again later")
            if code in _UNKNOWN_CALLER:
                return Fault(False, why, f"the credentials are wrong or have expired; {_GIVE_CREDENTIALS}")
            if code in _DENIED:
                return Fault(False, why, "the caller lacks the permission; docs/batch.md has the list")
            return Fault(False, why, config=True)
        if isinstance(error, errors.NoCredentialsError | errors.PartialCredentialsError | errors.CredentialRetrievalError):
            return Fault(False, str(error), _GIVE_CREDENTIALS)
        if isinstance(error, errors.ParamValidationError):
            return Fault(False, " ".join(str(error).split()), config=True)
        if isinstance(error, errors.HTTPClientError | errors.EndpointConnectionError):
            return Fault(True, str(error), "check the region, the network and the proxy")
        if isinstance(error, errors.BotoCoreError):
            return Fault(False, str(error), "check the client's AWS configuration")
        return None


def _status_code(error: Any) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _one_page(logs: Any, request: Document) -> Document:
    try:
        page: Document = logs.get_log_events(**request)
    except logs.exceptions.ResourceNotFoundException:  # nothing was logged
        return {"events": [], "nextForwardToken": None}
    return page
