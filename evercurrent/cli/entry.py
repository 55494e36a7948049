"""The console script. Apart from the commands: where only the client is installed it can say what is missing."""

from __future__ import annotations

import sys

SERVER_MODULES = frozenset(
    {
        "aiobotocore",
        "aiohttp",
        "botocore",
        "cryptography",
        "grpc_health",
        "grpc_reflection",
        "jwt",
        "kubernetes_asyncio",
        "numba",
        "numpy",
        "opentelemetry",
        "prometheus_client",
        "pyarrow",
        "pydantic",
        "pydantic_core",
        "pydantic_settings",
        "rich",
        "safetensors",
        "structlog",
        "torch",
        "typer",
        "uhashring",
        "uvloop",
    }
)
"""What the extra `server` brings, as it is imported."""


def main() -> None:
    """Runs the command line. Exit code 2 where the extra `server` is not installed."""
    try:
        from evercurrent.cli.app import main as run

        run()
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in SERVER_MODULES:
            raise
        text = f"this is the client alone, and commands need `{missing}`: pip install 'evercurrent[server]'"
        print(f"evercurrent: {text}", file=sys.stderr)
        sys.exit(2)
