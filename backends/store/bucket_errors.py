"""What a bucket's refusals mean: whether they pass, and what a user does about them.

obstore's own classes of errors tell less than their texts: an HTTP status, the cloud's own code, what the network said.
"""

from __future__ import annotations

from backends.errors import InfraError
from backends.store import credentials

# Signs in an error's text: no retry brings credentials or trust; the other ones come and go.
_NO_CREDENTIALS = ("169.254.169.254", "metadata.google.internal", "oken request")
_LASTING = (*_NO_CREDENTIALS, "certificate", "Certificate", "builder error")
_PASSING = (
    *(f"status code: {status}" for status in (408, 409, 425, 429, *range(500, 600))),
    *("error sending request", "timed out", "error decoding response body", "RequestTimeout"),
)
_UNKNOWN_HOST = ("dns error", "failed to lookup")
_RIGHTS = {
    "s3": "s3:GetObject, s3:PutObject, s3:DeleteObject and s3:ListBucket",
    "gs": "the role Storage Object User",
    "az": "the role Storage Blob Data Contributor",
}


def is_passing(error: Exception) -> bool:
    """Return whether the same request may well be granted in a moment.

    Args:
        error: of obstore's. 409 and 412 are classes of their own: a conditional write met another, or a server was confused.
    """
    if type(error).__name__ in ("AlreadyExistsError", "PreconditionError"):
        return True
    text = str(error)
    return not _has(text, _LASTING) and _has(text, _PASSING)


def explain(action: str, where: str, cloud: str, error: Exception) -> InfraError:
    """Return the error that tells a user what went wrong with the bucket and what to do about it.

    Args:
        action: the verb, such as ``write``.
        where: the object's or the bucket's URL.
        cloud: ``s3``, ``gs`` or ``az``.
        error: what obstore raised.
    """
    text, kind = str(error), type(error).__name__
    if is_no_bucket(error) or isinstance(error, FileNotFoundError):
        why, hint = "there is no such bucket", "create it, or check `store` in the config and the region"
    elif _has(text, _NO_CREDENTIALS):
        why, hint = "no credentials were found", credentials.HINTS[cloud]
    elif kind == "UnauthenticatedError" or "status code: 401" in text:
        why, hint = f"the credentials were refused ({_code(text)})", credentials.HINTS[cloud]
    elif kind == "PermissionDeniedError" or "status code: 403" in text:
        why = f"access was refused ({_code(text)})"
        hint = f"check that the credentials are the ones you mean, and allow it {_RIGHTS[cloud]}"
    elif "certificate" in text.lower():
        why = "its TLS certificate is not trusted"
        hint = "set AWS_CA_BUNDLE or SSL_CERT_FILE to a PEM file with your certificate authority"
    elif _has(text, _UNKNOWN_HOST):
        why, hint = "the host's name is not known", "check the endpoint (AWS_ENDPOINT_URL), the region and the DNS"
    elif "error sending request" in text or "timed out" in text:
        why = "it could not be reached" + (": connection refused" if "ConnectionRefused" in text else "")
        hint = "check the network, the proxy and the endpoint (AWS_ENDPOINT_URL)"
    else:
        why, hint = first_line(error), "check the bucket and its region, and try again"
    return InfraError(f"cannot {action} {where}: {why}; {hint}")


def is_no_bucket(error: Exception) -> bool:
    """Return whether what was not found is the bucket, and not an object in it."""
    return _has(str(error), ("NoSuchBucket", "ContainerNotFound", "The specified bucket does not exist"))


def first_line(error: Exception) -> str:
    """Return what an error of obstore's says, without its details."""
    line = str(error).partition("\n")[0]
    kind, colon, rest = line.partition(" error: ")
    return (rest if colon and kind.startswith("Generic ") else line)[:300] or type(error).__name__


def _has(text: str, signs: tuple[str, ...]) -> bool:
    return any(sign in text for sign in signs)


def _code(text: str) -> str:
    """Return a cloud's own word for a refusal, such as ``AccessDenied``, or its HTTP status."""
    _, found, rest = text.partition("<Code>")
    if found:
        return rest.partition("<")[0]
    return text.partition("status code: ")[2][:3] or "forbidden"
