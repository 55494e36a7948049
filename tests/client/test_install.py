"""The light install: without what the extras bring the client works, and direct mode and the command say what is
missing."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from evercurrent.cli.entry import SERVER_MODULES
from tests.servers import running_service

ROOT = Path(__file__).parents[2]

REFUSING = f"""
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {set(SERVER_MODULES)}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Refuse())
"""

OBSERVING = """
import evercurrent

with evercurrent.connect_sync(sys.argv[1]) as client, client.session("ann") as session:
    result = session.observe(ids=[3, 1], features=[0.5, -1.0], outcome=1.0)
    print(result.version, result.status.name)
"""


def test_the_extra_is_what_is_refused_here() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    assert "evercurrent[direct]" in extras["server"]
    requirements = {*extras["server"], *extras["direct"]} - {"evercurrent[direct]"}
    names = {re.split(r"[<>=\[]", requirement)[0] for requirement in requirements}
    modules = {name.removeprefix("grpcio-").replace("-", "_") for name in names}
    imported = {"health_checking": "grpc_health", "reflection": "grpc_reflection", "pyjwt": "jwt"}
    modules = {imported.get(name, name.partition("_")[0] if "opentelemetry" in name else name) for name in modules}
    assert modules - {"status"} == SERVER_MODULES - {"botocore", "pydantic_core"}
    light = {re.split(r"[<>=\[]", requirement)[0] for requirement in project["dependencies"]}
    assert light == {"googleapis-common-protos", "grpcio", "protobuf", "python-ulid"}


async def test_the_client_observes_without_the_server_packages() -> None:
    async with running_service() as service:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", REFUSING + OBSERVING, service.address),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        output, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    assert output.decode() == "1 APPLIED\n"


async def test_direct_mode_needs_no_more_than_its_extra() -> None:
    """What `server` brings on top is refused, and the modules of `direct` are not."""
    own = {"numpy", "pydantic", "pydantic_core", "pydantic_settings", "structlog", "uhashring", "grpc_health"}
    more = SERVER_MODULES - own
    refusing = REFUSING.replace(str(set(SERVER_MODULES)), str(set(more)))
    observing = OBSERVING.replace("sys.argv[1]", 'sys.argv[1], mode="direct"')
    async with running_service() as service:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", refusing + observing, service.address),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        output, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    assert output.decode() == "1 APPLIED\n"


@pytest.mark.parametrize("module", ["numpy", "uhashring", "grpc_health", "pydantic_settings"])
def test_direct_mode_says_what_to_install(module: str) -> None:
    refusing = REFUSING.replace(str(set(SERVER_MODULES)), str({module}))
    code = f'{refusing}\nimport evercurrent\nevercurrent.connect("w=h:1", mode="direct")'
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert ended.stderr.splitlines()[-1] == (
        "evercurrent.client.errors.InvalidRequest: "
        f"mode \"direct\" needs `{module}`, which is not installed: pip install 'evercurrent[direct]'"
    )


def test_a_router_of_somebody_else_is_named(tmp_path: Path) -> None:
    (tmp_path / "router.py").write_text("")
    ended = subprocess.run(
        [sys.executable, "-c", 'import evercurrent\nevercurrent.connect("w=h:1", mode="direct")'],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
        cwd=tmp_path,
    )
    assert "another package shadows evercurrent's `router" in ended.stderr.splitlines()[-1]


@pytest.mark.parametrize("module", ["typer", "torch"])
def test_the_command_says_what_to_install(module: str) -> None:
    refusing = REFUSING.replace(str(set(SERVER_MODULES)), str({module}))
    code = refusing + "sys.argv[1:] = ['worker', '--store', 'memory:']\nfrom evercurrent.cli import main\nmain()"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert ended.returncode == 2
    assert ended.stderr == (
        f"evercurrent: this is the client alone, and commands need `{module}`: pip install 'evercurrent[server]'\n"
    )
