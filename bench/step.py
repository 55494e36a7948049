"""The model's step by itself: one update of one user in this process, on one thread, without any serving around it, as
a worker makes it."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from evercurrent.model import CompiledUpdate, Model
from evercurrent.models.loading import load_model


def update_of(model: Model) -> CompiledUpdate:
    """What a worker makes the steps of the benches' model by."""
    torch.set_num_threads(1)
    update = model.compiled_update()
    assert update is not None, "the model of the benches has one"
    return update


def step_timer(model_name: str, seed: int) -> Callable[[int, float], NDArray[np.int64]]:
    """A function that makes so many updates of one user, each from the state that the last one left and so many seconds
    after it, and gives the time of each in ns. An idle core forgets: a step after a pause takes longer."""
    model = load_model(model_name)
    update, rng = update_of(model), np.random.default_rng(seed)
    state_BD = model.initial_state().numpy()[None]
    features_BF = np.zeros((1, len(model.observation.features)), np.float32)
    has_outcome_B, event_time_us_B = np.ones(1, np.bool_), np.ones(1, np.int64)

    def measure(num_steps: int, idle_s: float) -> NDArray[np.int64]:
        nonlocal state_BD
        times_ns = np.empty(num_steps, np.int64)
        for i in range(num_steps):
            ids_BK = np.array([[rng.integers(field.size) for field in model.observation.ids]])
            outcome_B = rng.integers(2, size=1).astype(np.float32)
            time.sleep(idle_s)
            start_ns = time.perf_counter_ns()
            updated = update(state_BD, ids_BK, features_BF, outcome_B, has_outcome_B, event_time_us_B)
            times_ns[i] = time.perf_counter_ns() - start_ns
            state_BD = updated.state_BD
        return times_ns

    return measure
