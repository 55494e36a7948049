"""Proofs of the cluster's token: once, for one method of one worker, for a while."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evercurrent.errors import Refused
from evercurrent.security import cluster
from evercurrent.security.cluster import HEADER, WINDOW_MS, Prover, Verifier, parse_secrets, watched_secrets
from evercurrent.settings import SettingsError
from evercurrent.v1 import observation_pb2 as pb

OLD, NEW = b"a secret of the cluster", b"another one, for tomorrow"
LINK = "/evercurrent.v1.WorkerService/Link"


class Time:
    def __init__(self) -> None:
        self.now_ms = 1_800_000_000_000

    def __call__(self) -> int:
        return self.now_ms


def made(secret: bytes, worker: str = "worker-0", method: str = LINK, time: Time | None = None) -> str:
    ((name, text),) = Prover(lambda: (secret,), worker, time or Time()).metadata(method)
    assert name == HEADER
    return text


def refusal(verifier: Verifier, text: str, method: str = LINK) -> pb.Rejection:
    with pytest.raises(Refused) as caught:
        verifier.check(method, text)
    return caught.value.rejection


def test_a_proof_counts_once() -> None:
    verifier = Verifier(lambda: (OLD,), "worker-0", Time())
    proof, another = made(OLD), made(OLD)
    verifier.check(LINK, proof)
    assert refusal(verifier, proof).reason == pb.REASON_UNAUTHENTICATED
    assert "used before" in refusal(verifier, proof).message
    verifier.check(LINK, another)


def test_a_proof_is_for_one_method_of_one_worker() -> None:
    release = "/evercurrent.v1.WorkerService/Release"
    proof = made(OLD)
    assert refusal(Verifier(lambda: (OLD,), "worker-1", Time()), proof).reason == pb.REASON_UNAUTHENTICATED
    verifier = Verifier(lambda: (OLD,), "worker-0", Time())
    assert refusal(verifier, proof, release).reason == pb.REASON_UNAUTHENTICATED
    # What is refused uses up nothing.
    verifier.check(LINK, proof)


def test_the_token_itself_is_not_sent_and_opens_nothing() -> None:
    assert OLD.decode() not in made(OLD)
    verifier = Verifier(lambda: (OLD,), "worker-0", Time())
    assert refusal(verifier, OLD.decode()).reason == pb.REASON_UNAUTHENTICATED


@pytest.mark.parametrize(("late_ms", "counts"), [(0, True), (WINDOW_MS, True), (WINDOW_MS + 1, False)])
@pytest.mark.parametrize("sign", [1, -1])
def test_a_proof_is_for_a_while(late_ms: int, counts: bool, sign: int) -> None:
    time = Time()
    proof = made(OLD, time=time)
    time.now_ms += sign * late_ms
    verifier = Verifier(lambda: (OLD,), "worker-0", time)
    if counts:
        verifier.check(LINK, proof)
    else:
        assert "clocks" in refusal(verifier, proof).message


def test_what_was_used_stays_so_while_it_would_count_and_then_is_forgotten() -> None:
    time = Time()
    verifier = Verifier(lambda: (OLD,), "worker-0", time)
    ahead = Time()
    ahead.now_ms += WINDOW_MS
    proof = made(OLD, time=ahead)
    verifier.check(LINK, proof)
    time.now_ms += 2 * WINDOW_MS
    assert "used before" in refusal(verifier, proof).message
    time.now_ms += 4 * WINDOW_MS
    verifier.check(LINK, made(OLD, time=time))
    assert len(verifier._seen) == len(verifier._order) == 1


def test_tokens_are_changed_in_turns() -> None:
    verifier = Verifier(lambda: (NEW, OLD), "worker-0", Time())
    verifier.check(LINK, made(OLD))
    verifier.check(LINK, made(NEW))
    after = Verifier(lambda: (NEW,), "worker-0", Time())
    assert refusal(after, made(OLD)).reason == pb.REASON_UNAUTHENTICATED


def test_a_flood_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "NONCES_MAX", 3)
    verifier = Verifier(lambda: (OLD,), "worker-0", Time())
    for _ in range(3):
        verifier.check(LINK, made(OLD))
    why = refusal(verifier, made(OLD))
    assert (why.reason, why.retry_after_ms) == (pb.REASON_OVERLOADED, WINDOW_MS)


@given(st.text(max_size=200) | st.from_regex(r"v1 \d{1,40} \S* \S*", fullmatch=True))
def test_anything_else_is_refused(text: str) -> None:
    verifier = Verifier(lambda: (OLD,), "worker-0", Time())
    assert refusal(verifier, text).reason == pb.REASON_UNAUTHENTICATED


def test_a_file_of_tokens(tmp_path: Path) -> None:
    assert parse_secrets([b"\n" + NEW + b"\n  \n" + OLD + b"\n"]) == (NEW, OLD)
    path = tmp_path / "token"
    for content, said in ((b"", "holds no token"), (b"short\n", "fewer than 16 bytes")):
        path.write_bytes(content)
        with pytest.raises(SettingsError, match=said):
            watched_secrets(path)
    with pytest.raises(SettingsError, match="cluster_token_file"):
        watched_secrets(tmp_path / "none")
    path.write_bytes(OLD)
    watched = watched_secrets(path)
    path.write_bytes(NEW + b"\n" + OLD)
    assert watched.current() == (NEW, OLD)
    path.write_bytes(b"")
    assert watched.current() == (NEW, OLD)
