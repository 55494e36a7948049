"""Who owns which slots, what of them is journaled, who leaves memory: one incarnation's side of DESIGN.md, section 5.

Flows (worker.flows) over the residents: claims take slots and give them away, the journal makes durable, residency lets
users in and out, a sweep deletes dead journals, all around one table of slots. No I/O, no clock of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from random import Random

from evercurrent.errors import Refused, rejection
from evercurrent.v1 import observation_pb2 as pb
from persistence.rows import U64
from worker.claims import Claims, Left
from worker.counts import Counts
from worker.flows import Flow, Wait
from worker.journal import Journal
from worker.owner import Fenced, Owner, Timing, Users, stopping
from worker.residency import Residency
from worker.residents import Residents, States
from worker.slots import FREE, RELEASING, SERVING, STANDING, TAKING, Slots
from worker.sweep import Sweep

__all__ = ["FREE", "RELEASING", "SERVING", "STANDING", "TAKING", "Fenced", "Ownership", "Timing", "Users"]


class Ownership:
    """The slots, the journal and the records of one incarnation. `start` has a flow driven beside the others."""

    def __init__(
        self,
        incarnation: str,
        address: str,
        residents: Residents,
        timing: Timing,
        clock_us: Callable[[], int],
        random: Random,
        start: Callable[[Flow[None]], None],
    ) -> None:
        self._me = Owner(incarnation, address, timing, clock_us, random, start)
        self._slots = Slots()
        self._journal = Journal(self._me, self._slots, residents)
        self._residency = Residency(self._me, self._slots, residents, self._journal)
        self._claims = Claims(self._me, self._slots, residents, self._journal, self._residency)
        self._sweep = Sweep(self._me)

    @property
    def incarnation(self) -> str:
        """`<worker name>/<ulid>`."""
        return self._me.name

    @property
    def users(self) -> Users | None:
        """Who is told; to be set before anything is driven."""
        return self._me.users

    @users.setter
    def users(self, users: Users) -> None:
        self._me.users = users

    @property
    def state(self) -> States:
        """FREE, TAKING, SERVING, STANDING or RELEASING, by slot."""
        return self._slots.state

    @property
    def claims(self) -> U64:
        """Both halves of each slot's claim."""
        return self._slots.claims

    @property
    def landed(self) -> int:
        """The number of the newest segment that has landed."""
        return self._journal.landed

    @property
    def counts(self) -> Counts:
        """What was done so far."""
        return self._me.counts

    @property
    def lag_us(self) -> int:
        """The age of the oldest change that is in no segment which has landed; 0: there is none."""
        return self._journal.lag_us

    @property
    def owns(self) -> bool:
        """Whether any slot is served."""
        return self._slots.owns

    @property
    def num_served(self) -> int:
        """How many slots are served."""
        return self._slots.num_served

    def serves(self, slot: int) -> bool:
        """Whether users of this slot may be served now."""
        return self._slots.serves(slot)

    def note_change(self) -> None:
        """A row has become DIRTY."""
        self._journal.note_change()

    def seek(self, user: str, slot: int) -> int | None:
        """The row of a user, or None: `users` will be told when to seek again.

        Raises:
            Refused: REASON_NOT_OWNER, the worker is stopping, or the slot is being given away.
        """
        if self._me.is_closing:
            raise Refused(stopping())
        if self.serves(slot):
            return self._residency.seek(user, slot)
        if self.state.item(slot) == RELEASING:
            raise Refused(rejection(pb.REASON_NOT_OWNER, "", "the user moves to another worker", 100))
        if self.state.item(slot) == TAKING:
            self._claims.hurry(slot)
        elif self._me.is_draining:
            raise Refused(stopping())
        self.want([slot])
        return None

    def want(self, slots: Iterable[int]) -> None:
        """Claim those of these slots that are FREE."""
        self._claims.want(slots)

    def assign(self, link: int, slots: Iterable[int]) -> None:
        """A router sends the users of these slots here, and of no others: claim those of them that have a record, since
        somebody's users are there."""
        self._claims.assign(link, slots)

    def unassign(self, link: int) -> None:
        """A router is gone."""
        self._claims.unassign(link)

    def release(self, claims: dict[int, int]) -> Flow[Left]:
        """Stop serving slots for good and hand their rows over, in parts; returns those that were not.

        A claim that is not held here is never served again, and its rows are in the journal when this returns. It is to
        be driven to its end, whether or not anybody still takes the rows.
        """
        return self._claims.release(claims)

    def claim_no_more(self) -> Flow[None]:
        """Begin no claim any more and give away whatever is asked for, from now on; done when each claim that was begun
        stands or is lost, so that the store names us for every slot that is served here."""
        self._me.is_draining = True
        return self._claims.settle()

    def all_released(self) -> Flow[None]:
        """Wait until no slot is left."""
        while self.owns:
            yield Wait(self._me.released)

    def journal(self) -> Flow[None]:
        """Write segments while there is anything to say, for ever. Ends when this incarnation is fenced or closed."""
        return self._journal.run()

    def sweep(self) -> Flow[None]:
        """Delete dead journals, for ever, every `sweep_interval` or so."""
        return self._sweep.run()

    def close(self) -> Flow[None]:
        """Write what is needed and seal our own journal: whoever comes next need not wait for our death."""
        self._me.is_draining = self._me.is_closing = True
        return self._journal.close(self._claims.settled)

    def evict_soon(self) -> None:
        """Let some users leave, unless that is being done."""
        self._residency.evict_soon()

    def forget(self, row: int) -> Flow[bool]:
        """Make a resident, whom nobody feeds, a tombstone, at once; the flow is done when it stands in the journal and
        as the record. False: the slot went to another owner first, who is to be asked again."""
        return self._residency.forget(row)

    def forget_damaged(self, user: str, slot: int) -> Flow[bool]:
        """As `forget`, of a user of a slot that is served, of whom nothing can be read. Raises Refused."""
        if not self.serves(slot):
            raise Refused(rejection(pb.REASON_NOT_OWNER, "", "the user moves to another worker", 100))
        return self._residency.forget_damaged(user, slot)
