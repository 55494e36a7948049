"""Whether one model can stand in for another: do they take the same observations and predict as many values?"""

from __future__ import annotations

from evercurrent.v1.description_pb2 import ModelDescription

OWN = ("name", "state_width")
"""What may differ: clients see nothing of it."""


def mismatch(one: ModelDescription, other: ModelDescription) -> str:
    """The first of what differs, for people; empty: each can stand in for the other."""
    for field in ModelDescription.DESCRIPTOR.fields:
        mine, others = getattr(one, field.name), getattr(other, field.name)
        if field.name not in OWN and mine != others:
            return f"{field.name.replace('_', ' ')}: {_said(others)} instead of {_said(mine)}"
    return ""


def _said(value: object) -> str:
    text = str(value).replace("\n", " ").strip()
    return "none" if text in ("", "[]") else text
