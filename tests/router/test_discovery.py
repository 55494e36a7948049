"""Which source the settings name."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from pathlib import Path

import pytest

from evercurrent.settings import Member, RouterSettings
from router.discovery import StaticSource, make_source
from router.kubernetes import KubernetesSource, Target, target_of
from router.membership import Listed


async def test_a_static_list_is_listed_once_and_stays() -> None:
    source = make_source(RouterSettings(workers=(Member(name="b", address="h:2"), Member(name="a", address="h:1"))))
    assert isinstance(source, StaticSource)
    async with aclosing(source.listings()) as listings:
        assert await anext(listings) == {"a": Listed("h:1"), "b": Listed("h:2")}
        waiting = asyncio.ensure_future(anext(listings))
        await asyncio.sleep(0)
        assert not waiting.done()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting


@pytest.mark.parametrize(
    ("settings", "target"),
    [
        (RouterSettings(kubernetes_service="workers"), Target("workers")),
        (
            RouterSettings(
                kubernetes_service="prod/workers",
                kubernetes_port_name="link",
                kubernetes_kubeconfig=Path("k"),
                kubernetes_context="c",
            ),
            Target("workers", "prod", "link", Path("k"), "c"),
        ),
    ],
)
def test_a_service_is_watched(settings: RouterSettings, target: Target) -> None:
    assert isinstance(make_source(settings), KubernetesSource)
    assert target_of(settings) == target
