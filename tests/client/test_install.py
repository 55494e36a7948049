"""The light install: without what the extra `server` brings, the client works and the command says what is missing."""

from __future__ import annotations

import asyncio
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
    names = {re.split(r"[<>=\[]", requirement)[0] for requirement in project["optional-dependencies"]["server"]}
    modules = {name.removeprefix("grpcio-").replace("-", "_") for name in names}
    modules = {{"health_checking": "grpc_health", "reflection": "grpc_reflection"}.get(name, name) for name in modules}
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


@pytest.mark.parametrize("module", ["typer", "torch"])
def test_the_command_says_what_to_install(module: str) -> None:
    refusing = REFUSING.replace(str(set(SERVER_MODULES)), str({module}))
    code = refusing + "sys.argv[1:] = ['worker', '--store', 'memory:']\nfrom evercurrent.cli import main\nmain()"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert ended.returncode == 2
    assert ended.stderr == (
        f"evercurrent: this is the client alone, and commands need `{module}`: pip install 'evercurrent[server]'\n"
    )
