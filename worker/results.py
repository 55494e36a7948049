"""What a step answers."""

from __future__ import annotations

from dataclasses import dataclass, field

from evercurrent.v1.columns_pb2 import IndexedRejection
from evercurrent.wire import Records


@dataclass(slots=True)
class Results:
    """Results of one step for one link; `rejections` are by index into `records`."""

    link: int
    records: Records
    rejections: list[IndexedRejection] = field(default_factory=list)
