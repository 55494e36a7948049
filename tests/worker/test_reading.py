"""What a journal says: the newest row of each user under the claims that count, from where the journal begins."""

from __future__ import annotations

import numpy as np

from evercurrent.slots import slot_of
from evercurrent.v1.storage_pb2 import SegmentFooter
from persistence.packing import Part
from persistence.rows import Rows, no_rows
from persistence.segment import Segment
from worker.reading import JournalReader

ANN, BOB = "\0ann", "\0bob"
MINE, LOST = 5, 6
CLAIMS = {slot_of(ANN): MINE, slot_of(BOB): MINE}


def rows(*users: tuple[str, int, int]) -> Rows:
    """Rows of (user, claim, version)."""
    num = len(users)
    return Rows(
        [user for user, _, _ in users],
        np.array([slot_of(user) for user, _, _ in users], np.uint16),
        np.array([(0, claim) for _, claim, _ in users], np.uint64).reshape(num, 2),
        np.array([version for _, _, version in users], np.uint64),
        np.array([version for _, _, version in users], np.uint64),
        np.zeros(num, np.bool_),
        np.zeros((num, 2), np.uint64),
        np.zeros((num, 1), np.float32),
        np.zeros(num, np.int32),
        np.zeros((0, 5), np.uint64),
        (Part("toy", 1),),
    )


def segment(number: int, held: Rows, *damaged: str, first: int = 1, is_seal: bool = False) -> Segment:
    footer = SegmentFooter(incarnation="w/1", number=number, first=first, model="toy", seal=is_seal)
    return Segment(footer, held, list(damaged))


def read(*segments: Segment) -> tuple[dict[str, int], set[str]]:
    """Versions by user, and who is damaged, of segments from the oldest to the newest."""
    reader = JournalReader(CLAIMS)
    for one in reversed(segments):
        reader.take([one])
    newest = reader.newest()
    assert newest.rows.slots.tolist() == sorted(newest.rows.slots.tolist())
    return dict(zip(newest.rows.users, newest.rows.versions.tolist(), strict=True)), set(newest.damaged)


def test_the_last_row_of_each_user_counts() -> None:
    held = [segment(1, rows((ANN, MINE, 1), (BOB, MINE, 4))), segment(2, rows((ANN, MINE, 2)))]
    assert read(*held, segment(3, no_rows(1), is_seal=True)) == ({ANN: 2, BOB: 4}, set())


def test_rows_of_another_claim_never_count() -> None:
    assert read(segment(1, rows((ANN, MINE, 1))), segment(2, rows((ANN, LOST, 9), (BOB, 0, 3)))) == ({ANN: 1}, set())


def test_what_is_older_than_the_journals_beginning_does_not_count() -> None:
    assert read(
        segment(1, rows((BOB, MINE, 8))), segment(2, rows((ANN, MINE, 1)), first=1), segment(3, rows(), first=2)
    ) == ({ANN: 1}, set())


def test_a_user_whose_last_row_is_damaged_has_none() -> None:
    assert read(segment(1, rows((ANN, MINE, 1))), segment(2, rows((BOB, MINE, 2)), ANN)) == ({BOB: 2}, {ANN})
    assert read(segment(1, rows(), ANN), segment(2, rows((ANN, MINE, 2)))) == ({ANN: 2}, set())


def test_damage_of_users_of_other_slots_is_not_ours_to_tell() -> None:
    other = next(f"\0user-{number}" for number in range(100) if slot_of(f"\0user-{number}") not in CLAIMS)
    assert read(segment(1, rows(), other)) == ({}, set())


def test_a_seal_alone_says_nothing() -> None:
    assert read(segment(4, no_rows(0), is_seal=True)) == ({}, set())
