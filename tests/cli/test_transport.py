"""A server's process sets gRPC's switches before gRPC reads them: what defines the commands must not import it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from evercurrent.cli.transport import CHOICES, choose_transport


def test_the_commands_are_defined_without_grpc() -> None:
    program = "import sys, evercurrent.cli.app; sys.exit('grpc' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_switches_stand_unless_the_environment_has_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "grpc", raising=False)
    monkeypatch.setattr(os, "environ", {"GRPC_EXPERIMENTS": "theirs"})
    choose_transport()
    assert os.environ == {**CHOICES, "GRPC_EXPERIMENTS": "theirs"}


def test_switches_that_would_come_too_late_are_an_error() -> None:
    import grpc

    assert grpc.__name__ in sys.modules
    with pytest.raises(RuntimeError, match="imported before its switches"):
        choose_transport()
