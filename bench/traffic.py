"""What the benches send: seeded observations that fit the served model, serialised before anything is measured.

Letters in array names: N events, K id fields.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evercurrent.slots import slot_of, user_key
from evercurrent.v1 import columns_pb2, description_pb2, observation_pb2, session_pb2, wire_pb2, worker_pb2
from evercurrent.wire import Layout, Records

FRAME_EVENTS = 256
OPENS_A_FRAME = 1024


@dataclass(slots=True)
class Traffic:
    """Draws observations for a model whose outcome is a value. The same seed draws the same."""

    model: description_pb2.ModelDescription
    rng: np.random.Generator

    def __post_init__(self) -> None:
        if self.model.outcome != description_pb2.OUTCOME_KIND_VALUE:
            raise ValueError(f"the benches send values as outcomes; {self.model.name!r} takes another kind")

    def session_requests(self, first_seq: int, num_events: int) -> list[bytes]:
        """Serialised observations of one session, seqs from `first_seq` on."""
        ids_NK, outcomes_N = self._draw(num_events)
        return [
            session_pb2.SessionRequest(
                observation=observation_pb2.Observation(seq=first_seq + i, ids=ids, value=outcome)
            ).SerializeToString()
            for i, (ids, outcome) in enumerate(zip(ids_NK.tolist(), outcomes_N.tolist(), strict=True))
        ]

    def observations(self, num_events: int) -> list[tuple[list[int], float]]:
        """Ids and outcomes of observations, as the Python client takes them."""
        ids_NK, outcomes_N = self._draw(num_events)
        return list(zip(ids_NK.tolist(), outcomes_N.tolist(), strict=True))

    def exchange_frame(self, first_tag: int, seq: int) -> bytes:
        """One serialised Exchange frame: the `seq`th event of each of FRAME_EVENTS sessions with adjacent tags."""
        ids_NK, outcomes_N = self._draw(FRAME_EVENTS)
        events = wire_pb2.WireEventColumns(
            tags=np.arange(first_tag, first_tag + FRAME_EVENTS, dtype="<u4").tobytes(),
            seqs=np.full(FRAME_EVENTS, seq, "<u8").tobytes(),
            ids=ids_NK.astype("<i8").tobytes(),
            values=outcomes_N.astype("<f4").tobytes(),
        )
        frame = wire_pb2.WireExchangeFrame(events=events)
        return wire_pb2.WireExchangeRequest(frame=frame).SerializeToString()

    def link_frame(self, first_tag: int, seq: int) -> bytes:
        """The same as a frame of a router to a worker."""
        tags = np.arange(first_tag, first_tag + FRAME_EVENTS)
        return link_request(self.link_events(tags, np.full(FRAME_EVENTS, seq)).tobytes())

    def link_events(self, tags: NDArray[np.integer], seqs: NDArray[np.integer]) -> Records:
        """Observations of these sessions as a router's records."""
        ids_NK, outcomes_N = self._draw(len(tags))
        events = np.zeros(len(tags), Layout.of(self.model).event_dtype)
        events["seq"] = seqs
        events["event_time_us"] = 1
        events["ids"] = ids_NK
        events["tag"] = tags
        events["outcome"] = outcomes_N[:, None]
        events["kind"] = columns_pb2.EVENT_KIND_OBSERVATION
        return events

    def _draw(self, num_events: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Ids [N, K], each field uniform over its size, and outcomes [N] of 0 or 1."""
        sizes_K = [field.size for field in self.model.ids]
        ids_NK = self.rng.integers(0, sizes_K, (num_events, len(sizes_K)))
        return ids_NK, self.rng.integers(0, 2, num_events).astype(np.float64)


def session_open(user_id: str, *, wait_durable: bool = False) -> bytes:
    """A serialised open of a new session."""
    opening = session_pb2.SessionOpen(user_id=user_id, wait_durable=wait_durable)
    return session_pb2.SessionRequest(open=opening).SerializeToString()


def exchange_opens(users: Sequence[str]) -> list[bytes]:
    """Serialised messages that open an Exchange stream and a session a user, with tags 0, 1, 2 …"""
    tag_opens = [session_pb2.TagOpen(tag=tag, user_id=user) for tag, user in enumerate(users)]
    messages = [wire_pb2.WireExchangeRequest(open=session_pb2.ExchangeOpen())]
    for start in range(0, len(tag_opens), OPENS_A_FRAME):
        frame = wire_pb2.WireExchangeFrame(opens=tag_opens[start : start + OPENS_A_FRAME])
        messages.append(wire_pb2.WireExchangeRequest(frame=frame))
    return [message.SerializeToString() for message in messages]


def link_request(events: bytes) -> bytes:
    """A serialised message of a router to a worker: records of events."""
    return worker_pb2.LinkRequest(frame=worker_pb2.LinkFrame(events=events)).SerializeToString()


def link_opens(users: Sequence[tuple[str, str]], num_slots: int) -> Iterator[bytes]:
    """Serialised messages that open a link and, under tags 0, 1, 2 …, a session a (user id, session id)."""
    yield link_open(num_slots)
    tagged = list(enumerate(users))
    for start in range(0, len(tagged), OPENS_A_FRAME):
        yield link_tag_opens(tagged[start : start + OPENS_A_FRAME])


def link_open(num_slots: int) -> bytes:
    """A serialised message that opens a link."""
    opening = worker_pb2.LinkOpen(protocol_version=1, router="bench", slots=num_slots)
    return worker_pb2.LinkRequest(open=opening).SerializeToString()


def link_slots(slots: Sequence[int]) -> bytes:
    """A serialised message of a router to a worker: those of these slots that have users are to be claimed at once."""
    frame = worker_pb2.LinkFrame(slots=worker_pb2.LinkSlots(slots=slots))
    return worker_pb2.LinkRequest(frame=frame).SerializeToString()


def link_tag_opens(users: Iterable[tuple[int, tuple[str, str]]], first_watched: int | None = None) -> bytes:
    """A serialised message that opens a session a tag and (user id, session id). Tags from `first_watched` on are told
    their watermarks."""
    tag_opens = [
        worker_pb2.LinkTagOpen(
            tag=tag,
            user_id=user,
            session_id=session,
            slot=slot_of(user_key("", user)),
            watermarks=first_watched is not None and tag >= first_watched,
        )
        for tag, (user, session) in users
    ]
    return worker_pb2.LinkRequest(frame=worker_pb2.LinkFrame(opens=tag_opens)).SerializeToString()
