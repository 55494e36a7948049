"""What holds for all tests."""

from __future__ import annotations

import os
import signal

import pytest
from hypothesis import HealthCheck, settings

from evercurrent.settings import PREFIX

settings.register_profile("fuzz", max_examples=20_000, deadline=None, suppress_health_check=list(HealthCheck))


def pytest_configure() -> None:
    """A shell starts background jobs with Ctrl-C ignored, and children inherit that: the tests of Ctrl-C would wait for
    ever in a job that runs the tests unattended."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _no_settings_of_the_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings in the environment of whoever runs the tests are not the tests'."""
    for variable in [name for name in os.environ if name.upper().startswith(PREFIX)]:
        monkeypatch.delenv(variable)
