"""What a worker says of a store that it cannot use."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.persistence import servers


def run_worker(*options: str) -> tuple[int, str]:
    """How a worker that does not start ends, and its last line."""
    ended = subprocess.run(
        [sys.executable, "-P", "-m", "evercurrent.cli", "worker", *options],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | servers.CREDENTIALS,
        check=False,
    )
    assert ended.stdout == ""
    return ended.returncode, ended.stderr.splitlines()[-1]


def test_a_store_that_ignores_conditions_is_refused_by_name(tmp_path: Path) -> None:
    with servers.rclone(tmp_path) as server:
        url = server.url("probed", path_style="true")
        code, last = run_worker("--store", url)
    assert code == 1
    assert last == (
        "evercurrent: this store cannot arbitrate: put-if-absent (If-None-Match: *) is not enforced: "
        "it wrote over an object"
    )


def test_a_url_that_is_none_is_refused_by_name() -> None:
    code, last = run_worker("--store", "redis://somewhere")
    assert code == 2
    assert last.startswith("evercurrent: worker: store 'redis://somewhere': it begins with none of")


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    path = tmp_path / "absent" / "store.db"
    code, last = run_worker("--store", f"sqlite:{path}")
    assert code == 1
    assert str(path) in last


def test_timings_that_contradict_each_other_are_refused() -> None:
    code, last = run_worker("--store", "memory:", "--journal-interval-ms", "200")
    assert code == 2
    assert last == (
        "evercurrent: worker: dead_after_ms (500) is below four times journal_interval_ms (200): "
        "an owner would seem dead between two segments"
    )
