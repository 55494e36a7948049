"""Event logs of learners as columns: reading them, the ids that a model knows them by, splits by learner.

A log is a CSV file, plain or gzip, with a header and at least the columns of COLUMNS, in any order. Only this module
knows that format. It never changes a log: selections share its arrays.
"""

from __future__ import annotations

import csv
import gzip
import json
import math
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TextIO

import numpy as np
import numpy.typing as npt

from evercurrent.models.knowledge_tracing.model import UNKNOWN

COLUMNS = ("user_id", "timestamp_or_order", "item_id", "skill_id", "outcome")

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]


class LogError(ValueError):
    """A log, or what belongs to one, cannot be used. The text names the file, the place and what is expected there."""


@dataclass(frozen=True, slots=True)
class Ids:
    """The labels behind the rows of a model's tables: label number n has row n + 1, every other label UNKNOWN."""

    items: tuple[str, ...]
    skills: tuple[str, ...]

    @property
    def num_items(self) -> int:
        """Rows of the item table, UNKNOWN among them."""
        return len(self.items) + 1

    @property
    def num_skills(self) -> int:
        """Rows of the skill table, UNKNOWN among them."""
        return len(self.skills) + 1

    def save(self, path: Path) -> None:
        """Writes them as JSON: what a client needs to name its items to a trained model."""
        path.write_text(json.dumps({"items": self.items, "skills": self.skills}), encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Ids:
        """Reads what `save` wrote. Raises LogError."""
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            return cls(items=tuple(content["items"]), skills=tuple(content["skills"]))
        except (OSError, ValueError, KeyError, TypeError) as exc:
            raise LogError(f"{path} is not a file of ids that training wrote ({exc})") from exc


@dataclass(frozen=True, slots=True)
class EventLog:
    """N events in the order of the file. Users count into `users`; items and skills are rows of a model's tables."""

    user_N: Ints
    order_N: npt.NDArray[np.float64]
    item_N: Ints
    skill_N: Ints
    outcome_N: Floats
    users: tuple[str, ...]
    ids: Ids

    def __len__(self) -> int:
        return self.user_N.size

    @property
    def active_users(self) -> Ints:
        """Those of `users` that have an event here."""
        return np.unique(self.user_N)

    def of_users(self, users: Iterable[int]) -> EventLog:
        """The events of some users, in the same order; users and ids keep their numbers."""
        wanted = np.zeros(len(self.users), dtype=np.bool_)
        wanted[list(users)] = True
        return self.at(np.flatnonzero(wanted[self.user_N]))

    def stream(self) -> EventLog:
        """The events as they would arrive: by timestamp, equal ones as in the file. Where orders count within each
        user, this is a round robin."""
        return self.at(np.argsort(self.order_N, kind="stable"))

    def at(self, index: Ints) -> EventLog:
        """The events at these places, in their order."""
        return replace(
            self,
            user_N=self.user_N[index],
            order_N=self.order_N[index],
            item_N=self.item_N[index],
            skill_N=self.skill_N[index],
            outcome_N=self.outcome_N[index],
        )

    def by_user(self) -> list[Ints]:
        """Each active user's places in this log, by time, equal times as in the file."""
        index = np.lexsort((self.order_N, self.user_N))
        return np.split(index, np.flatnonzero(np.diff(self.user_N[index])) + 1) if len(self) else []


def read_log(path: Path, ids: Ids | None = None) -> EventLog:
    """Reads a log; with `ids`, for a model that was trained with those. Raises LogError."""
    try:
        with _open_text(path) as file:
            labels, orders, outcomes = _columns(path, file)
    except (OSError, EOFError, UnicodeDecodeError, csv.Error) as exc:
        raise LogError(f"{path} cannot be read as CSV: {exc}") from exc
    if not outcomes:
        raise LogError(f"{path} has no events")
    users = _vocabulary(labels[0])
    ids = ids or Ids(items=_vocabulary(labels[1]), skills=_vocabulary(labels[2]))
    return EventLog(
        user_N=_rows(labels[0], users) - 1,
        order_N=np.array(orders),
        item_N=_rows(labels[1], ids.items),
        skill_N=_rows(labels[2], ids.skills),
        outcome_N=np.array(outcomes, dtype=np.float32),
        users=users,
        ids=ids,
    )


def read_test_users(path: Path, name: str) -> frozenset[str]:
    """The users set apart for testing: a JSON list, or an object of such lists by log name. Raises LogError."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as exc:
        raise LogError(f"{path} cannot be read as JSON: {exc}") from exc
    if isinstance(content, dict):
        if name not in content:
            raise LogError(f'{path} has no list for "{name}": it has {", ".join(sorted(content)) or "none"}')
        content = content[name]
    if not isinstance(content, list):
        raise LogError(f'{path} gives no list of user ids for "{name}"')
    return frozenset(str(user) for user in content)


def log_name(path: Path) -> str:
    """The name of a log's file without its endings: what a file of test users calls it."""
    return path.name.split(".", 1)[0]


def split_users(
    log: EventLog, test_users: Collection[str] | None = None, *, test_fraction: float = 0.2, seed: int = 0
) -> tuple[EventLog, EventLog]:
    """Two logs without a common user: for training and for testing. Users are drawn by seed where none are named.

    Raises LogError when either would be empty.
    """
    active = log.active_users
    if test_users is None:
        drawn = np.random.default_rng(seed).permutation(active)
        test = set(drawn[: max(1, round(test_fraction * active.size))].tolist())
    else:
        test = {user for user in active.tolist() if log.users[user] in test_users}
    if not 0 < len(test) < active.size:
        raise LogError(f"{len(test)} of {active.size} users are for testing: both parts need at least one")
    return log.of_users(set(active.tolist()) - test), log.of_users(test)


def _open_text(path: Path) -> TextIO:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8", newline="")
    return path.open(encoding="utf-8", newline="")


def _columns(path: Path, file: TextIO) -> tuple[tuple[list[str], list[str], list[str]], list[float], list[float]]:
    """Users, items and skills as labels; orders; outcomes."""
    rows = csv.reader(file)
    header = next(rows, [])
    missing = [name for name in COLUMNS if name not in header]
    if missing:
        raise LogError(f"{path} lacks the column {missing[0]}: its header must name {', '.join(COLUMNS)}")
    user, order, item, skill, outcome = (header.index(name) for name in COLUMNS)
    labels: tuple[list[str], list[str], list[str]] = ([], [], [])
    orders: list[float] = []
    outcomes: list[float] = []
    for line, row in _numbered(rows):
        if len(row) != len(header):
            raise LogError(f"{path} line {line}: {len(row)} cells, the header has {len(header)}")
        orders.append(_number(path, line, COLUMNS[1], row[order], -math.inf, math.inf))
        outcomes.append(_number(path, line, COLUMNS[4], row[outcome], 0.0, 1.0))
        labels[0].append(row[user])
        labels[1].append(row[item])
        labels[2].append(row[skill])
    return labels, orders, outcomes


def _numbered(rows: Iterator[list[str]]) -> Iterator[tuple[int, list[str]]]:
    return ((line, row) for line, row in enumerate(rows, start=2) if row)


def _number(path: Path, line: int, column: str, text: str, low: float, high: float) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (low <= value <= high and math.isfinite(value)):
        bounds = f" in [{low:g}, {high:g}]" if math.isfinite(low) else ""
        raise LogError(f'{path} line {line}: {column} is "{text}", not a number{bounds}')
    return value


def _vocabulary(labels: Iterable[str]) -> tuple[str, ...]:
    """Distinct labels; whole numbers by value, then the rest by spelling."""
    return tuple(sorted(set(labels), key=lambda label: (0, int(label), "") if label.isdecimal() else (1, 0, label)))


def _rows(labels: list[str], vocabulary: tuple[str, ...]) -> Ints:
    row_of = {label: row for row, label in enumerate(vocabulary, start=1)}
    return np.array([row_of.get(label, UNKNOWN) for label in labels], dtype=np.int64)
