"""What would be recommended before each event, and at which place the item stood that came.

Candidates are the items that the viewer has not met yet. A scorer takes the events of one viewer, by time, and gives
scores of all items before each; what it learned of an event may count from the next one on. Equal scores: the item with
the lower number stands first, as in `Session.rank` for candidates in that order.

Letters: N events of a log, T events of one viewer, I rows of items, S floats of a state's vector.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch

from evercurrent.models.adaptive import UNKNOWN, EventLog, Ranking
from evercurrent.models.adaptive.data import Floats, Ints
from evercurrent.models.adaptive.model import faded, kept
from evercurrent.models.adaptive.replay import NIGHT_EVENTS
from evercurrent.models.adaptive.unrolling import Window, unroll

Scorer = Callable[[EventLog], Floats]


def places(log: EventLog, scorer: Scorer) -> Ints:
    """How many candidates [N] stood before the item of each event."""
    place_N = np.empty(len(log), np.int64)
    for at_T in log.by_user():
        events = log.at(at_T)
        item_T1 = events.ids_NK
        score_TI = np.where(candidates(events), scorer(events), -np.inf)
        own_T1 = np.take_along_axis(score_TI, item_T1, axis=1)
        ties_TI = (score_TI == own_T1) & (np.arange(score_TI.shape[1]) < item_T1)
        place_N[at_T] = ((score_TI > own_T1) | ties_TI).sum(axis=1)
    return place_N


def candidates(events: EventLog) -> npt.NDArray[np.bool_]:
    """Which items [T, I] one viewer had not met before each event; the event's own is always one."""
    num_items, item_T = events.ids.sizes["item"], events.ids_NK[:, 0]
    first_I = np.full(num_items, len(events))
    first_I[item_T[::-1]] = np.arange(len(events))[::-1]
    is_new_TI: npt.NDArray[np.bool_] = first_I >= np.arange(len(events))[:, None]
    is_new_TI[:, UNKNOWN] = False
    is_new_TI[np.arange(len(events)), item_T] = True
    return is_new_TI


def num_candidates(log: EventLog) -> Ints:
    """How many candidates [N] there were before each event."""
    num_N = np.empty(len(log), np.int64)
    for at_T in log.by_user():
        num_N[at_T] = candidates(log.at(at_T)).sum(axis=1)
    return num_N


def by_model(model: Ranking) -> Scorer:
    """By a viewer's state as it is before each event."""

    @torch.inference_mode()
    def score(events: EventLog) -> Floats:
        unrolled = unroll(model, model.initial_S.unsqueeze(0), _window(events))
        scores: Floats = model.catalogue(unrolled.vector_TBS[:, 0]).numpy()
        return scores

    return score


def by_nightly_model(model: Ranking, night_events: int = NIGHT_EVENTS) -> Scorer:
    """By a state that stands still, but for fading with time, between nights: one falls after so many events."""

    @torch.inference_mode()
    def score(events: EventLog) -> Floats:
        vector_1S, weights, scores = model.initial_S.unsqueeze(0), model.weights(), []
        for start in range(0, len(events), night_events):
            window = _window(events, start, start + night_events)
            now_TS = vector_1S.expand(len(window.gap_TB), -1)
            if model.uses_time and start:
                now_TS = faded(vector_1S, kept(window.gap_TB[:, 0].cumsum(0), weights), weights)
            scores.append(model.catalogue(now_TS).numpy())
            vector_1S = unroll(model, vector_1S, window).vector_BS
        return np.concatenate(scores)

    return score


def _window(events: EventLog, start: int = 0, stop: int | None = None) -> Window:
    within = slice(start, stop)
    return Window(
        ids_TBK=torch.from_numpy(events.ids_NK[within]).unsqueeze(1),
        features_TBF=torch.from_numpy(events.features_NF[within]).unsqueeze(1),
        gap_TB=torch.from_numpy(events.gaps_s()[within]).unsqueeze(1),
        outcome_TB=torch.from_numpy(events.outcome_N[within]).unsqueeze(1),
        is_event_TB=torch.ones(len(events.outcome_N[within]), 1, dtype=torch.bool),
    )


def by_popularity(training: EventLog) -> Scorer:
    """By how many viewers liked an item in training."""
    liked_I = _liked(training)
    return lambda events: np.broadcast_to(liked_I.astype(np.float32), (len(events), liked_I.size))


def by_item_knn(training: EventLog, keeps: float = 1.0) -> Scorer:
    """By the cosine of items, over viewers in training who liked them, to those that the viewer liked: a sum, in which
    an event's weight becomes `keeps` of it with each later one; else by popularity."""
    num_items = training.ids.sizes["item"]
    liked_UI = np.zeros((len(training.users), num_items))
    is_liked_N = training.outcome_N > 0
    liked_UI[training.user_N[is_liked_N], training.ids_NK[is_liked_N, 0]] = 1.0
    liked_I = liked_UI.sum(axis=0)
    length_I = np.sqrt(np.maximum(liked_I, 1.0))
    cosine_II = (liked_UI.T @ liked_UI / length_I / length_I[:, None]).astype(np.float32)
    little_I = (1e-6 * liked_I).astype(np.float32)

    def score(events: EventLog) -> Floats:
        score_TI = np.empty((len(events), num_items), np.float32)
        sum_I = np.zeros(num_items, np.float32)
        for t, (item, liked) in enumerate(zip(events.ids_NK[:, 0], events.outcome_N, strict=True)):
            score_TI[t] = sum_I + little_I
            sum_I = keeps * sum_I + (cosine_II[item] if liked else 0.0)
        return score_TI

    return score


def _liked(training: EventLog) -> Ints:
    return np.bincount(training.ids_NK[training.outcome_N > 0, 0], minlength=training.ids.sizes["item"])
