"""Which peers are installed. `make peers` puts each into a virtual environment of its own under `.peers/`.

Those whose processes run our model and speak our messages see the packages of `.venv` behind their own, so that the
step that is compared is made by one and the same torch.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from bench.peers import network

FOLDER = Path(__file__).parents[2] / ".peers"
REDIS_SERVER = "redis-server"


def python_of(peer: str) -> Path:
    """The interpreter of a peer's environment."""
    return FOLDER / peer / "bin" / "python"


def program_of(peer: str, name: str) -> Path:
    """A program of a peer's environment."""
    return FOLDER / peer / "bin" / name


def skipped() -> Mapping[str, str]:
    """Why each peer that cannot be measured here is left out, with the command that mends it."""
    reasons = {
        "redis": _without_redis(),
        "ray_serve": _without(python_of("ray-serve"), "make peer-ray-serve") or _without_network(),
        "envoy": _without(program_of("envoy", "envoy"), "make peer-envoy"),
    }
    return {peer: reason for peer, reason in reasons.items() if reason is not None}


def _without_redis() -> str | None:
    if shutil.which(REDIS_SERVER) is None:
        return f"{REDIS_SERVER} is not installed: apt-get install redis-server"
    return _without(python_of("redis"), "make peer-redis")


def _without(program: Path, command: str) -> str | None:
    return None if program.exists() else f"not installed: {command}"


def _without_network() -> str | None:
    """Ray listens on all interfaces, so it gets a network without any but the loopback."""
    if network.is_private():
        return None
    try:
        subprocess.run([*network.UNSHARE, "true"], check=True, capture_output=True)
    except (FileNotFoundError, subprocess.CalledProcessError):
        return f"needs a network of its own, which `{' '.join(network.UNSHARE)}` must be allowed to make"
    return None


if __name__ == "__main__":
    print(f"{sys.argv[1]}: {skipped().get(sys.argv[1].replace('-', '_'), 'installed')}")
