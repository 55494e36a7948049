"""Simulated pupils who are taught through the service, each question chosen for the pupil by what is predicted then.

Letters: U pupils.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

import evercurrent
from evercurrent.client import Session
from evercurrent.models.knowledge_tracing import World
from evercurrent.models.knowledge_tracing.simulator import Minds

NUM_CHOICES = 20
SUCCESS = 0.7
"""A question that is answered right so often is thought to teach best: neither dull nor hopeless."""

Candidate = dict[str, list[int]]
Choose = Callable[[Session, Sequence[Candidate], np.random.Generator], Awaitable[int]]


@dataclass(frozen=True, slots=True)
class Lessons:
    """What became of U pupils: how often they were right, by question; how much their mastery grew, log-odds, a mean of
    all skills."""

    right_TU: npt.NDArray[np.bool_]
    gain_U: npt.NDArray[np.float64]


async def at_random(session: Session, candidates: Sequence[Candidate], rng: np.random.Generator) -> int:
    """Any question."""
    return int(rng.integers(len(candidates)))


async def within_reach(session: Session, candidates: Sequence[Candidate], rng: np.random.Generator) -> int:
    """The question whose chance to be answered right is nearest to SUCCESS."""
    best, *_ = await session.rank(candidates, score=lambda prediction: -abs(prediction[0] - SUCCESS))
    return best.index


async def teach(address: str, world: World, num_pupils: int, num_questions: int, seed: int, choose: Choose) -> Lessons:
    """Teaches pupils, the same ones by the same seed: each time one of NUM_CHOICES questions is chosen, asked, and
    learned from."""
    rng = np.random.default_rng(seed)
    minds = Minds.draw(rng, world, num_pupils)
    before_U = minds.mastery_UK.mean(1)
    right_TU = np.zeros((num_questions, num_pupils), np.bool_)
    async with AsyncExitStack() as opened:
        client = await opened.enter_async_context(evercurrent.connect(address))
        sessions = [
            await opened.enter_async_context(client.session(f"pupil-{choose.__name__}-{seed}-{pupil}"))
            for pupil in range(num_pupils)
        ]
        for question in range(num_questions):
            item_UC = rng.integers(world.item_skill_I.size, size=(num_pupils, NUM_CHOICES))
            offered = [
                [{"ids": [item + 1, int(world.item_skill_I[item]) + 1]} for item in items] for items in item_UC.tolist()
            ]
            chosen_U = await asyncio.gather(
                *(choose(session, candidates, rng) for session, candidates in zip(sessions, offered, strict=True))
            )
            item_U = item_UC[np.arange(num_pupils), chosen_U]
            right_U = minds.answer(world, world.item_skill_I[item_U], item_U, rng.random(num_pupils))
            right_TU[question] = right_U
            for result in await asyncio.gather(
                *(
                    session.observe(ids=candidates[chosen]["ids"], outcome=float(is_right))
                    for session, candidates, chosen, is_right in zip(sessions, offered, chosen_U, right_U, strict=True)
                )
            ):
                result.raise_for_rejection()
    return Lessons(right_TU, minds.mastery_UK.mean(1) - before_U)
