"""The order in which arms take turns."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from bench.pairs import interleave


async def test_arms_take_turns_in_an_order_that_turns_round() -> None:
    measured: list[str] = []
    advanced: list[int] = []

    def arm(name: str) -> Callable[[], Awaitable[str]]:
        async def block() -> str:
            measured.append(name)
            return f"{name}{measured.count(name)}"

        return block

    blocks = await interleave([arm("a"), arm("b"), arm("c")], 3, lambda: advanced.append(len(measured)))

    assert "".join(measured) == "abccbaabc"
    assert blocks == [["a1", "a2", "a3"], ["b1", "b2", "b3"], ["c1", "c2", "c3"]]
    assert advanced == [3, 6, 9]
