"""Which events are traced, and contexts in and out."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evercurrent.telemetry.tracing import Context, NotSampled, Span, Tracer, parse_traceparent, unpacked

contexts = st.builds(Context, st.integers(1, (1 << 128) - 1), st.integers(1, (1 << 64) - 1))


class Kept:
    """A sink."""

    def __init__(self) -> None:
        self.spans: list[Span] = []

    def put(self, span: Span) -> None:
        self.spans.append(span)


@given(ratio=st.sampled_from([0.0, 0.01, 0.3, 1.0]), seed=st.integers(), frames=st.lists(st.integers(0, 300)))
def test_frames_sample_as_single_events_do(ratio: float, seed: int, frames: list[int]) -> None:
    one, many = (Tracer(Kept(), ratio, Random(seed)) for _ in range(2))
    for size in frames:
        assert many.begin_some(size) == [index for index in range(size) if one.begins()]


@pytest.mark.parametrize("ratio", [0.01, 0.2, 1.0])
def test_the_share_is_the_ratio(ratio: float) -> None:
    num = 200_000
    share = len(Tracer(Kept(), ratio, Random(7)).begin_some(num)) / num
    assert share == pytest.approx(ratio, rel=0.1)


@given(contexts)
def test_contexts_come_back(context: Context) -> None:
    assert unpacked(context.packed()) == context
    assert parse_traceparent(context.traceparent()) == context


@given(contexts, st.binary(max_size=40).filter(lambda raw: len(raw) != 24))
def test_other_bytes_are_no_context(context: Context, raw: bytes) -> None:
    assert unpacked(raw) is None
    assert unpacked(context.packed()[:-1]) is None


@pytest.mark.parametrize(
    ("text", "is_context"),
    [
        ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-03", True),
        ("cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-later", True),
        ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-later", False),
        ("ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", False),
        ("00-00000000000000000000000000000000-b7ad6b7169203331-01", False),
        ("00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01", False),
        ("00-0AF7651916CD43DD8448EB211C80319C-B7AD6B7169203331-01", False),
        ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331", False),
        ("", False),
        ("x" * 10_000, False),
    ],
)
def test_what_is_a_traceparent(text: str, is_context: bool) -> None:
    found = parse_traceparent(text)
    assert isinstance(found, Context) is is_context
    assert found is None or is_context


def test_the_flag_is_heeded() -> None:
    text = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"
    assert isinstance(parse_traceparent(text), NotSampled)
