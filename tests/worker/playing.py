"""What stands around an engine in its tests: an owner to whom every user is here, links that note what is told."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from evercurrent.model import Model
from evercurrent.v1.columns_pb2 import IndexedRejection
from evercurrent.v1.worker_pb2 import LinkTagEnded, LinkTagOpened
from evercurrent.wire import Records
from worker.engine import Clock, Engine
from worker.residents import Residents
from worker.results import Results


@dataclass
class Told:
    """What links were told between steps."""

    opened_tags: list[tuple[int, LinkTagOpened]] = field(default_factory=list)
    watermarks: list[tuple[int, int, int]] = field(default_factory=list)
    """Link, tag, durable_seq."""
    ended_tags: list[tuple[int, int, int]] = field(default_factory=list)
    """Link, tag, reason."""
    num_dropped: int = 0

    def opened(self, link: int, answer: LinkTagOpened) -> None:
        self.opened_tags.append((link, answer))

    def durable(self, link: int, watermarks: Records) -> None:
        self.watermarks += [(link, int(one["tag"]), int(one["durable_seq"])) for one in watermarks]

    def ended(self, link: int, ended: Sequence[LinkTagEnded], num_dropped: int) -> None:
        self.ended_tags += [(link, one.tag, one.rejection.reason) for one in ended]
        self.num_dropped += num_dropped

    def filled(self) -> None:
        pass

    def fenced(self) -> None:
        pass


class PlayedHost:
    """Admits every user at once, but those who are `away`."""

    def __init__(self, residents: Residents) -> None:
        self.residents = residents
        self.away: set[str] = set()

    def seek(self, user: str, slot: int) -> int | None:
        return None if user in self.away else self.residents.admit(user, slot)

    def note_change(self) -> None:
        pass


class Played(Engine):
    """An engine with its surroundings."""

    def __init__(self, model: Model, residents_max: int, batch_max: int, clock_us: Clock) -> None:
        self.host = PlayedHost(Residents(model.initial_state().detach().numpy(), residents_max, "v1"))
        self.told = Told()
        self.answered: list[Results] = []
        """What was answered at once, and not asked for yet."""
        super().__init__(model.requires_grad_(False), self.host.residents, self.host, self.told, batch_max, clock_us)

    def take(self, link: int, raw: bytes, refusals: Sequence[IndexedRejection] = ()) -> None:
        """A frame, as links take it in."""
        if len(raw) == self.layout.event_dtype.itemsize and not refusals:
            result = self.answer_one(link, raw)
            if result is not None:
                self.answered.append(Results(link, result))
                return
        self.receive(link, self.layout.events(raw), refusals)

    def answers(self) -> Iterator[Results]:
        """All that was not asked for yet, and what the steps give that are due."""
        answered, self.answered = self.answered, []
        yield from answered
        while self.num_waiting:
            yield from self.step()
