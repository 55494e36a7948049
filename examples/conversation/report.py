"""What came of it, told: how well thumbs were predicted; how many went up, and when; one exchange, turn by turn.

Letters as in `simulator`; N events of a log, or turns.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import numpy as np

from evercurrent.metrics import auc, log_loss
from evercurrent.models.adaptive import EventLog, by_events_seen
from examples.common import console, plot_seen, print_table, seen_bounds
from examples.conversation.live import Replies
from examples.conversation.simulator import KINDS, STYLES, Bools, Conversations, Floats, Ints

FIRST_TURNS, AFTER_JUMP_TURNS, EXCHANGE_TURNS_MAX = 5, 10, 6
SEEN = "turns of the user before"


def tell_predictions(stream: EventLog, predictions: Mapping[str, Floats], mean: float) -> None:
    """A table: how well logged thumbs were predicted, each before it was learned from, and by a mean."""
    named = {**predictions, "the mean of all": np.full(len(stream), mean, np.float32)}
    outcome_N = stream.outcome_N
    rows = [
        (name, f"{auc(outcome_N, each_N):.4f}", f"{log_loss(outcome_N, each_N):.4f}") for name, each_N in named.items()
    ]
    caption = f"{len(stream):,} logged thumbs of {stream.active_users.size:,} users never trained on"
    print_table("Will the thumb go up?", ("", "AUC", "log loss"), rows, caption)


def plot_predictions(stream: EventLog, predictions: Mapping[str, Floats], path: Path) -> None:
    """Writes the log loss of logged thumbs against turns seen."""
    bounds = seen_bounds(max(places.size for places in stream.by_user()), 2)
    curves = {}
    for name, each_N in predictions.items():
        right_N = np.where(stream.outcome_N > 0.5, each_N, 1 - each_N)
        curves[name] = by_events_seen(stream, -np.log(np.clip(right_N, 1e-7, 1)), bounds)
    plot_seen(bounds, curves, path, "The more thumbs, the better the next prediction", "log loss, nats", SEEN)


def tell_thumbs(conversations: Conversations, chosen: Mapping[str, Ints]) -> None:
    """A table: the share of thumbs up by who chose, and when."""
    when = {
        "all turns": np.ones(conversations.kind_TU.shape, np.bool_),
        f"first {FIRST_TURNS}": seen_TU(conversations) < FIRST_TURNS,
        "last third": seen_TU(conversations) >= 2 * conversations.num_turns // 3,
        f"{AFTER_JUMP_TURNS} after a jump": after_jump_TU(conversations),
    }
    rows = [
        (name, *(f"{mean_at(conversations.thumbs(chosen_TU), at_TU):.3f}" for at_TU in when.values()))
        for name, chosen_TU in chosen.items()
    ]
    caption = (
        f"{conversations.num_users} users never trained on, {conversations.num_turns} turns each, the same for all; "
        f"taste jumped {conversations.jumps_TU.sum()} times"
    )
    print_table("Thumbs up", ("reply chosen by", *when), rows, caption)


def plot_thumbs(conversations: Conversations, chosen: Mapping[str, Ints], path: Path) -> None:
    """Writes the share of thumbs up against turns seen."""
    bounds = sorted({0, FIRST_TURNS, *range(10, conversations.num_turns, 10), conversations.num_turns})
    curves = {}
    for name, chosen_TU in chosen.items():
        thumb_TU = conversations.thumbs(chosen_TU)
        curves[name] = [float(thumb_TU[low:high].mean()) for low, high in pairwise(bounds)]
    plot_seen(bounds, curves, path, "Every thumb counts from the next turn on", "thumbs up", SEEN)


def tell_exchange(conversations: Conversations, replies: Replies) -> None:
    """How often a thumb down changed the choice at once, and one such exchange."""
    down_TU = replies.again_TU >= 0
    share = mean_at(replies.again_TU != replies.chosen_TU, down_TU)
    console.print(f"Asked the same again right after a thumb down, the model chose otherwise {share:.0%} of the time.")
    found = find_exchange(conversations, replies)
    if found is None:
        return
    user, first, last = found
    rows = [_told(conversations, replies, turn, user) for turn in range(first, last + 1)]
    jumps_T = np.flatnonzero(conversations.jumps_TU[: first + 1, user])
    caption = f"user {user}; taste jumped at turn {jumps_T[-1]}" if jumps_T.size else f"user {user}"
    print_table("An exchange", ("turn", "message", "reply, chance", "thumb", "asked again, chance"), rows, caption)


def find_exchange(conversations: Conversations, replies: Replies) -> tuple[int, int, int] | None:
    """The user and the turns, first to last, of an exchange that is soon told: a thumb down makes another style the
    first choice; at the next message of that kind it is given, and gets a thumb up. If possible soon after a jump, and
    where the first reply seemed surest."""
    thumb_TU = conversations.thumbs(replies.chosen_TU)
    style_TU = _style(conversations, replies.chosen_TU)
    again_TU = _style(conversations, np.maximum(replies.again_TU, 0))
    turn_N, user_N = np.nonzero((replies.again_TU >= 0) & (again_TU != style_TU))
    for place in np.lexsort((-replies.expected_TU[turn_N, user_N], ~after_jump_TU(conversations)[turn_N, user_N])):
        turn, user = int(turn_N[place]), int(user_N[place])
        kind_T = conversations.kind_TU[turn : turn + EXCHANGE_TURNS_MAX, user]
        same_N = turn + np.flatnonzero(kind_T == kind_T[0])[1:]
        if same_N.size and thumb_TU[same_N[0], user] and style_TU[same_N[0], user] == again_TU[turn, user]:
            return user, turn, int(same_N[0])
    return None


def _told(conversations: Conversations, replies: Replies, turn: int, user: int) -> tuple[str, ...]:
    """A turn as a row of a table."""
    chosen, again = replies.chosen_TU[turn, user], replies.again_TU[turn, user]
    style_C = [STYLES[style] for style in conversations.style_TUC[turn, user]]
    return (
        f"{turn}",
        KINDS[conversations.kind_TU[turn, user]],
        f"{style_C[chosen]} {replies.expected_TU[turn, user]:.2f}",
        "up" if conversations.thumb(turn, user, chosen) else "down",
        f"{style_C[again]} {replies.expected_again_TU[turn, user]:.2f}" if again >= 0 else "",
    )


def mean_at(value_TU: Floats | Bools, at_TU: Bools) -> float:
    """Of the values at some turns; NaN where there are none."""
    return float(value_TU[at_TU].mean()) if at_TU.any() else float("nan")


def seen_TU(conversations: Conversations) -> Ints:
    """How many turns of the user came before [T, U]."""
    return np.broadcast_to(np.arange(conversations.num_turns)[:, None], conversations.kind_TU.shape)


def after_jump_TU(conversations: Conversations) -> Bools:
    """The turns at a jump of taste and soon after."""
    after_TU = conversations.jumps_TU.copy()
    for back in range(1, AFTER_JUMP_TURNS):
        after_TU[back:] |= conversations.jumps_TU[:-back]
    return after_TU


def _style(conversations: Conversations, chosen_TU: Ints) -> Ints:
    style_TU: Ints = np.take_along_axis(conversations.style_TUC, chosen_TU[..., None], axis=2)[..., 0]
    return style_TU
