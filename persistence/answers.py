"""What an answer of an S3 server, or none, means for the call. Pure: exceptions in, verdicts out.

The one table between foreign exceptions and ours. It errs on the side of doubt: a write counts as not done only where
the connection never stood, or where S3 says that it refused (the S3 API reference on conditional writes and its list of
error responses). The traps:

- 409 ConditionalRequestConflict is a race that nobody has won yet: nothing was written, ask again.
- If-Match on a missing key is 404 NoSuchKey on AWS, 412 on others. 404 NoSuchBucket is a mistake of set-up.
- aiobotocore calls every `ClientConnectionError` "could not connect", resets of standing connections too.
"""

from __future__ import annotations

import enum

import aiohttp
from botocore import exceptions as boto
from botocore.parsers import ResponseParserError


class Verdict(enum.Enum):
    """What one attempt came to, if not to success."""

    CONDITION_FAILED = "the condition does not hold"
    NO_SUCH_KEY = "there is no such object"
    NOT_DONE = "surely not done; trying again may help"
    IN_DOUBT = "may be done; trying again may help"
    DENIED = "credentials or rights"
    MISCONFIGURED = "not as it is set up"


CODES = {
    "PreconditionFailed": Verdict.CONDITION_FAILED,
    "NoSuchKey": Verdict.NO_SUCH_KEY,
    "ConditionalRequestConflict": Verdict.NOT_DONE,
    "OperationAborted": Verdict.NOT_DONE,
    "RequestTimeout": Verdict.NOT_DONE,
    "RequestTimeTooSkewed": Verdict.MISCONFIGURED,
    "ExpiredToken": Verdict.DENIED,
    "InvalidToken": Verdict.DENIED,
    "NotImplemented": Verdict.MISCONFIGURED,
}
"""By the code of the error response, where its status says too little."""

STATUSES = {
    401: Verdict.DENIED,
    403: Verdict.DENIED,
    409: Verdict.NOT_DONE,
    412: Verdict.CONDITION_FAILED,
    429: Verdict.NOT_DONE,
    501: Verdict.MISCONFIGURED,
}

EXCEPTIONS: tuple[tuple[type[BaseException], Verdict], ...] = (
    (boto.ConnectTimeoutError, Verdict.NOT_DONE),
    (boto.ProxyConnectionError, Verdict.NOT_DONE),
    (boto.ReadTimeoutError, Verdict.IN_DOUBT),
    (boto.HTTPClientError, Verdict.IN_DOUBT),
    (boto.IncompleteReadError, Verdict.IN_DOUBT),
    (boto.ConnectionError, Verdict.IN_DOUBT),
    (boto.CredentialRetrievalError, Verdict.NOT_DONE),
    (boto.NoCredentialsError, Verdict.DENIED),
    (boto.PartialCredentialsError, Verdict.DENIED),
    (boto.UnauthorizedSSOTokenError, Verdict.DENIED),
    (boto.BotoCoreError, Verdict.MISCONFIGURED),
    (ResponseParserError, Verdict.IN_DOUBT),
    (aiohttp.ClientError, Verdict.IN_DOUBT),
    (TimeoutError, Verdict.IN_DOUBT),
)
"""By class; the first that fits counts."""

FOREIGN = (boto.BotoCoreError, boto.ClientError, ResponseParserError, aiohttp.ClientError, TimeoutError)
"""All that a call through aiobotocore raises for what the world does."""


def judge(error: BaseException) -> Verdict:
    """What an exception out of aiobotocore means. `error` is one of FOREIGN."""
    if isinstance(error, boto.ClientError):
        return _judge_response(error)
    never_connected = _never_connected(error)
    if never_connected is not None:
        return never_connected
    return next(verdict for kind, verdict in EXCEPTIONS if isinstance(error, kind))


def _judge_response(error: boto.ClientError) -> Verdict:
    code = str(error.response.get("Error", {}).get("Code", ""))
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    if code in CODES:
        return CODES[code]
    return STATUSES.get(status, Verdict.IN_DOUBT if status >= 500 else Verdict.MISCONFIGURED)


def _never_connected(error: BaseException) -> Verdict | None:
    """The verdict on a connection that failed before it stood; None on anything else."""
    if not isinstance(error, (boto.EndpointConnectionError, boto.SSLError)):
        return None
    cause = error.kwargs.get("error")
    if isinstance(cause, aiohttp.ClientConnectorCertificateError):
        return Verdict.MISCONFIGURED
    return Verdict.NOT_DONE if isinstance(cause, (aiohttp.ClientConnectorError, aiohttp.ClientSSLError)) else None


def wording(error: BaseException) -> str:
    """An exception in one line: its text, or its class where it has none."""
    return str(error) or type(error).__name__
