"""One line an act: as text and as JSON, through the standard library."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator

import pytest

from evercurrent.telemetry.logs import configure, get_logger
from evercurrent.telemetry.tracing import Context, current

LOGGER = "tests.logs"

Lines = Callable[[], list[str]]


@pytest.fixture
def lines(capsys: pytest.CaptureFixture[str]) -> Iterator[Lines]:
    """What is written to standard error."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield lambda: capsys.readouterr().err.splitlines()
    root.handlers[:], root.level = handlers, level


def test_text_says_event_and_fields(lines: Lines) -> None:
    configure("info", "text", "worker-0")
    get_logger(LOGGER).info("link opened", router="router-0", link=1, why="it is back", empty="", share=0.5)
    (line,) = lines()
    said = "INFO worker-0 tests.logs: link opened router=router-0 link=1 why='it is back' empty='' share=0.5"
    assert line.endswith(said)


def test_json_is_an_object_a_line_also_of_others(lines: Lines) -> None:
    configure("info", "json", "worker-0")
    get_logger(LOGGER).info("link opened", router="router-0", link=1)
    logging.getLogger("grpc").warning("%d went away", 2)
    try:
        int("no")
    except ValueError:
        get_logger(LOGGER).exception("it failed", version="v2")
    ours, theirs, failed = map(json.loads, lines())
    assert ours.pop("timestamp").endswith("Z")
    assert ours == {
        "process": "worker-0",
        "event": "link opened",
        "router": "router-0",
        "link": 1,
        "level": "info",
        "logger": LOGGER,
    }
    assert (theirs["event"], theirs["level"], theirs["logger"]) == ("2 went away", "warning", "grpc")
    assert (failed["event"], failed["version"]) == ("it failed", "v2")
    assert failed["exception"][0]["exc_type"] == "ValueError"


def test_what_is_below_the_level_is_not_made(lines: Lines) -> None:
    configure("warning", "text", "worker-0")
    get_logger(LOGGER).info("link opened")
    assert lines() == []


def test_a_line_of_a_traced_event_names_the_trace(lines: Lines) -> None:
    configure("info", "json", "worker-0")
    token = current.set(Context(0xAB, 0xCD))
    get_logger(LOGGER).info("handled")
    current.reset(token)
    get_logger(LOGGER).info("idle")
    handled, idle = map(json.loads, lines())
    assert (handled["trace_id"], handled["span_id"]) == (f"{0xAB:032x}", f"{0xCD:016x}")
    assert "trace_id" not in idle
