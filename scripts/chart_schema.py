"""Writes the part of the chart's values.schema.json that says what `config` may hold, from the settings themselves.

What the chart would refuse and the program would take, or the other way round, cannot come apart: CI runs this with
`--check`, which writes nothing and fails where the file would change.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from evercurrent.settings import RouterSettings, ServiceSettings, WorkerSettings

SCHEMA = Path(__file__).resolve().parent.parent / "helm" / "evercurrent" / "values.schema.json"
ROLES: dict[str, type[RouterSettings] | type[WorkerSettings]] = {"router": RouterSettings, "worker": WorkerSettings}
SET_BY_THE_CHART = frozenset(
    {
        "name",
        "address",
        "advertised_address",
        "metrics_address",
        "workers",
        "kubernetes_service",
        "kubernetes_port_name",
        "kubernetes_kubeconfig",
        "kubernetes_context",
        "tls_certificate",
        "tls_key",
        "tls_client_ca",
        "tls_ca",
        "tls_server_name",
        "cluster_token_file",
        "insecure",
    }
)
"""Settings that the chart's other values make. `templates/_checks.tpl` says so to whoever gives them."""

BYTES = {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)? ?([kKMGTP]i?)?[bB]?$"}
"""Also how bytes are written: 512MiB."""


def config_schema() -> dict[str, Any]:
    """What `config` of the values may hold."""
    return {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            role: {
                "type": "object",
                "additionalProperties": False,
                "properties": {key: _of(key, values) for key in sorted(values.model_fields)},
            }
            for role, values in ROLES.items()
        },
    }


def _of(key: str, values: type[ServiceSettings]) -> dict[str, Any]:
    """A setting's schema. Those of the chart are let through, for its own message says more than "not allowed"."""
    description = str(values.model_fields[key].description)
    if key in SET_BY_THE_CHART:
        return {"description": f"Set by the chart. {description}"}
    found = dict(values.model_json_schema()["properties"][key])
    kinds = [_plain(kind) for kind in found.get("anyOf", [found])]
    if "_bytes_" in key:
        kinds.append(BYTES)
    if key == "cluster_identities":
        kinds.append({"type": "string"})
    return {"description": description, **(kinds[0] if len(kinds) == 1 else {"anyOf": kinds})}


def _plain(kind: dict[str, Any]) -> dict[str, Any]:
    """Without what is not the chart's to say. `gt` is what pydantic leaves of a bound that it cannot place."""
    words = {"gt": "exclusiveMinimum"}
    unsaid = ("title", "default", "description", "format")
    return {words.get(word, word): value for word, value in kind.items() if word not in unsaid}


def rendered() -> str:
    """The file as it should be."""
    schema = json.loads(SCHEMA.read_text())
    schema["properties"]["config"] = config_schema()
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; 1 if the file would change")
    text = rendered()
    if not parser.parse_args().check:
        SCHEMA.write_text(text)
    elif text != SCHEMA.read_text():
        print(f"{SCHEMA.name} is not what the settings say: python scripts/chart_schema.py", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
