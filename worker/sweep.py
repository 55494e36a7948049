"""Dead journals go: the segments of those that are sealed and that no slot needs any more, all but the seal."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from evercurrent.telemetry.logs import get_logger
from evercurrent.v1.storage_pb2 import Attempt, SegmentFooter
from persistence.errors import StoreError
from persistence.keys import JOURNAL_PREFIX, SLOTS_PREFIX, is_segment_key, segment_of_key, slot_key, slots_of_keys
from persistence.segment import read_footer
from worker.flows import TOGETHER_MAX, Delete, Flow, Get, ListKeys, Offload, Signal, Wait, together
from worker.owner import Owner
from worker.slots import Read

logger = get_logger(__name__)


class Sweep:
    """Any worker may, several at once: only what nobody can need any more is deleted, which stays true once it is.

    A journal is looked at when it has not grown since the last look. It goes when its last object is a seal, so that no
    row can come in, and when after that no slot's record names
    - the incarnation: its rows are the slot's, or
    - what an attempt of its newest footer replaces: that attempt's CAS may still land, however late, and then those
      rows are the slot's. A claim that is named no more is never named again, and an attempt that this footer does not
      list is settled or has no row in this journal.

    The seal stays: it says that the journal is closed, and keeps the dead owner from writing its next segment.
    """

    def __init__(self, me: Owner) -> None:
        self._me = me
        self._last_keys: dict[str, str] = {}

    def run(self) -> Flow[None]:
        """Look every now and then, for ever."""
        while not self._me.is_closing:
            interval_us = self._me.timing.sweep_interval_us
            yield Wait(Signal(), interval_us // 2 + self._me.random.randrange(interval_us))
            try:
                yield from self.sweep_once()
            except StoreError as error:
                logger.warning("dead journals stay for now", why=str(error))

    def sweep_once(self) -> Flow[None]:
        """Delete what nobody needs of the journals that have not grown. Raises StoreError."""
        keys = yield ListKeys(JOURNAL_PREFIX)
        journals = yield Offload(partial(_by_incarnation, keys))
        assert isinstance(journals, dict)
        last_keys, self._last_keys = self._last_keys, {name: keys[-1] for name, keys in journals.items()}
        sealed: dict[str, list[Attempt]] = {}
        for name, keys in journals.items():
            if len(keys) > 1 and keys[-1] == last_keys.get(name):
                attempts = yield from self._attempts(keys)
                if attempts is not None:
                    sealed[name] = attempts
        if sealed:
            yield from self._leave_needed(sealed)
        for name in sealed:
            yield from self._delete(name, journals[name][:-1])

    def _attempts(self, keys: Sequence[str]) -> Flow[list[Attempt] | None]:
        """The attempts of the newest footer of a journal that is sealed; None: it is not, or is being swept."""
        seal = yield from self._footer(keys[-1])
        if seal is None or not seal.seal:
            return None
        for key in reversed(keys[:-1]):
            footer = yield from self._footer(key)
            if footer is None:
                return None
            if not footer.seal:
                return list(footer.attempts)
        return []

    def _footer(self, key: str) -> Flow[SegmentFooter | None]:
        stored = yield Get(key)
        if stored is None:
            return None
        footer = yield Offload(partial(read_footer, stored.body))
        assert isinstance(footer, SegmentFooter)
        return footer

    def _leave_needed(self, sealed: dict[str, list[Attempt]]) -> Flow[None]:
        """Take out the journals that a slot's record names or may come to name."""
        keys = yield ListKeys(SLOTS_PREFIX)
        slots = slots_of_keys(keys)
        bases: dict[tuple[int, str], list[str]] = {}
        for name, attempts in sealed.items():
            for attempt in attempts:
                bases.setdefault((attempt.slot, attempt.base), []).append(name)
        known = frozenset(slots)
        needed = {name for (slot, _), names in bases.items() if slot not in known for name in names}
        for start in range(0, len(slots), TOGETHER_MAX):
            part = slots[start : start + TOGETHER_MAX]
            answers = yield from together([Get(slot_key(slot)) for slot in part])
            for slot, answer in zip(part, answers, strict=True):
                read = Read.of(slot, answer)
                assert read.record is not None, "the record of a slot is never deleted"
                needed.add(read.owner)
                needed.update(bases.get((slot, read.record.claim), ()))
        for name in needed & sealed.keys():
            del sealed[name]

    def _delete(self, name: str, keys: Sequence[str]) -> Flow[None]:
        """From the old end, so that what is left is a journal still."""
        logger.info("a dead journal goes", incarnation=name, num_segments=len(keys))
        for start in range(0, len(keys), TOGETHER_MAX):
            yield Delete(tuple(keys[start : start + TOGETHER_MAX]))


def _by_incarnation(keys: Sequence[str]) -> dict[str, list[str]]:
    """The keys of each journal, ascending."""
    journals: dict[str, list[str]] = {}
    for key in keys:
        if is_segment_key(key):
            journals.setdefault(segment_of_key(key)[0], []).append(key)
    return journals
