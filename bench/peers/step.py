"""The step that every peer makes: the served model's own, on one thread and compiled, as our workers make it.

Peers have no guard on losses, gradients and states, no order of seqs and no sessions that outlive their streams: what
they leave out makes them faster.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bench.service import MODEL_NAME
from bench.step import update_of
from evercurrent.models.loading import load_model
from evercurrent.v1 import columns_pb2, observation_pb2, session_pb2, wire_pb2


class Updates(NamedTuple):
    """What a step of B users gives: their rows, and what each is to be told. Arrays [B]; `rows` as `Step.row`."""

    rows: NDArray[np.void]
    predictions: NDArray[np.float32]
    losses: NDArray[np.float32]


class Step:
    """The model and its step. `row` is the dtype of what is kept of a user: how many updates it had, and its state."""

    def __init__(self) -> None:
        model = load_model(MODEL_NAME)
        self._update = update_of(model)
        self.row = np.dtype([("version", "<u8"), ("state", "<f4", (model.state_width,))])
        self.num_ids = len(model.observation.ids)
        initial = np.zeros(1, self.row)
        initial["state"] = model.initial_state().numpy()
        self.initial_row = initial.tobytes()

    def __call__(self, rows: NDArray[np.void], ids: NDArray[np.int64], outcomes: NDArray[np.float32]) -> Updates:
        """One update of each of B different users: rows [B], ids [B, K], outcomes [B]. The rows given are not kept."""
        size = len(rows)
        update = self._update(
            rows["state"],
            ids,
            np.zeros((size, 0), np.float32),
            outcomes,
            np.ones(size, np.bool_),
            np.zeros(size, np.int64),
        )
        new = np.empty(size, self.row)
        new["version"] = rows["version"] + np.uint64(1)
        new["state"] = update.state_BD
        return Updates(new, update.prediction_BP[:, 0], update.loss_B)


def observations(requests: Sequence[observation_pb2.Observation]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Ids [B, K] and outcomes [B]."""
    ids = np.array([request.ids for request in requests], np.int64)
    return ids, np.array([request.value for request in requests], np.float32)


def session_response(seq: int, version: int, prediction: float, loss: float) -> session_pb2.SessionResponse:
    """The answer to an observation."""
    return session_pb2.SessionResponse(
        result=observation_pb2.ObservationResult(
            seq=seq,
            status=observation_pb2.STATUS_APPLIED,
            version=version,
            applied_seq=seq,
            prediction=[prediction],
            loss=loss,
        )
    )


def frame_observations(
    events: wire_pb2.WireEventColumns, num_ids: int
) -> tuple[NDArray[np.uint32], NDArray[np.int64], NDArray[np.float32]]:
    """Tags [N], ids [N, K] and outcomes [N] of a frame's events, one a tag.

    Raises:
        ValueError: a tag has several.
    """
    tags: NDArray[np.uint32] = np.frombuffer(events.tags, "<u4")
    if len(np.unique(tags)) != len(tags):
        raise ValueError("a frame holds one event a tag")
    ids: NDArray[np.int64] = np.frombuffer(events.ids, "<i8").reshape(-1, num_ids).copy()
    outcomes: NDArray[np.float32] = np.frombuffer(events.values, "<f4").copy()
    return tags, ids, outcomes


def exchange_response(events: wire_pb2.WireEventColumns, updates: Updates) -> wire_pb2.WireExchangeResponse:
    """The answer to a frame's events."""
    size = len(updates.rows)
    columns = wire_pb2.WireResultColumns(
        tags=events.tags,
        seqs=events.seqs,
        statuses=bytes([observation_pb2.STATUS_APPLIED]) * size,
        kinds=bytes([columns_pb2.EVENT_KIND_OBSERVATION]) * size,
        versions=updates.rows["version"].tobytes(),
        applied_seqs=events.seqs,
        predictions=updates.predictions.tobytes(),
        losses=updates.losses.tobytes(),
    )
    return wire_pb2.WireExchangeResponse(frame=wire_pb2.WireExchangeResults(results=columns))


def opened_response() -> session_pb2.SessionResponse:
    """The answer to a session's open."""
    return session_pb2.SessionResponse(opened=session_pb2.SessionOpened(model=MODEL_NAME))


def tags_opened_response(opens: Any) -> wire_pb2.WireExchangeResponse:
    """The answer to a frame's opens."""
    opened = session_pb2.SessionOpened(model=MODEL_NAME)
    answers = [session_pb2.TagOpened(tag=each.tag, opened=opened) for each in opens]
    return wire_pb2.WireExchangeResponse(frame=wire_pb2.WireExchangeResults(opens=answers))


def exchange_opened_response() -> wire_pb2.WireExchangeResponse:
    """The answer to the open of an Exchange stream."""
    return wire_pb2.WireExchangeResponse(opened=session_pb2.ExchangeOpened(model=MODEL_NAME))
