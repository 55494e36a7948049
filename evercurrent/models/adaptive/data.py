"""Event logs as columns: reading them, the ids that a model knows them by, splits by user.

A log is a CSV file, plain or gzip, with a header, or Parquet as `evercurrent export events` writes it. Only this module
knows these formats. It never changes a log: selections share its arrays.

Letters: N events, K id fields, F features.
"""

from __future__ import annotations

import csv
import gzip
import json
import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TextIO

import numpy as np
import numpy.typing as npt

from evercurrent.models.adaptive.model import UNKNOWN

US_PER_S = 1_000_000

OutcomeKind = Literal["number", "share", "choice"]

_ANY, _SHARE = (-math.inf, math.inf), (0.0, 1.0)

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]


class LogError(ValueError):
    """A log, or what belongs to one, cannot be used. The text names the file, the place and what is expected there."""


@dataclass(frozen=True, slots=True)
class Columns:
    """Where a CSV log has what: the user, what orders a user's events, the id fields and features of the model by its
    names, the outcome.

    `order_unit_us`: how many microseconds a step of the order is; 0: the order is no clock. `outcome_kind`: a number, a
    number from 0 to 1, or a choice by its label."""

    user: str = "user_id"
    order: str = "timestamp"
    ids: Mapping[str, str] = field(default_factory=dict)
    features: Mapping[str, str] = field(default_factory=dict)
    outcome: str = "outcome"
    order_unit_us: int = 0
    outcome_kind: OutcomeKind = "number"

    @property
    def names(self) -> tuple[str, ...]:
        """Of all columns."""
        return (self.user, self.order, *self.ids.values(), *self.features.values(), self.outcome)


@dataclass(frozen=True, slots=True)
class Ids:
    """What the ids of a model's fields stand for: labels, of which number n is id n + 1 and every other one UNKNOWN; or
    how many ids there are, where a log names ids themselves. `choices`: what a choice by its index stands for.
    `columns`: where a CSV log of such events has what."""

    fields: Mapping[str, tuple[str, ...] | int]
    choices: tuple[str, ...] = ()
    columns: Columns | None = None

    @property
    def sizes(self) -> dict[str, int]:
        """Rows of each field's table, UNKNOWN among them."""
        return {name: has if isinstance(has, int) else len(has) + 1 for name, has in self.fields.items()}

    def save(self, path: Path) -> None:
        """Writes them as JSON: what a client needs to name its items to a trained model."""
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Ids:
        """Reads what `save` wrote. Raises LogError."""
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            fields = {name: has if isinstance(has, int) else tuple(has) for name, has in content["fields"].items()}
            columns = content["columns"]
            return cls(fields, tuple(content["choices"]), None if columns is None else Columns(**columns))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as exc:
            raise LogError(f"{path} is not a file of ids that training wrote ({exc})") from exc


@dataclass(frozen=True, slots=True)
class EventLog:
    """N events in the order of the file. Users count into `users`; ids are rows of a model's tables. `time_us_N`: since
    the Unix epoch, 0 where the log has no clock. `outcome_N`: float32, or int64 of choices."""

    user_N: Ints
    order_N: npt.NDArray[np.float64]
    time_us_N: Ints
    ids_NK: Ints
    features_NF: Floats
    outcome_N: npt.NDArray[Any]
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
            time_us_N=self.time_us_N[index],
            ids_NK=self.ids_NK[index],
            features_NF=self.features_NF[index],
            outcome_N=self.outcome_N[index],
        )

    def by_user(self) -> list[Ints]:
        """Each active user's places in this log, by time, equal times as in the file."""
        index = np.lexsort((self.order_N, self.user_N))
        return np.split(index, np.flatnonzero(np.diff(self.user_N[index])) + 1) if len(self) else []

    def gaps_s(self) -> Floats:
        """Seconds [N] since the user's event before; 0 of the first, and without a clock."""
        gap_N = np.zeros(len(self), np.float32)
        for places in self.by_user():
            time_us = self.time_us_N[places]
            passed = np.where((time_us[1:] > 0) & (time_us[:-1] > 0), np.maximum(np.diff(time_us), 0), 0)
            gap_N[places[1:]] = passed / US_PER_S
        return gap_N


def read_rows(path: Path, names: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    """The lines of a CSV file, plain or gzip: the number of each, and its cells in the columns `names`; empty ones are
    left out. Raises LogError."""
    try:
        with _open_text(path) as file:
            rows = csv.reader(file)
            header = next(rows, [])
            missing = [name for name in names if name not in header]
            if missing:
                raise LogError(f"{path} lacks the column {missing[0]}: its header must name {', '.join(names)}")
            places = [header.index(name) for name in names]
            for line, row in enumerate(rows, start=2):
                if row and len(row) != len(header):
                    raise LogError(f"{path} line {line}: {len(row)} cells, the header has {len(header)}")
                if row:
                    yield line, [row[place] for place in places]
    except (OSError, EOFError, UnicodeDecodeError, csv.Error) as exc:
        raise LogError(f"{path} cannot be read as CSV: {exc}") from exc


def read_number(
    path: Path, line: int, column: str, text: str, bounds: tuple[float, float] = _ANY, wanted: str = "a number"
) -> float:
    """A cell's finite number within bounds. Raises LogError, which names the place and what is `wanted` there."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (bounds[0] <= value <= bounds[1] and math.isfinite(value)):
        raise LogError(f'{path} line {line}: {column} is "{text}", not {wanted}')
    return value


def read_header(path: Path) -> tuple[str, ...]:
    """The names of a CSV log's columns, where what belongs to a model is told by them. Raises LogError."""
    try:
        with _open_text(path) as file:
            return tuple(next(csv.reader(file), ()))
    except (OSError, EOFError, UnicodeDecodeError, csv.Error) as exc:
        raise LogError(f"{path} cannot be read as CSV: {exc}") from exc


def read_csv(path: Path, columns: Columns, ids: Ids | None = None) -> EventLog:
    """Reads a log; with `ids`, for a model that was trained with those. Raises LogError."""
    found = _columns(path, columns)
    if not found[columns.user]:
        raise LogError(f"{path} has no events")
    users = _vocabulary(found[columns.user])
    is_choice = columns.outcome_kind == "choice"
    if ids is None:
        labels: dict[str, tuple[str, ...] | int] = {
            name: _vocabulary(found[column]) for name, column in columns.ids.items()
        }
        ids = Ids(labels, _vocabulary(found[columns.outcome]) if is_choice else (), columns)
    order_N = np.array(found[columns.order])
    id_columns = [_rows(path, found[column], name, ids) for name, column in columns.ids.items()]
    feature_columns = [np.array(found[column], np.float32) for column in columns.features.values()]
    outcome_N = np.array(found[columns.outcome]) if not is_choice else _choices(path, found[columns.outcome], ids)
    return EventLog(
        user_N=_numbers(found[columns.user], users),
        order_N=order_N,
        time_us_N=(order_N * columns.order_unit_us).astype(np.int64),
        ids_NK=_stacked(id_columns, len(order_N), np.int64),
        features_NF=_stacked(feature_columns, len(order_N), np.float32),
        outcome_N=outcome_N if is_choice else outcome_N.astype(np.float32),
        users=users,
        ids=ids,
    )


def read_parquet(path: Path, names: Sequence[str] | None = None, sizes: Mapping[str, int] | None = None) -> EventLog:
    """Reads what `evercurrent export events` wrote, a file or its folder. Ids are rows already; events without an
    outcome and vectors are left out.

    Args:
        path: the file or folder.
        names: of the id fields; by default id_0, id_1, …
        sizes: of the fields; by default as many ids as the log has.

    Raises:
        LogError: it cannot be read or has nothing to learn from.
    """
    import pyarrow as pa
    import pyarrow.dataset as ds

    wanted = ["namespace", "user_id", "version", "event_time", "ids", "features", "value", "choice"]
    try:
        table = ds.dataset(path, format="parquet").to_table(columns=wanted)
    except (OSError, pa.ArrowException) as exc:
        raise LogError(f"{path} cannot be read as an exported event log: {exc}") from exc
    kind = "choice" if table["choice"].null_count < len(table) else "value"
    table = table.filter(table[kind].is_valid())
    if not len(table):
        raise LogError(f"{path} has no events with a value or a choice for an outcome")
    ids_NK = matrix(table["ids"]).astype(np.int64)
    names = tuple(names or (f"id_{at}" for at in range(ids_NK.shape[1])))
    if len(names) != ids_NK.shape[1]:
        raise LogError(f"{path} has {ids_NK.shape[1]} ids an event, not {len(names)}")
    spaces, labels = table["namespace"].to_pylist(), table["user_id"].to_pylist()
    full = [f"{space}/{user}" if space else user for space, user in zip(spaces, labels, strict=True)]
    users = tuple(sorted(set(full)))
    found = ids_NK.max(axis=0) + 1
    fields = {name: (sizes or {}).get(name, int(size)) for name, size in zip(names, found.tolist(), strict=True)}
    return EventLog(
        user_N=_numbers(full, users),
        order_N=table["version"].to_numpy().astype(np.float64),
        time_us_N=table["event_time"].to_numpy().astype("datetime64[us]").astype(np.int64),
        ids_NK=ids_NK,
        features_NF=matrix(table["features"]).astype(np.float32),
        outcome_N=table[kind].to_numpy().astype(np.int64 if kind == "choice" else np.float32),
        users=users,
        ids=Ids(fields),
    )


def matrix(column: Any) -> npt.NDArray[Any]:
    """A chunked Arrow column of N lists of one length, as [N, length]. Raises ValueError: they are not."""
    flat: npt.NDArray[Any] = column.combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return flat.reshape(len(column), len(flat) // max(1, len(column)))


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


def _columns(path: Path, columns: Columns) -> dict[str, list[Any]]:
    """The columns that are asked for: labels of users, ids and choices, numbers of the rest."""
    names = columns.names
    twice = [name for name, times in Counter(names).items() if times > 1]
    if twice:
        raise LogError(f"{path}: the column {twice[0]} is asked for as two things")
    limits = dict.fromkeys((columns.order, *columns.features.values()), (_ANY, "a number"))
    if columns.outcome_kind != "choice":
        is_share = columns.outcome_kind == "share"
        limits[columns.outcome] = (_SHARE, "a number in [0, 1]") if is_share else (_ANY, "a number")
    found: dict[str, list[Any]] = {name: [] for name in names}
    for line, cells in read_rows(path, names):
        for name, cell in zip(names, cells, strict=True):
            found[name].append(read_number(path, line, name, cell, *limits[name]) if name in limits else cell)
    return found


def _vocabulary(labels: Iterable[str]) -> tuple[str, ...]:
    """Distinct labels; whole numbers by value, then the rest by spelling."""
    return tuple(sorted(set(labels), key=lambda label: (0, int(label), "") if label.isdecimal() else (1, 0, label)))


def _numbers(labels: Sequence[str], vocabulary: Sequence[str]) -> Ints:
    number_of = {label: number for number, label in enumerate(vocabulary)}
    return np.array([number_of[label] for label in labels], dtype=np.int64)


def _rows(path: Path, labels: Sequence[str], name: str, ids: Ids) -> Ints:
    """Rows of a field's table."""
    has = ids.fields.get(name)
    if has is None:
        raise LogError(f'{path}: the ids given have no field "{name}"')
    if isinstance(has, int):
        if not all(label.isdecimal() and int(label) < has for label in labels):
            raise LogError(f"{path}: the ids of {name} are not all numbers below {has}")
        return np.array([int(label) for label in labels], dtype=np.int64)
    row_of = {label: row for row, label in enumerate(has, start=1)}
    return np.array([row_of.get(label, UNKNOWN) for label in labels], dtype=np.int64)


def _choices(path: Path, labels: Sequence[str], ids: Ids) -> Ints:
    unknown = set(labels) - set(ids.choices)
    if unknown:
        raise LogError(f'{path}: "{min(unknown)}" is none of the choices {", ".join(ids.choices)}')
    return _numbers(labels, ids.choices)


def _stacked(columns: Sequence[npt.NDArray[Any]], num_events: int, kind: type) -> npt.NDArray[Any]:
    return np.stack(columns, axis=1) if columns else np.zeros((num_events, 0), kind)
