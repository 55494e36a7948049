"""What holds for all tests."""

from __future__ import annotations

import os

import pytest

from evercurrent.settings import PREFIX


@pytest.fixture(autouse=True)
def _no_settings_of_the_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings in the environment of whoever runs the tests are not the tests'."""
    for variable in [name for name in os.environ if name.upper().startswith(PREFIX)]:
        monkeypatch.delenv(variable)
