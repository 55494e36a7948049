"""`helm test`: one observation through a router, which answers with the prediction that it learned from.

What it is told is in its environment: ADDRESS and OBSERVATION (JSON of evercurrent.v1.Observation), and where the
service is secured TLS_CA and TLS_NAME, TLS_CERTIFICATE and TLS_KEY, TOKEN. It asks again while workers are on their
way.
"""

import os
import sys
import time
from pathlib import Path

import grpc
from google.protobuf import json_format

from evercurrent.v1 import observation_pb2, session_pb2, session_pb2_grpc

SECONDS = float(os.environ.get("SECONDS_MAX", "120"))
AGAIN = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.ABORTED, grpc.StatusCode.DEADLINE_EXCEEDED)


def file(variable):
    path = os.environ.get(variable)
    return Path(path).read_bytes() if path else None


def channel():
    address = os.environ["ADDRESS"]
    if "TLS_CA" not in os.environ:
        return grpc.insecure_channel(address)
    credentials = grpc.ssl_channel_credentials(file("TLS_CA"), file("TLS_KEY"), file("TLS_CERTIFICATE"))
    return grpc.secure_channel(address, credentials, [("grpc.ssl_target_name_override", os.environ["TLS_NAME"])])


def main():
    observation = json_format.Parse(os.environ["OBSERVATION"], observation_pb2.Observation())
    request = session_pb2.ObserveRequest(user_id="helm-test", observation=observation)
    token = os.environ.get("TOKEN")
    metadata = [("authorization", f"Bearer {token.strip()}")] if token else []
    end_s = time.monotonic() + SECONDS
    with channel() as router:
        stub = session_pb2_grpc.SessionServiceStub(router)
        while True:
            try:
                result = stub.Observe(request, timeout=10, metadata=metadata).result
                break
            except grpc.RpcError as error:
                print(f"{error.code().name}: {error.details()}", file=sys.stderr)
                if error.code() not in AGAIN or time.monotonic() > end_s:
                    return 1
                time.sleep(1)
    print(f"version {result.version}: predicted {list(result.prediction)}")
    return 0


sys.exit(main())
