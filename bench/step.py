"""The model's step by itself: one update of one user in this process, on one thread, without any serving around it."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from evercurrent.model import Batch
from evercurrent.models.loading import load_model


def step_timer(model_name: str, seed: int) -> Callable[[int, float], NDArray[np.int64]]:
    """A function that makes so many updates of one user, each from the state that the last one left and so many seconds
    after it, and gives the time of each in ns. An idle core forgets: a step after a pause takes longer."""
    torch.set_num_threads(1)
    model = load_model(model_name)
    generator = torch.Generator().manual_seed(seed)
    state_BD = model.initial_state().unsqueeze(0)

    def draw() -> Batch:
        ids = [torch.randint(field.size, (1,), generator=generator) for field in model.observation.ids]
        return Batch(
            ids_BK=torch.stack(ids, dim=1),
            features_BF=torch.zeros(1, len(model.observation.features)),
            outcome=torch.randint(2, (1,), generator=generator).float(),
            has_outcome_B=torch.ones(1, dtype=torch.bool),
            event_time_us_B=torch.ones(1, dtype=torch.int64),
        )

    def measure(num_steps: int, idle_s: float) -> NDArray[np.int64]:
        nonlocal state_BD
        times_ns = np.empty(num_steps, np.int64)
        for i in range(num_steps):
            batch = draw()
            time.sleep(idle_s)
            start_ns = time.perf_counter_ns()
            update = model.update(state_BD, batch)
            times_ns[i] = time.perf_counter_ns() - start_ns
            state_BD = update.state_BD
        return times_ns

    return measure
