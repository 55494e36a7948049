"""Who waits for the answers of one feed: a future a call. A call that was given up leaves nothing behind but its
observation, which is answered to nobody."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from evercurrent.client.errors import InvalidRequest
from evercurrent.client.feed import Refusals
from evercurrent.client.results import Answer, Rejection, Result
from evercurrent.errors import EvercurrentError


class Calls:
    """Futures by seq and by query id. As many as the feed has unanswered, which its owner bounds."""

    def __init__(self) -> None:
        self._results: dict[int, asyncio.Future[Result]] = {}
        self._answers: dict[int, asyncio.Future[Answer]] = {}

    def expect_result(self, seq: int) -> asyncio.Future[Result]:
        """What will have the result of an observation."""
        return self._results.setdefault(seq, asyncio.get_running_loop().create_future())

    def expect_answer(self, query_id: int) -> asyncio.Future[Answer]:
        """What will have the answer to a query."""
        return self._answers.setdefault(query_id, asyncio.get_running_loop().create_future())

    def tell(self, result: Result) -> None:
        """Give a result to who waits for it."""
        future = self._results.pop(result.seq, None)
        if future is not None and not future.done():
            future.set_result(result)

    def tell_answer(self, query_id: int, answer: Answer | Rejection) -> None:
        """Give an answer to who waits for it, or the error that a refused query is."""
        future = self._answers.pop(query_id, None)
        if future is None or future.done():
            return
        if isinstance(answer, Answer):
            future.set_result(answer)
        else:
            error = InvalidRequest(f"the query was refused: {answer}", field=answer.field, reason=answer.reason)
            future.set_exception(error)

    def tell_refusals(self, refusals: Refusals) -> None:
        """Give what was refused without a reply of its own."""
        for result in refusals.results:
            self.tell(result)
        for query_id, why in refusals.queries:
            self.tell_answer(query_id, why)

    def fail(self, make: Callable[[], EvercurrentError]) -> None:
        """Every call ends with an error, each with one of its own."""
        futures: list[asyncio.Future[Any]] = [*self._results.values(), *self._answers.values()]
        for future in futures:
            if not future.done():
                future.set_exception(make())
        self._results.clear()
        self._answers.clear()
