"""The versions that learn beside the live one: shadows, for a part of the users, and the standby, for all (DESIGN.md,
section 7).

    offer (in the live step) → wait → step (when nothing else waits): predict, score beside the live one, learn

A *whole* follower (the standby, and a shadow that is about to go live) learns from every user's events. It may lag and
sheds nobody: whoever copies rows, or wants it live, has it caught up first. Its backlog is bounded; what does not fit
is missed, and counted. A shadow with too much to do sheds users, the last in its order first (worker.parts.position),
in which no score has a say.

A user's first state of a follower is made before the live version learns from the user's next event, so that it has
seen nothing of what it is to predict. From then on a state misses nothing: a shadow's that lags when its user's row is
copied is left out of the copy, and whoever goes on with that makes a new one.

Plain code: no task, no store; the clock is handed in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from statistics import median

import numpy as np
from numpy.typing import NDArray

from evercurrent.errors import rejection
from evercurrent.sequences import Running
from evercurrent.telemetry.logs import get_logger
from evercurrent.v1 import models_pb2
from evercurrent.v1 import observation_pb2 as pb
from evercurrent.v1.models_pb2 import MODEL_ROLE_STANDBY, ModelRole
from evercurrent.wire import Layout, Records
from worker.inbox import Inbox, Waiting
from worker.learner import Learned, Learner
from worker.parts import Floats, Mask
from worker.residents import Indices, Residents
from worker.validation import has_outcome

STEP_EVENTS_MAX = 64
"""Events in a step of a follower: a live event that comes meanwhile waits for no more."""
TURNS = 3
"""Rounds of the loop from the socket to the live step: between two steps of followers there are so many."""
BROUGHT_UP_STEPS_MAX = 16
"""Steps of followers that a segment of the journal waits for."""
CAUGHT_UP_AT_ONCE = 256
SHADOW_BACKLOG_MAX = 4096
STANDBY_BACKLOG_MAX = 65_536
SHED_TO = 0.75
REGAIN = 1.25
REGAIN_AFTER_US = 10_000_000
"""A shadow that has shed nobody for so long takes some in again."""
STEP_TIMES = 64
"""Steps of which the median is taken."""
QUICK_US = 100
"""A standby whose steps are quicker counts as this quick: what is compiled takes a few microseconds, and a version that
is none and takes a hundred keeps nobody waiting."""
FILLED_AT_ONCE = 512

OK, REFUSED, RAISED = range(3)
"""What became of an event in the live version."""

Scorer = Callable[[Floats, Records], NDArray[np.float64]]
"""Scores of N predictions of events with an outcome; less is better."""

logger = get_logger(__name__)


@dataclass(slots=True)
class Sums:
    """What a follower adds up beside one live version."""

    num_updates: int = 0
    num_rejected: int = 0
    num_errors: int = 0
    num_shed: int = 0
    num_missed: int = 0
    num_steps: int = 0
    step_us: int = 0
    score_sum: float = 0.0
    live_score_sum: float = 0.0
    score: Running = field(default_factory=Running)
    rejections: Running = field(default_factory=Running)
    failures: Running = field(default_factory=Running)
    slowness: Running = field(default_factory=Running)


class Follower:
    """One version beside the live one. `fraction` of the users, or all if it `is_whole`."""

    def __init__(
        self, learner: Learner, role: ModelRole, fraction: float, starts_anew: bool, inbox_rows: int, now_us: int
    ) -> None:
        self.learner = learner
        self.role = role
        self.plan_fraction = self.fraction = fraction
        self.starts_anew = starts_anew
        self.is_whole = role == MODEL_ROLE_STANDBY
        self.sums = Sums()
        self.inbox = Inbox(inbox_rows, STEP_EVENTS_MAX)
        self.urgent = Inbox(inbox_rows, CAUGHT_UP_AT_ONCE)
        self.shed_us = now_us
        self.step_times = list[int]()

    @property
    def version(self) -> str:
        return self.learner.version

    @property
    def backlog(self) -> int:
        """Events that wait."""
        return len(self.inbox)


class Followers:
    """All of them. `awake` is called when something waits; `slower_max` as Policy.slower_max."""

    def __init__(self, residents: Residents, layout: Layout, clock_us: Callable[[], int]) -> None:
        self.awake: Callable[[], None] = lambda: None
        self.scorer: Scorer | None = None
        self.slower_max = 5.0
        self._residents = residents
        self._layout = layout
        self._clock_us = clock_us
        self._followers: dict[str, Follower] = {}
        self._next = 0
        self._num_rows = len(residents.live.states)
        self._chosen = np.zeros(self._num_rows, np.bool_)
        self._live_times = list[int]()
        self._nothing = np.full(layout.prediction_width, np.nan, np.float32)
        self._marks = np.dtype(
            [
                ("row", "<i4"),
                ("generation", "<u4"),
                ("fate", "<u4"),
                ("prediction", "<f4", (layout.prediction_width,)),
            ]
        )
        residents.bring_up = self.bring_up
        residents.catch_up = self.catch_up

    def __bool__(self) -> bool:
        return bool(self._followers)

    def __iter__(self) -> Iterator[Follower]:
        return iter(self._followers.values())

    def get(self, version: str) -> Follower | None:
        """A version, if it runs beside the live one."""
        return self._followers.get(version)

    @property
    def num_waiting(self) -> int:
        """Events that wait for any of them."""
        return sum(len(follower.inbox) for follower in self)

    @property
    def is_due(self) -> bool:
        """Whether enough events wait for one of them to make a step full."""
        return any(len(follower.inbox) >= STEP_EVENTS_MAX for follower in self._followers.values())

    @property
    def num_steps_due(self) -> int:
        """Steps that what waits now takes."""
        return sum(-(-len(follower.inbox) // STEP_EVENTS_MAX) for follower in self)

    @property
    def standby(self) -> Follower | None:
        """The version that was live before."""
        return next((follower for follower in self if follower.role == MODEL_ROLE_STANDBY), None)

    # --- who runs -------------------------------------------------------------------------------------------------

    def add(self, learner: Learner, role: ModelRole, fraction: float = 1.0, starts_anew: bool = False) -> Follower:
        """A version learns beside the live one from now on."""
        follower = Follower(learner, role, fraction, starts_anew, self._num_rows, self._clock_us())
        self._followers[learner.version] = follower
        self._residents.others[learner.version] = learner.states
        return follower

    def assign(self, version: str, role: ModelRole, fraction: float) -> None:
        """A follower has this role from now on; one that is whole no more keeps the states of its fraction."""
        follower = self._followers[version]
        was_whole = follower.is_whole
        follower.is_whole = role == MODEL_ROLE_STANDBY
        if (role, fraction) == (follower.role, follower.plan_fraction) and was_whole == follower.is_whole:
            return
        follower.role = role
        follower.plan_fraction = follower.fraction = fraction
        if was_whole and not follower.is_whole:
            states = follower.learner.states
            rows = np.flatnonzero(states.present)
            states.present[rows[~self._are_members(follower, rows)]] = False

    def remove(self, version: str) -> None:
        """It learns no more, and its states are gone."""
        del self._followers[version]
        del self._residents.others[version]

    def swap(self, version: str, live: Learner) -> Learner:
        """A follower becomes the live version, the live one its standby: nothing waits for either, and everybody has a
        state of it. All count anew. Returns the new live version."""
        coming = self._followers.pop(version)
        self._catch_up_all(coming)
        self._fill(coming, np.flatnonzero(self._residents.slab.resident))
        self._residents.swap(version)
        self._followers = {live.version: self.add(live, MODEL_ROLE_STANDBY), **self._followers}
        self.begin_anew()
        return coming.learner

    def begin_anew(self) -> None:
        """What is added up is of the live version's own time, under its own policy."""
        self._live_times.clear()
        for follower in self:
            self._catch_up_all(follower)
            follower.sums = Sums()

    def fill(self, version: str) -> Iterator[None]:
        """Have a follower learn from everybody, and give every resident a state of it, some at a time; done when all
        have."""
        follower = self._followers[version]
        follower.is_whole = True
        for part in self._residents.parts():
            rows = np.flatnonzero(self._residents.slab.resident[part]) + part.start
            for start in range(0, len(rows), FILLED_AT_ONCE):
                some = rows[start : start + FILLED_AT_ONCE]
                self._fill(follower, some[self._residents.slab.resident[some]])
                yield

    def pin(self, version: str, row: int) -> None:
        """A follower is to learn from this user, whatever its fraction."""
        self._followers[version].learner.states.pinned[row] = True

    # --- with the live step -----------------------------------------------------------------------------------------

    def before(self, rows: Indices) -> None:
        """The live version is about to learn from these: who has no state of a follower yet, and is to have one, gets
        it."""
        for follower in self:
            states = follower.learner.states
            lacking = ~states.present[rows]
            if lacking.any():
                some = rows[lacking]
                self._fill(follower, some[self._are_members(follower, some)])

    def offer(self, events: Records, rows: Indices, prediction_NP: Floats, fate: NDArray[np.uint32]) -> None:
        """The live version has learned from these, one event a user, or refused to."""
        marks = np.zeros(len(events), self._marks)
        marks["row"] = rows
        marks["generation"] = self._residents.slab.generation[rows]
        marks["fate"] = fate
        marks["prediction"] = prediction_NP
        offered = Waiting(events, marks)
        for follower in self:
            present = follower.learner.states.present[rows]
            self._put(follower, offered if present.all() else offered.take(present))
        self.awake()

    def before_one(self, row: int) -> None:
        """The same for one, without the array operations that pay only for many."""
        for follower in self._followers.values():
            if not follower.learner.states.present.item(row):
                self.before(np.array([row], np.intp))
                return

    def offer_one(self, events: Records, row: int, prediction_P: list[float]) -> None:
        """The same for one event that the live version has learned from."""
        generation = self._residents.slab.generation.item(row)
        marks = np.array([(row, generation, OK, prediction_P)], self._marks)
        offered = Waiting(events, marks)
        for follower in self._followers.values():
            if follower.learner.states.present.item(row):
                self._put(follower, offered)
        self.awake()

    def note_live_step(self, update_us: int) -> None:
        """How long the live version's model took in a step."""
        if self.standby is not None and len(self._live_times) < STANDBY_BACKLOG_MAX:
            self._live_times.append(update_us)

    # --- beside it --------------------------------------------------------------------------------------------------

    def step(self) -> None:
        """One step of one of those for whom something waits, in turn. Something waits."""
        waiting = [follower for follower in self if len(follower.inbox)]
        self._next += 1
        follower = waiting[self._next % len(waiting)]
        self._learn(follower, follower.inbox.cut())

    def bring_up(self) -> Iterator[None]:
        """Have what waits now learned from, if it is not too much; between two steps whoever is served has a turn."""
        for _ in range(min(self.num_steps_due, BROUGHT_UP_STEPS_MAX)):
            for _ in range(TURNS):
                yield
            if self.num_waiting:
                self.step()

    def catch_up(self, rows: Indices) -> dict[str, Mask]:
        """Have whole followers learn now from all that waits of these rows; of each shadow, for which of them something
        waits still."""
        lagging = {}
        for follower in self:
            if not len(follower.inbox):
                continue
            if follower.is_whole:
                self._catch_up(follower, rows)
            else:
                waiting = follower.inbox.rows()
                self._chosen[waiting] = True
                lagging[follower.version] = self._chosen[rows]
                self._chosen[waiting] = False
        return lagging

    def answer(self, version: str, row: int) -> tuple[Floats, float, pb.Rejection | None]:
        """Prediction, loss and refusal of the last event offered of a row, once the follower has learned from it."""
        follower = self._followers[version]
        behind = rejection(pb.REASON_OVERLOADED, "", f"{version} lags too far behind")
        return self._catch_up(follower, np.array([row], np.intp)).get(row) or (self._nothing, np.nan, behind)

    def predict(self, version: str, rows: Indices, events: Records) -> tuple[Floats, dict[int, pb.Rejection]]:
        """A follower's predictions for queries, from states that have seen all that was offered before."""
        follower = self._followers[version]
        self.before(rows)
        self._catch_up(follower, rows)
        answered = follower.learner.predict(rows, events)
        return answered.prediction_NP, answered.refused

    def pass_time(self, now_us: int) -> None:
        """Shadows that have had time to spare take users in again."""
        for follower in self:
            if follower.fraction < follower.plan_fraction and now_us - follower.shed_us >= REGAIN_AFTER_US:
                follower.fraction = min(follower.plan_fraction, REGAIN * follower.fraction)
                follower.shed_us = now_us

    def sums_of(self, follower: Follower) -> models_pb2.VersionSums:
        """What it has added up."""
        sums = follower.sums
        present = follower.learner.states.present[: self._residents.slab.num_rows]
        return models_pb2.VersionSums(
            version=follower.version,
            role=follower.role,
            fraction=1.0 if follower.is_whole else follower.fraction,
            users=int(np.count_nonzero(present)),
            shed_users=sums.num_shed,
            updates=sums.num_updates,
            rejected=sums.num_rejected,
            errors=sums.num_errors,
            backlog=follower.backlog,
            missed_events=sums.num_missed,
            step_us=sums.step_us,
            steps=sums.num_steps,
            score_sum=sums.score_sum,
            live_score_sum=sums.live_score_sum,
            score=sums.score.sums(),
            rejections=sums.rejections.sums(),
            failures=sums.failures.sums(),
            slowness=sums.slowness.sums(),
        )

    # --- one follower -----------------------------------------------------------------------------------------------

    def _are_members(self, follower: Follower, rows: Indices) -> Mask:
        if follower.is_whole:
            return np.ones(len(rows), np.bool_)
        return follower.learner.states.members(rows, follower.fraction, self._residents.slab.keys)

    def _fill(self, follower: Follower, rows: Indices) -> None:
        """Those of these rows who have no state get one: new users the initial one, others as the plan says."""
        residents, states = self._residents, follower.learner.states
        rows = rows[~states.present[rows]]
        is_new = residents.slab.version[rows] == 0
        if follower.starts_anew:
            is_new[:] = True
        states.begin(rows[is_new])
        known = rows[~is_new]
        if len(known):
            assert states.migrate is not None, "nobody said how to migrate"
            live = residents.live
            try:
                states.put(known, states.migrate(live.states[known], residents.shapes[live.version]))
            except Exception:  # The live version goes on, whatever foreign code does.
                logger.exception("a version cannot migrate states: they begin anew", version=follower.version)
                states.begin(known)

    def _put(self, follower: Follower, offered: Waiting) -> None:
        if not len(offered):
            return
        if follower.is_whole and len(follower.inbox) + len(offered) > STANDBY_BACKLOG_MAX:
            follower.sums.num_missed += len(offered)
            return
        follower.inbox.put(offered)
        if not follower.is_whole:
            while len(follower.inbox) > SHADOW_BACKLOG_MAX:
                self._shed(follower)

    def _shed(self, follower: Follower) -> None:
        """Give up the last of its users."""
        states = follower.learner.states
        follower.fraction *= SHED_TO
        follower.shed_us = self._clock_us()
        rows = np.flatnonzero(states.present[: self._residents.slab.num_rows])
        gone = rows[~self._are_members(follower, rows)]
        states.present[gone] = False
        follower.sums.num_shed += len(gone)
        follower.inbox.drop(lambda rows: ~states.present[rows])
        if follower.fraction < 1e-6:
            follower.inbox.drop(lambda rows: np.ones(len(rows), np.bool_))
        text = "a shadow has too much to do and sheds users"
        logger.warning(text, version=follower.version, users=len(gone), fraction=follower.fraction)

    def _catch_up_all(self, follower: Follower) -> None:
        while len(follower.inbox):
            self._learn(follower, follower.inbox.cut())

    def _catch_up(self, follower: Follower, rows: Indices) -> dict[int, tuple[Floats, float, pb.Rejection | None]]:
        """Learn from what waits of these rows; what came of the last of each."""
        self._chosen[rows] = True
        waiting = follower.inbox.drop(lambda waiting: self._chosen[waiting])
        self._chosen[rows] = False
        answers: dict[int, tuple[Floats, float, pb.Rejection | None]] = {}
        if waiting is not None:
            follower.urgent.put(waiting)
            while len(follower.urgent):
                self._learn(follower, follower.urgent.cut(), answers)
        return answers

    def _learn(
        self,
        follower: Follower,
        taken: Waiting,
        answers: dict[int, tuple[Floats, float, pb.Rejection | None]] | None = None,
    ) -> None:
        """One step of a follower: learn, and add up how it did beside the live version."""
        rows = taken.marks["row"]
        same = self._residents.slab.generation[rows] == taken.marks["generation"]
        same &= follower.learner.states.present[rows]
        if not same.all():
            taken = taken.take(same)
            rows = taken.marks["row"]
            if not len(taken):
                return
        began_us = self._clock_us()
        learned = follower.learner.learn(rows, taken.events)
        sums = follower.sums
        sums.num_updates += len(taken) - len(learned.refused)
        sums.num_errors += len(learned.raised)
        sums.num_rejected += len(learned.refused) - len(learned.raised)
        if answers is not None:
            for index, row in enumerate(rows.tolist()):
                loss = float(learned.loss_N[index])
                answers[row] = learned.prediction_NP[index], loss, learned.refused.get(index)
        self._add_fates(sums, taken.marks["fate"], learned)
        self._add_scores(sums, taken, learned.prediction_NP)
        sums.num_steps += 1
        sums.step_us += self._clock_us() - began_us
        if follower.role == MODEL_ROLE_STANDBY:
            self._compare_times(follower, follower.learner.update_us)

    def _add_fates(self, sums: Sums, live_fate: NDArray[np.uint32], learned: Learned) -> None:
        if not learned.refused and not live_fate.any():
            sums.rejections.add_zeros(len(live_fate))
            sums.failures.add_zeros(len(live_fate))
            return
        fate = np.full(len(live_fate), OK, np.uint32)
        fate[list(learned.refused)] = REFUSED
        fate[list(learned.raised)] = RAISED
        sums.rejections.add((live_fate == REFUSED).astype(np.float64) - (fate == REFUSED))
        sums.failures.add((live_fate == RAISED).astype(np.float64) - (fate == RAISED))

    def _add_scores(self, sums: Sums, taken: Waiting, prediction_NP: Floats) -> None:
        has = has_outcome(taken.events)
        if self.scorer is None or not has.any():
            return
        events, live_NP = taken.events, taken.marks["prediction"]
        if not has.all():
            events, live_NP, prediction_NP = events[has], live_NP[has], prediction_NP[has]
        try:
            live, own = self.scorer(live_NP, events), self.scorer(prediction_NP, events)
        except Exception:  # The live version goes on, whatever foreign code does.
            logger.exception("predictions cannot be scored: versions are compared no more")
            self.scorer = None
            return
        sums.live_score_sum += float(live.sum())
        sums.score_sum += float(own.sum())
        sums.score.add(live - own)

    def _compare_times(self, standby: Follower, update_us: int) -> None:
        """Of the live steps since: whether each took so many times what the standby's usually do."""
        times = standby.step_times
        if len(times) >= STEP_TIMES and self._live_times:
            bound_us = self.slower_max * max(QUICK_US, median(times[-STEP_TIMES:]))
            standby.sums.slowness.add((np.array(self._live_times) > bound_us).astype(np.float64) - 0.5)
        self._live_times.clear()
        times.append(update_us)
        del times[:-STEP_TIMES]
