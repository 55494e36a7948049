"""Whether one model can stand in for another: do they take the same observations and predict as many values?"""

from __future__ import annotations

from evercurrent.v1.description_pb2 import ModelDescription, OutcomeKind

OWN = ("name", "state_width")
"""What may differ: clients see nothing of it."""


def mismatch(one: ModelDescription, other: ModelDescription) -> str:
    """The first of what differs, for people; empty: each can stand in for the other."""
    for field in ModelDescription.DESCRIPTOR.fields:
        mine, others = getattr(one, field.name), getattr(other, field.name)
        if field.name not in OWN and mine != others:
            what = field.name.replace("_", " ")
            return f"{what}: {_said(field.name, others)} instead of {_said(field.name, mine)}"
    return ""


def _said(field: str, value: object) -> str:
    if field == "outcome" and value in OutcomeKind.values():
        return OutcomeKind.Name(value).removeprefix("OUTCOME_KIND_").lower()
    text = str(value).replace("\n", " ").strip()
    return "none" if text in ("", "[]") else text
