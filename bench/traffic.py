"""What the benches send: seeded observations that fit the served model, serialised before anything is measured.

Letters in array names: N events, K id fields, F features, W numbers of an outcome.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evercurrent.slots import slot_of, user_key
from evercurrent.v1 import columns_pb2, description_pb2, observation_pb2, session_pb2, wire_pb2, worker_pb2
from evercurrent.wire import Layout, Records

FRAME_EVENTS = 256
OPENS_A_FRAME = 1024


@dataclass(frozen=True, slots=True)
class Drawn:
    """What happened, N times: `ids` [N, K], `features` [N, F] and `outcomes` [N, W] as float32, of a choice [N] as
    int64."""

    ids: NDArray[np.int64]
    features: NDArray[np.float32]
    outcomes: NDArray[np.float32] | NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, at: slice | NDArray[np.int64]) -> Drawn:
        """Some of them."""
        return Drawn(self.ids[at], self.features[at], self.outcomes[at])


@dataclass(slots=True)
class Traffic:
    """Draws observations that fit any model. The same seed draws the same."""

    model: description_pb2.ModelDescription
    rng: np.random.Generator

    def session_requests(self, first_seq: int, num_events: int) -> list[bytes]:
        """Serialised observations of one session, seqs from `first_seq` on."""
        return self.requests_of(self.draw(num_events), np.arange(first_seq, first_seq + num_events))

    def requests_of(self, drawn: Drawn, seqs: NDArray[np.integer]) -> list[bytes]:
        """Serialised observations of sessions with these seqs."""
        columns = (seqs.tolist(), drawn.ids.tolist(), drawn.features.tolist(), drawn.outcomes.tolist())
        return [
            session_pb2.SessionRequest(
                observation=observation_pb2.Observation(
                    seq=seq, ids=ids, features=features, **self._outcome_field(outcome)
                )
            ).SerializeToString()
            for seq, ids, features, outcome in zip(*columns, strict=True)
        ]

    def observations(self, num_events: int) -> list[dict[str, Any]]:
        """Observations, as the Python client takes them."""
        drawn = self.draw(num_events)
        columns = (drawn.ids.tolist(), drawn.features.tolist(), drawn.outcomes.tolist())
        is_value = self._kind == description_pb2.OUTCOME_KIND_VALUE
        return [
            {"ids": ids, "features": features, "outcome": outcome[0] if is_value else outcome}
            for ids, features, outcome in zip(*columns, strict=True)
        ]

    def exchange_frame(self, first_tag: int, seq: int) -> bytes:
        """One serialised Exchange frame: the `seq`th event of each of FRAME_EVENTS sessions with adjacent tags."""
        tags = np.arange(first_tag, first_tag + FRAME_EVENTS)
        return self.exchange_request(tags, np.full(FRAME_EVENTS, seq), self.draw(FRAME_EVENTS))

    def exchange_request(self, tags: NDArray[np.integer], seqs: NDArray[np.integer], drawn: Drawn) -> bytes:
        """One serialised Exchange frame of these events."""
        events = wire_pb2.WireEventColumns(
            tags=tags.astype("<u4").tobytes(),
            seqs=seqs.astype("<u8").tobytes(),
            ids=drawn.ids.astype("<i8").tobytes(),
            features=drawn.features.astype("<f4").tobytes(),
        )
        if self._kind == description_pb2.OUTCOME_KIND_CHOICE:
            events.choices = drawn.outcomes.astype("<i8").tobytes()
        elif self._kind == description_pb2.OUTCOME_KIND_VALUE:
            events.values = drawn.outcomes.astype("<f4").tobytes()
        else:
            events.vectors = drawn.outcomes.astype("<f4").tobytes()
        return wire_pb2.WireExchangeRequest(frame=wire_pb2.WireExchangeFrame(events=events)).SerializeToString()

    def link_frame(self, first_tag: int, seq: int) -> bytes:
        """The same as a frame of a router to a worker."""
        tags = np.arange(first_tag, first_tag + FRAME_EVENTS)
        return link_request(self.link_events(tags, np.full(FRAME_EVENTS, seq)).tobytes())

    def link_events(self, tags: NDArray[np.integer], seqs: NDArray[np.integer]) -> Records:
        """Observations of these sessions as a router's records."""
        drawn = self.draw(len(tags))
        events = np.zeros(len(tags), Layout.of(self.model).event_dtype)
        events["seq"] = seqs
        events["event_time_us"] = 1
        events["ids"] = drawn.ids
        events["features"] = drawn.features
        events["tag"] = tags
        events["choice" if self._kind == description_pb2.OUTCOME_KIND_CHOICE else "outcome"] = drawn.outcomes
        events["kind"] = columns_pb2.EVENT_KIND_OBSERVATION
        return events

    def draw(self, num_events: int) -> Drawn:
        """Each id uniform over its field, features standard normal, outcomes one end of what is allowed, any choice, or
        uniform within what is allowed where that is a vector."""
        model, rng = self.model, self.rng
        ids_NK = rng.integers(0, [field.size for field in model.ids], (num_events, len(model.ids)))
        low, high = model.outcome_min, model.outcome_max
        if low == high == 0:
            low, high = -1.0, 1.0
        outcomes: NDArray[Any]
        if self._kind == description_pb2.OUTCOME_KIND_CHOICE:
            outcomes = rng.integers(0, model.num_choices, num_events)
        elif self._kind == description_pb2.OUTCOME_KIND_VALUE:
            outcomes = np.where(rng.integers(0, 2, (num_events, 1)), high, low).astype(np.float32)
        else:
            outcomes = rng.uniform(low, high, (num_events, model.outcome_width)).astype(np.float32)
        features_NF = rng.standard_normal((num_events, len(model.features)), np.float32)
        return Drawn(ids_NK, features_NF, outcomes)

    @property
    def _kind(self) -> description_pb2.OutcomeKind:
        return self.model.outcome

    def _outcome_field(self, outcome: Any) -> dict[str, Any]:
        if self._kind == description_pb2.OUTCOME_KIND_CHOICE:
            return {"choice": outcome}
        if self._kind == description_pb2.OUTCOME_KIND_VALUE:
            return {"value": outcome[0]}
        return {"vector": observation_pb2.Vector(values=outcome)}


def session_open(user_id: str, *, wait_durable: bool = False, timings: bool = False) -> bytes:
    """A serialised open of a new session."""
    opening = session_pb2.SessionOpen(user_id=user_id, wait_durable=wait_durable, timings=timings)
    return session_pb2.SessionRequest(open=opening).SerializeToString()


def exchange_opens(users: Sequence[str], *, timings: bool = False) -> list[bytes]:
    """Serialised messages that open an Exchange stream and a session a user, with tags 0, 1, 2 …"""
    tag_opens = [session_pb2.TagOpen(tag=tag, user_id=user) for tag, user in enumerate(users)]
    messages = [wire_pb2.WireExchangeRequest(open=session_pb2.ExchangeOpen(timings=timings))]
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
