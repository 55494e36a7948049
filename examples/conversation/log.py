"""Logs of conversations: what was said, what was replied, and the thumb that it got, an event each.

A CSV log has the columns user_id, timestamp and outcome (1: thumb up, 0: thumb down), and the numbers of two
embeddings, message_0, message_1, … and reply_0, reply_1, …: as many of each as its header names, of about unit size.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from evercurrent.models.adaptive import Columns, EventLog, Ids, LogError, read_csv, read_header
from examples.conversation.simulator import Conversations

PARTS = ("message", "reply")


def read_log(path: Path) -> EventLog:
    """Reads a log. Raises LogError."""
    header = read_header(path)
    names: list[str] = []
    for part in PARTS:
        found = sum(name.startswith(f"{part}_") for name in header)
        if not found:
            raise LogError(f"{path} lacks the column {part}_0: its header must name {part}_0, {part}_1, …")
        names += (f"{part}_{at}" for at in range(found))
    return read_csv(path, Columns(features={name: name for name in names}, outcome_kind="share"))


def log_at_random(conversations: Conversations, rng: np.random.Generator) -> EventLog:
    """The log of conversations in which any of the candidates was replied."""
    shape = num_turns, num_users = conversations.num_turns, conversations.num_users
    chosen_TU = rng.integers(conversations.chance_TUC.shape[2], size=shape)
    reply_TUR = np.take_along_axis(conversations.reply_TUCR, chosen_TU[..., None, None], axis=2)[:, :, 0]
    features_TUF = np.concatenate((conversations.message_TUM, reply_TUR), axis=2)
    size = num_turns * num_users
    return EventLog(
        user_N=np.tile(np.arange(num_users, dtype=np.int64), num_turns),
        order_N=np.repeat(np.arange(num_turns, dtype=np.float64), num_users),
        time_us_N=np.zeros(size, np.int64),
        ids_NK=np.zeros((size, 0), np.int64),
        features_NF=features_TUF.reshape(size, -1),
        outcome_N=conversations.thumbs(chosen_TU).ravel(),
        users=tuple(f"user-{user}" for user in range(num_users)),
        ids=Ids({}),
    )
