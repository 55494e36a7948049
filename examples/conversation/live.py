"""Conversations through the service, all users' side by side: a message comes, the reply is given that is ranked first,
the user gives a thumb, the model learns.

Letters as in `simulator`; F numbers of a message and a reply.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

import evercurrent
from evercurrent.client import Client, Session
from evercurrent.models.adaptive.replay import NIGHT_EVENTS
from examples.conversation.simulator import Conversations, Floats, Ints

AT_ONCE, AT_NIGHT, NEVER = 1, NIGHT_EVENTS, 1_000_000
"""How many thumbs of a user are kept back before all of them are learned from."""


@dataclass(frozen=True, slots=True)
class Replies:
    """What was chosen of the candidates, and how likely it seemed to get a thumb up. `again`: the same, had the same
    message come once more right after a thumb down that was learned from at once; -1 at other turns."""

    chosen_TU: Ints
    expected_TU: Floats
    again_TU: Ints
    expected_again_TU: Floats

    @classmethod
    def empty(cls, shape: tuple[int, ...]) -> Self:
        """To be filled in turn by turn."""
        chosen_TU, expected_TU = np.full(shape, -1, np.int64), np.zeros(shape, np.float32)
        return cls(chosen_TU, expected_TU, chosen_TU.copy(), expected_TU.copy())


async def converse(address: str, conversations: Conversations, name: str, learn_after: int) -> Replies:
    """Talks with all users, who are new to the service under such a name; learns from `learn_after` thumbs at a
    time."""
    replies = Replies.empty(conversations.kind_TU.shape)
    async with evercurrent.connect(address) as client, asyncio.TaskGroup() as tasks:
        for user in range(conversations.num_users):
            tasks.create_task(_talk(client, f"{name}-{user}", conversations, user, learn_after, replies))
    return replies


async def _talk(
    client: Client, user_id: str, conversations: Conversations, user: int, learn_after: int, replies: Replies
) -> None:
    kept_back = []
    async with client.session(user_id) as session:
        for turn in range(conversations.num_turns):
            features_CF = conversations.features(turn, user)
            chosen, replies.expected_TU[turn, user] = await first_choice(session, features_CF)
            replies.chosen_TU[turn, user] = chosen
            thumb = conversations.thumb(turn, user, chosen)
            kept_back.append((features_CF[chosen], thumb))
            if len(kept_back) == learn_after:
                for features_F, outcome in kept_back:
                    (await session.observe(features=features_F, outcome=outcome)).raise_for_rejection()
                kept_back.clear()
            if learn_after == AT_ONCE and not thumb:
                again, replies.expected_again_TU[turn, user] = await first_choice(session, features_CF)
                replies.again_TU[turn, user] = again


async def first_choice(session: Session, features_CF: Sequence[Sequence[float]]) -> tuple[int, float]:
    """The reply that is ranked first, and how likely it seems to get a thumb up."""
    best, *_ = await session.rank([{"features": features_F} for features_F in features_CF])
    return best.index, best.score
