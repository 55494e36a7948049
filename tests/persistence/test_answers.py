"""The table of what foreign exceptions mean, where no server here makes them."""

from __future__ import annotations

import errno

import aiohttp
import pytest
from botocore import exceptions as boto
from botocore.parsers import ResponseParserError

from persistence.answers import Verdict, judge

URL = "http://host"


def response(status: int, code: str) -> Exception:
    """An error response as botocore raises it."""
    error: Exception = boto.ClientError(
        {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}, "PutObject"
    )
    return error


def refused() -> Exception:
    key = aiohttp.client_reqrep.ConnectionKey("host", 80, False, True, None, None, None)
    return aiohttp.ClientConnectorError(key, OSError(errno.ECONNREFUSED, "refused"))


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        (response(412, "PreconditionFailed"), Verdict.CONDITION_FAILED),
        (response(412, "412"), Verdict.CONDITION_FAILED),
        (response(404, "NoSuchKey"), Verdict.NO_SUCH_KEY),
        (response(404, "NoSuchBucket"), Verdict.MISCONFIGURED),
        (response(409, "ConditionalRequestConflict"), Verdict.NOT_DONE),
        (response(409, "OperationAborted"), Verdict.NOT_DONE),
        (response(400, "RequestTimeout"), Verdict.NOT_DONE),
        (response(429, "TooManyRequests"), Verdict.NOT_DONE),
        (response(500, "InternalError"), Verdict.IN_DOUBT),
        (response(503, "SlowDown"), Verdict.IN_DOUBT),
        (response(501, "NotImplemented"), Verdict.MISCONFIGURED),
        (response(403, "RequestTimeTooSkewed"), Verdict.MISCONFIGURED),
        (response(403, "SignatureDoesNotMatch"), Verdict.DENIED),
        (response(401, "401"), Verdict.DENIED),
        (response(301, "PermanentRedirect"), Verdict.MISCONFIGURED),
        (boto.EndpointConnectionError(endpoint_url=URL, error=refused()), Verdict.NOT_DONE),
        (boto.EndpointConnectionError(endpoint_url=URL, error=aiohttp.ClientOSError(104, "reset")), Verdict.IN_DOUBT),
        (boto.EndpointConnectionError(endpoint_url=URL), Verdict.IN_DOUBT),
        (boto.ConnectTimeoutError(endpoint_url=URL), Verdict.NOT_DONE),
        (boto.ProxyConnectionError(proxy_url=URL), Verdict.NOT_DONE),
        (boto.ReadTimeoutError(endpoint_url=URL), Verdict.IN_DOUBT),
        (boto.ConnectionClosedError(endpoint_url=URL), Verdict.IN_DOUBT),
        (boto.HTTPClientError(error="x"), Verdict.IN_DOUBT),
        (boto.SSLError(endpoint_url=URL, error="x"), Verdict.IN_DOUBT),
        (boto.IncompleteReadError(actual_bytes=1, expected_bytes=2), Verdict.IN_DOUBT),
        (boto.NoCredentialsError(), Verdict.DENIED),
        (boto.CredentialRetrievalError(provider="x", error_msg="x"), Verdict.NOT_DONE),
        (boto.ParamValidationError(report="x"), Verdict.MISCONFIGURED),
        (ResponseParserError("x"), Verdict.IN_DOUBT),
        (aiohttp.ClientPayloadError("x"), Verdict.IN_DOUBT),
        (TimeoutError(), Verdict.IN_DOUBT),
    ],
    ids=lambda value: value.name if isinstance(value, Verdict) else f"{type(value).__name__}-{value}"[:60],
)
def test_verdicts(error: BaseException, verdict: Verdict) -> None:
    assert judge(error) is verdict
