"""Simulated viewers: an honest stand-in for real logs, which may not be passed on.

An item belongs to one taste and has an appeal. A viewer has a few tastes. They come in sessions that dwell on one of
these, items within it drawn by appeal; now and then something of any taste slips in. What is of the viewer's own tastes
is mostly liked. Nobody meets an item twice. All is drawn from seeded generators, and nothing reads a clock.

Letters: U viewers, T their events, I items.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from evercurrent.models.adaptive import EventLog, Ids
from evercurrent.models.adaptive.data import Ints

TASTES_EACH = 3
LIKED_OWN, LIKED_OTHER = 0.85, 0.25
_SLIPS_IN = 0.1
_SESSION_EVENTS_MEAN = 8.0
_APPEAL_SPREAD = 1.0
_BEGIN_S, _EVENT_S_MEAN, _ABSENCE_S_MEAN = 1_700_000_000.0, 60.0, 2 * 86_400.0


@dataclass(frozen=True, slots=True)
class World:
    """What there is to see: each item's taste, and its appeal, of which a step of 1 means e times as often. Items count
    from 0; a model's rows count from 1."""

    item_taste_I: Ints
    appeal_I: npt.NDArray[np.float64]

    @classmethod
    def draw(cls, num_items: int, num_tastes: int, seed: int) -> World:
        """A world by seed, in which tastes have about as many items each."""
        rng = np.random.default_rng(seed)
        return cls(np.arange(num_items, dtype=np.int64) % num_tastes, rng.normal(0.0, _APPEAL_SPREAD, num_items))


def simulate(world: World, num_users: int, num_events: int, seed: int) -> EventLog:
    """A log of `num_users` viewers with `num_events` events each: fewer than a taste has items."""
    rng = np.random.default_rng(seed)
    num_tastes = int(world.item_taste_I.max()) + 1
    taste_US = rng.random((num_users, num_tastes)).argsort(axis=1)[:, :TASTES_EACH]
    begins_TU = rng.random((num_events, num_users)) < 1 / _SESSION_EVENTS_MEAN
    begins_TU[0] = True
    item_TU = _items(rng, world, taste_US, begins_TU)
    is_own_TU = (world.item_taste_I[item_TU][..., None] == taste_US).any(-1)
    liked_TU = rng.random(item_TU.shape) < np.where(is_own_TU, LIKED_OWN, LIKED_OTHER)
    gap_s_TU = rng.exponential(np.where(begins_TU, _ABSENCE_S_MEAN, _EVENT_S_MEAN))
    order_TU = np.round(_BEGIN_S + gap_s_TU.cumsum(axis=0))
    return EventLog(
        user_N=np.tile(np.arange(num_users, dtype=np.int64), num_events),
        order_N=order_TU.ravel(),
        time_us_N=(order_TU.ravel() * 1e6).astype(np.int64),
        ids_NK=item_TU.reshape(-1, 1) + 1,
        features_NF=np.zeros((item_TU.size, 0), np.float32),
        outcome_N=liked_TU.ravel().astype(np.float32),
        users=tuple(f"viewer-{seed}-{user}" for user in range(num_users)),
        ids=Ids({"item": tuple(str(item) for item in range(world.appeal_I.size))}),
    )


def _items(rng: np.random.Generator, world: World, taste_US: Ints, begins_TU: npt.NDArray[np.bool_]) -> Ints:
    """The item [T, U] of every event, never one again: the largest of appeals with Gumbel noise, which draws by
    them."""
    num_events, num_users = begins_TU.shape
    users = np.arange(num_users)
    met_UI = np.zeros((num_users, world.appeal_I.size), np.bool_)
    item_TU = np.empty((num_events, num_users), np.int64)
    taste_U = taste_US[:, 0]
    for t in range(num_events):
        drawn_U = taste_US[users, rng.integers(taste_US.shape[1], size=num_users)]
        taste_U = np.where(begins_TU[t], drawn_U, taste_U)
        any_U = rng.random((num_users,)) < _SLIPS_IN
        is_out_UI = met_UI | ~((world.item_taste_I == taste_U[:, None]) | any_U[:, None])
        worth_UI = np.where(is_out_UI, -np.inf, world.appeal_I + rng.gumbel(size=met_UI.shape))
        item_TU[t] = worth_UI.argmax(axis=1)
        met_UI[users, item_TU[t]] = True
    return item_TU
