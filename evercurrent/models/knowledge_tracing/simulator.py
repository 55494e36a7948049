"""Simulated learners: an honest stand-in for real logs, which may not be passed on.

A world has skills and items. An item asks for one skill and has a difficulty. A learner has an ability, a pace of
learning and, for each skill, a mastery: practice lifts it towards a ceiling, by less the closer it is, and while other
skills are practised it fades towards what the learner came with. Learners work in stretches on one skill, as in
exercise books. Some answers are guessed right, some slip.

Everything is drawn from seeded generators: the same seeds give the same log, and nothing reads a clock. The worlds are
made up: figures on them say that the system works, nothing about people.

Letters: U learners, T their events, K skills, I items.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from evercurrent.models.adaptive.data import EventLog, Floats, Ids, Ints

_Reals = npt.NDArray[np.float64]

GUESS, SLIP = 0.08, 0.05
_ABILITY_SPREAD, _SKILL_SPREAD = 1.0, 0.9
_LEARN_MEAN, _LIFT = 0.10, 3.0
_FADE = 0.004
_STRETCH_EVENTS_MEAN = 8.0


@dataclass(frozen=True, slots=True)
class World:
    """What there is to learn: each item's skill and difficulty, each skill's difficulty. Items and skills count from
    0; a model's rows count from 1."""

    item_skill_I: Ints
    item_difficulty_I: _Reals
    skill_difficulty_K: _Reals

    @classmethod
    def draw(cls, num_items: int, num_skills: int, seed: int) -> World:
        """A world by seed, in which every skill has items. Needs `num_items` of at least `num_skills`."""
        if not 0 < num_skills <= num_items:
            raise ValueError(f"{num_items} items cannot ask for {num_skills} skills: each skill needs an item")
        rng = np.random.default_rng(seed)
        return cls(
            item_skill_I=np.arange(num_items, dtype=np.int64) % num_skills,
            item_difficulty_I=rng.normal(0.0, 0.8, num_items),
            skill_difficulty_K=rng.normal(0.3, 0.7, num_skills),
        )

    @property
    def ids(self) -> Ids:
        """The labels of a log of this world: items and skills by number."""
        return Ids(
            {
                "item": tuple(str(item) for item in range(self.item_skill_I.size)),
                "skill": tuple(str(skill) for skill in range(self.skill_difficulty_K.size)),
            }
        )


def default_world() -> World:
    """The world that the shipped weights were trained in."""
    return World.draw(num_items=300, num_skills=30, seed=2)


def simulate(world: World, num_users: int, num_events: int, seed: int) -> EventLog:
    """A log of `num_users` learners with `num_events` events each, in round-robin order.

    Another seed gives other learners of the same world.
    """
    rng = np.random.default_rng(seed)
    skill_TU = _curricula(rng, world, num_users, num_events)
    item_TU = _items(rng, world, skill_TU)
    outcome_TU = _outcomes(rng, world, skill_TU, item_TU)
    return EventLog(
        user_N=np.tile(np.arange(num_users, dtype=np.int64), num_events),
        order_N=np.repeat(np.arange(num_events, dtype=np.float64), num_users),
        time_us_N=np.zeros(item_TU.size, np.int64),
        ids_NK=np.stack((item_TU.ravel() + 1, skill_TU.ravel() + 1), axis=1),
        features_NF=np.zeros((item_TU.size, 0), np.float32),
        outcome_N=outcome_TU.ravel(),
        users=tuple(f"learner-{seed}-{user}" for user in range(num_users)),
        ids=world.ids,
    )


def _curricula(rng: np.random.Generator, world: World, num_users: int, num_events: int) -> Ints:
    """The skill [T, U] of every event: stretches of geometric length on skills drawn at random."""
    num_skills = world.skill_difficulty_K.size
    drawn_TU = rng.integers(num_skills, size=(num_events, num_users))
    begins_TU = rng.random((num_events, num_users)) < 1 / _STRETCH_EVENTS_MEAN
    begin_TU = np.where(begins_TU, np.arange(num_events)[:, None], 0)
    return np.take_along_axis(drawn_TU, np.maximum.accumulate(begin_TU, axis=0), axis=0)


def _items(rng: np.random.Generator, world: World, skill_TU: Ints) -> Ints:
    """An item [T, U] of each skill: items of one skill are `num_skills` apart."""
    num_skills, num_items = world.skill_difficulty_K.size, world.item_skill_I.size
    choices_TU = (num_items - 1 - skill_TU) // num_skills + 1
    return skill_TU + num_skills * rng.integers(choices_TU)


def _outcomes(rng: np.random.Generator, world: World, skill_TU: Ints, item_TU: Ints) -> Floats:
    """Right (1) or wrong (0) [T, U], while every learner's mastery rises by practice and fades without."""
    num_events, num_users = skill_TU.shape
    minds = Minds.draw(rng, world, num_users)
    luck_TU = rng.random((num_events, num_users))
    outcome_TU = np.empty((num_events, num_users), dtype=np.float32)
    for t in range(num_events):
        outcome_TU[t] = minds.answer(world, skill_TU[t], item_TU[t], luck_TU[t])
    return outcome_TU


@dataclass(frozen=True, slots=True)
class Minds:
    """What U learners came with, know, and how fast they learn. Masteries are log-odds on an item of no difficulty."""

    start_UK: _Reals
    mastery_UK: _Reals
    pace_U: _Reals

    @classmethod
    def draw(cls, rng: np.random.Generator, world: World, num_users: int) -> Minds:
        """Learners of a world, before their first answer."""
        num_skills = world.skill_difficulty_K.size
        ability_U1 = rng.normal(0.0, _ABILITY_SPREAD, (num_users, 1))
        start_UK = ability_U1 - world.skill_difficulty_K + rng.normal(0.0, _SKILL_SPREAD, (num_users, num_skills))
        pace_U = np.minimum(_LEARN_MEAN * rng.gamma(2.0, 0.5, num_users), 1.0)
        return cls(start_UK, start_UK.copy(), pace_U)

    def answer(self, world: World, skill_U: Ints, item_U: Ints, luck_U: _Reals) -> npt.NDArray[np.bool_]:
        """Each learner's next answer, right or wrong, by luck from 0 to 1; they learn from it."""
        users = np.arange(skill_U.size)
        practised_U = self.mastery_UK[users, skill_U]
        logit_U = practised_U - world.item_difficulty_I[item_U]
        is_right_U: npt.NDArray[np.bool_] = luck_U < GUESS + (1 - GUESS - SLIP) / (1 + np.exp(-logit_U))
        self.mastery_UK[:] += _FADE * (self.start_UK - self.mastery_UK)
        ceiling_U = self.start_UK[users, skill_U] + _LIFT
        self.mastery_UK[users, skill_U] = practised_U + self.pace_U * (ceiling_U - practised_U)
        return is_right_U
