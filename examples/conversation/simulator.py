"""Simulated users who are talked with: what they like, how that changes, what they say.

Messages are of some kinds, replies of some styles; an embedding is that of its kind or style, blurred. What a user
likes is in part what everyone likes, in part the user's own, and of this some holds for any message and some for one
kind. The user's own part drifts slowly, and now and then it jumps: all of it is drawn anew. Some thumbs go the wrong
way. Messages, candidates, tastes and luck do not depend on what is replied, so that all policies meet the same users.

Everything is drawn from seeded generators. The users are made up: figures on them say that the system works, nothing
about people.

Letters: U users, T turns, C candidates, K kinds, S styles, M numbers of a message, R numbers of a reply.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
_Reals = npt.NDArray[np.float64]

KINDS = ("question", "complaint", "small talk")
STYLES = ("brief", "thorough", "warm", "playful", "formal", "frank")
NUM_CANDIDATES = 8
EMBEDDING_SIZE = 8
"""M and R."""

WRONG_WAY = 0.05
JUMP_RATE = 1 / 50
KEPT = 0.998
"""How much of a user's own taste is the same a turn later, as a correlation."""
_EVERYONE_SPREAD, _PERSON_SPREAD, _KIND_SPREAD = 0.8, 2.5, 1.5
_MESSAGE_BLUR, _REPLY_BLUR = 0.3, 0.2
_MAIN_STYLE = 0.8


@dataclass(frozen=True, slots=True)
class World:
    """The embeddings of kinds and styles, and what everyone likes, log-odds."""

    message_KM: _Reals
    reply_SR: _Reals
    everyone_KS: _Reals

    @classmethod
    def draw(cls, seed: int) -> World:
        """A world by seed."""
        rng = np.random.default_rng(seed)
        return cls(
            message_KM=rng.normal(size=(len(KINDS), EMBEDDING_SIZE)),
            reply_SR=rng.normal(size=(len(STYLES), EMBEDDING_SIZE)),
            everyone_KS=rng.normal(0.0, _EVERYONE_SPREAD, (len(KINDS), len(STYLES))),
        )


@dataclass(frozen=True, slots=True)
class Conversations:
    """T turns of U users, as they are whatever is replied: what the user says, what might be replied, the main style of
    each reply, how likely it gets a thumb up, and whether the user's taste has just jumped. A reply gets one where
    `luck_TU` is below its chance."""

    kind_TU: Ints
    message_TUM: Floats
    style_TUC: Ints
    reply_TUCR: Floats
    chance_TUC: _Reals
    luck_TU: _Reals
    jumps_TU: Bools

    @property
    def num_turns(self) -> int:
        """T."""
        return len(self.kind_TU)

    @property
    def num_users(self) -> int:
        """U."""
        return len(self.kind_TU[0])

    def features(self, turn: int, user: int) -> list[list[float]]:
        """What the service is told of each reply that might be given then: the numbers of the message and its own."""
        message: list[float] = self.message_TUM[turn, user].tolist()
        return [message + reply for reply in self.reply_TUCR[turn, user].tolist()]

    def thumb(self, turn: int, user: int, chosen: int) -> float:
        """Up (1) or down (0) for the reply that was chosen."""
        return float(self.luck_TU[turn, user] < self.chance_TUC[turn, user, chosen])

    def thumbs(self, chosen_TU: Ints) -> Floats:
        """Up or down [T, U] for all that were chosen."""
        chance_TU = np.take_along_axis(self.chance_TUC, chosen_TU[..., None], axis=2)[..., 0]
        return (self.luck_TU < chance_TU).astype(np.float32)


def simulate(world: World, rng: np.random.Generator, num_users: int, num_turns: int) -> Conversations:
    """What `num_users` new users of a world say in so many turns, and like."""
    taste_TUKS, jumps_TU = tastes(rng, num_users, num_turns)
    shape = (num_turns, num_users)
    kind_TU = rng.integers(len(KINDS), size=shape)
    style_TUC = rng.integers(len(STYLES), size=(*shape, NUM_CANDIDATES))
    mix_TUCS = (1 - _MAIN_STYLE) * rng.dirichlet(np.ones(len(STYLES)), style_TUC.shape)
    mix_TUCS += _MAIN_STYLE * np.eye(len(STYLES))[style_TUC]
    now_TUS = np.take_along_axis(taste_TUKS + world.everyone_KS, kind_TU[..., None, None], axis=2)[:, :, 0]
    liked_TUC = np.einsum("tucs,tus->tuc", mix_TUCS, now_TUS)
    message_TUM = world.message_KM[kind_TU] + rng.normal(0.0, _MESSAGE_BLUR, (*shape, EMBEDDING_SIZE))
    reply_TUCR = mix_TUCS @ world.reply_SR + rng.normal(0.0, _REPLY_BLUR, (*style_TUC.shape, EMBEDDING_SIZE))
    return Conversations(
        kind_TU=kind_TU,
        message_TUM=message_TUM.astype(np.float32),
        style_TUC=style_TUC,
        reply_TUCR=reply_TUCR.astype(np.float32),
        chance_TUC=WRONG_WAY + (1 - 2 * WRONG_WAY) / (1 + np.exp(-liked_TUC)),
        luck_TU=rng.random(shape),
        jumps_TU=jumps_TU,
    )


def tastes(rng: np.random.Generator, num_users: int, num_turns: int) -> tuple[_Reals, Bools]:
    """Users' own tastes [T, U, K, S], log-odds, and at which turns [T, U] they were drawn anew; the first is none."""
    jumps_TU = rng.random((num_turns, num_users)) < JUMP_RATE
    jumps_TU[0] = False
    own_UKS = _own(rng, num_users)
    taste_TUKS = np.empty((num_turns, *own_UKS.shape))
    for t in range(num_turns):
        drifted_UKS = KEPT * own_UKS + np.sqrt(1 - KEPT**2) * _own(rng, num_users)
        own_UKS = np.where(jumps_TU[t, :, None, None], _own(rng, num_users), drifted_UKS)
        taste_TUKS[t] = own_UKS
    return taste_TUKS, jumps_TU


def _own(rng: np.random.Generator, num_users: int) -> _Reals:
    person_U1S = rng.normal(0.0, _PERSON_SPREAD, (num_users, 1, len(STYLES)))
    return person_U1S + rng.normal(0.0, _KIND_SPREAD, (num_users, len(KINDS), len(STYLES)))
