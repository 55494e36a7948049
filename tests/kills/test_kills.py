"""A few kills on each store; `python -m tests.kills` does more of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.kills.__main__ import store_of
from tests.kills.run import NUM_USERS, kill_repeatedly
from tests.persistence import servers


@pytest.mark.parametrize("kind", ["sqlite", "s3"])
@pytest.mark.timeout(300)
def test_what_was_promised_outlives_kills(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in servers.CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    with store_of(kind, tmp_path) as store:
        tally = kill_repeatedly(store, num_kills=3, seed=11)
    assert tally.num_streams == NUM_USERS
