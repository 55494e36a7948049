"""Generates the committed stubs under `evercurrent/v1` from `protos/`; `--check` only says whether they are in step.

The stubs are committed so that an install needs no compiler. Only messages, type hints and the services are kept: a
proto without a service has no `_pb2_grpc` file.
"""

from __future__ import annotations

import argparse
import filecmp
import shutil
import sys
import tempfile
from importlib import resources
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = Path("evercurrent/v1")


def generate(protos: Path, out: Path) -> None:
    """Writes the stubs of every proto under `protos` to `out`, which exists."""
    sources = sorted(str(path) for path in protos.rglob("*.proto"))
    includes = [f"-I{protos}", f"-I{resources.files('grpc_tools') / '_proto'}"]
    outputs = [f"--{kind}_out={out}" for kind in ("python", "pyi", "grpc_python")]
    if protoc.main(["protoc", *includes, *outputs, *sources]) != 0:
        raise SystemExit("stubs: the protos do not compile")
    for path in out.rglob("*_pb2_grpc.py"):
        if "class " not in path.read_text():
            path.unlink()


def stub_names(folder: Path) -> set[str]:
    """Names of the stub files in a folder."""
    return {path.name for path in folder.iterdir() if "_pb2" in path.name and path.is_file()}


def differences(generated: Path, committed: Path) -> list[str]:
    """One line for each stub that is missing, stale or left over; none when they are in step."""
    fresh, old = stub_names(generated), stub_names(committed)
    changed = [name for name in fresh & old if not filecmp.cmp(generated / name, committed / name, shallow=False)]
    return sorted(
        [f"missing  {PACKAGE / name}" for name in fresh - old]
        + [f"leftover {PACKAGE / name}" for name in old - fresh]
        + [f"stale    {PACKAGE / name}" for name in changed]
    )


def replace(generated: Path, committed: Path) -> None:
    """Makes the committed stubs those that were generated."""
    for name in stub_names(committed):
        (committed / name).unlink()
    for name in stub_names(generated):
        shutil.copyfile(generated / name, committed / name)


def main() -> int:
    """Exit status 1 when the check finds stubs out of step."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; fail when the stubs are out of step")
    parser.add_argument("--root", type=Path, default=ROOT, help="the folder that holds protos/ and evercurrent/v1/")
    arguments = parser.parse_args()
    committed = arguments.root / PACKAGE
    with tempfile.TemporaryDirectory() as temporary:
        generate(arguments.root / "protos", Path(temporary))
        generated = Path(temporary) / PACKAGE
        if not arguments.check:
            replace(generated, committed)
            return 0
        out_of_step = differences(generated, committed)
    if out_of_step:
        print("The stubs differ from protos/; run `make protos` and commit:", *out_of_step, sep="\n  ", file=sys.stderr)
    return 1 if out_of_step else 0


if __name__ == "__main__":
    sys.exit(main())
