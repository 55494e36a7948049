"""The page as a browser has it, and `top`: of a real service."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import evercurrent
from evercurrent.cli.cluster import Cluster, run_cluster

COMMAND = [sys.executable, "-P", "-m", "evercurrent.cli"]
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two workers on which somebody learns all the time."""
    store = f"sqlite:{tmp_path_factory.mktemp('page') / 'store.db'}"
    ended = threading.Event()
    with run_cluster(store=store) as cluster, evercurrent.connect_sync(cluster.address) as client:

        def learn() -> None:
            with client.session("<b>ann</b>") as ann:
                while not ended.is_set():
                    ann.observe(ids=[1, 1], outcome=1.0)

        learning = threading.Thread(target=learn)
        learning.start()
        try:
            yield cluster
        finally:
            ended.set()
            learning.join()


def test_top_shows_a_look(service: Cluster) -> None:
    done = subprocess.run(
        [*COMMAND, "top", "--once", "--interval", "0.3", "--address", service.address],
        capture_output=True,
        text=True,
        check=True,
        env={"COLUMNS": "120", "PATH": ""},
    )
    total = re.search(r"total +([\d.]+) +([\d.]+) +([\d.]+)", done.stdout)
    assert total is not None, done.stdout
    p50, p99, p999 = map(float, total.groups())
    assert 0 < p50 <= p99 <= p999
    for text in ("router-0", "worker-0", "worker-1", "<b>ann</b>", "route", "hydrate", "reply"):
        assert text in done.stdout
    rates = [int(found.replace(",", "")) for found in re.findall(r"up +[\d,]+ +[\d.]+% +([\d,]+)", done.stdout)]
    assert len(rates) == 2
    assert max(rates) > 0


def test_top_says_who_does_not_answer() -> None:
    done = subprocess.run([*COMMAND, "top", "--address", "127.0.0.1:1"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "UNAVAILABLE" in done.stderr


@pytest.mark.parametrize(
    ("listen", "said"),
    [("0.0.0.0:0", "served to this machine alone"), ("nowhere", "not host:port"), ("", "not host:port")],
)
def test_the_console_says_what_it_cannot_do(service: Cluster, listen: str, said: str) -> None:
    done = subprocess.run(
        [*COMMAND, "console", "--listen", listen, "--address", service.address],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert said in " ".join(done.stderr.split())


@pytest.fixture
def page(service: Cluster) -> Iterator[str]:
    """Where the console is served."""
    command = [*COMMAND, "console", "--listen", "127.0.0.1:0", "--address", service.address]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={"COLUMNS": "200", "PATH": ""}) as process:
        assert process.stdout is not None
        found = re.match(r"console at (http://\S+),", process.stdout.readline())
        assert found is not None
        yield found[1]
        process.terminate()
        assert process.wait(20) in (0, -15)


@pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed")
def test_a_browser_shows_it(page: str, tmp_path: Path) -> None:
    assert BROWSER is not None
    picture = tmp_path / "console.png"
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    timing = ["--virtual-time-budget=8000", "--timeout=20000", "--window-size=1440,1180"]
    wait = ["--dump-dom", f"--screenshot={picture}"]
    # The server listens a moment after it has said where: a page that is not there yet is asked for again.
    for _ in range(20):
        done = subprocess.run(
            [BROWSER, *options, *timing, *wait, page], capture_output=True, text=True, check=True, timeout=60
        )
        if "P99 update latency" in done.stdout:
            break
    dom = done.stdout
    assert re.search(r"[\d.]+ ms</div>.*?P99 update latency", dom, re.DOTALL), dom
    for text in ("worker-0", "worker-1", "&lt;b&gt;ann&lt;/b&gt;", "Nothing runs beside the live version.", "digest "):
        assert text in dom
    assert "<b>ann</b>" not in dom
    assert dom.count("<canvas") >= 3
    assert len(re.findall(r"<title>worker-\d: \d+ of 4096 slots</title>", dom)) == 2
    assert picture.stat().st_size > 20_000
