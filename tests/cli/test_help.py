"""The command line teaches itself and refuses what it does not know."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from evercurrent.settings import RouterSettings, WorkerSettings

CLI = [sys.executable, "-P", "-m", "evercurrent.cli"]
COMMANDS = [
    "up",
    "demo",
    "health",
    "hot",
    "train",
    "train knowledge-tracing",
    "train adaptive",
    "models",
    "models push",
    "models list",
    "models show",
    "models log",
    "shadow",
    "shadow start",
    "shadow stop",
    "shadow watch",
    "shadow policy",
    "promote",
    "rollback",
    "quarantine",
    "quarantine list",
    "quarantine release",
]
PLAIN = {"COLUMNS": "200", "TERM": "dumb", "NO_COLOR": "1"}


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs a command that starts nothing."""
    environment = os.environ | PLAIN | environment
    return subprocess.run([*CLI, *arguments], capture_output=True, text=True, env=environment, check=False)


def test_help_names_every_command() -> None:
    shown = run("--help")
    assert shown.returncode == 0
    for word in ("up", "demo", "router", "worker", "train", "EVERCURRENT_WORKER__RESIDENTS_MAX", "--config"):
        assert word in shown.stdout


@pytest.mark.parametrize(("command", "values"), [("worker", WorkerSettings), ("router", RouterSettings)])
def test_help_shows_every_setting_with_its_meaning(
    command: str, values: type[WorkerSettings] | type[RouterSettings]
) -> None:
    shown = run(command, "--help").stdout
    for key, field in values.model_fields.items():
        assert f"--{key.replace('_', '-')} " in shown
        assert field.description is not None
        assert field.description.rstrip(".") in shown


def test_help_shows_defaults_with_their_units() -> None:
    assert "[default: (1000000)]" in run("worker", "--help").stdout
    assert "[default: (4.0MiB)]" in run("router", "--help").stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str) -> None:
    shown = run(*command.split(), "--help")
    assert shown.returncode == 0
    assert "Usage: evercurrent" in shown.stdout


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["worker", "--batch-max", "0"], "evercurrent: --batch-max: "),
        (["worker", "--batch-max", "many"], "evercurrent: --batch-max: "),
        (["router"], "evercurrent: router.workers: name at least one worker"),
        (["router", "--workers", "a=h:1,a=h:2"], "evercurrent: router: two workers have the name a"),
        (["up", "--address", "nowhere"], 'evercurrent: --address: "nowhere" is not host:port'),
    ],
)
def test_wrong_settings_are_one_line_and_exit_2(arguments: list[str], text: str) -> None:
    ended = run(*arguments)
    assert ended.returncode == 2
    assert ended.stderr.startswith(text)
    assert len(ended.stderr.splitlines()) == 1


def test_a_wrong_variable_is_one_line_and_exit_2() -> None:
    ended = run("worker", EVERCURRENT_WORKER__RESIDENTS_MAKS="1")
    assert (ended.returncode, ended.stderr) == (2, "evercurrent: EVERCURRENT_WORKER__RESIDENTS_MAKS: not a setting\n")


def test_a_wrong_key_of_a_file_is_one_line_and_exit_2(tmp_path: Path) -> None:
    file = tmp_path / "wrong.toml"
    file.write_text("[router]\nworker = 1\n")
    ended = run("router", "--config", str(file))
    assert (ended.returncode, ended.stderr) == (2, f"evercurrent: {file}: router.worker: not a setting\n")


def test_an_unknown_option_is_refused() -> None:
    ended = run("demo", "--speed", "1")
    assert ended.returncode == 2
    assert "--speed" in ended.stderr


def test_the_command_line_is_light_until_a_model_is_needed() -> None:
    code = "import evercurrent.cli, sys; raise SystemExit('torch' in sys.modules or 'grpc' in sys.modules)"
    assert subprocess.run([sys.executable, "-P", "-c", code], check=False).returncode == 0
