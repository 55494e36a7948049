"""The ring as a picture: an SVG whose outer ring has the slots of each worker, and whose inner one has their loads."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

COLORS = ("#4f8cff", "#ff8f3f", "#34c38f", "#c75fff", "#ffcf3f", "#ff5f7f", "#3fd6e0", "#9aa4b8")
IDLE = "#2b3446"

SIZE = 320
_MIDDLE = SIZE / 2
_OUTER, _OUTER_IN = 150.0, 118.0
_INNER, _INNER_IN = 108.0, 88.0
_WHOLE = 2 * math.pi


def color_of(index: int) -> str:
    """Of the member with this index; after the last color they begin anew."""
    return COLORS[index % len(COLORS)]


def ring_svg(names: Sequence[str], slots: Sequence[int], loads: Mapping[str, float]) -> str:
    """`slots` has for each slot the index of its member in `names`; `loads` what each does, in any one unit."""
    parts = [f'<svg viewBox="0 0 {SIZE} {SIZE}" role="img" aria-label="The ring: {len(names)} workers">']
    for index, name in enumerate(names):
        path = "".join(_arc(start, end, len(slots), _OUTER, _OUTER_IN) for start, end in _runs(slots, index))
        title = f"{name}: {sum(slot == index for slot in slots)} of {len(slots)} slots"
        parts.append(f'<path d="{path}" fill="{color_of(index)}"><title>{escape(title)}</title></path>')
    parts += _loads(names, loads)
    total = sum(loads.values())
    parts += [
        f'<text x="{_MIDDLE}" y="{_MIDDLE - 4}" text-anchor="middle" class="ring-number">{total:,.0f}</text>',
        f'<text x="{_MIDDLE}" y="{_MIDDLE + 18}" text-anchor="middle" class="ring-unit">updates/s</text>',
        "</svg>",
    ]
    return "".join(parts)


def _loads(names: Sequence[str], loads: Mapping[str, float]) -> list[str]:
    total = sum(loads.get(name, 0.0) for name in names)
    if total <= 0:
        return [f'<path d="{_arc(0, 1, 1, _INNER, _INNER_IN)}" fill="{IDLE}"/>']
    parts, at = [], 0.0
    for index, name in enumerate(names):
        load = loads.get(name, 0.0)
        if load > 0:
            title = escape(f"{name}: {load:,.0f} updates/s, {load / total:.1%}")
            path = _arc(at, at + load, total, _INNER, _INNER_IN)
            parts.append(f'<path d="{path}" fill="{color_of(index)}" opacity=".75"><title>{title}</title></path>')
        at += load
    return parts


def _runs(slots: Sequence[int], index: int) -> list[tuple[int, int]]:
    """Where slots of one member begin and end, without gaps."""
    runs: list[tuple[int, int]] = []
    for at, slot in enumerate(slots):
        if slot != index:
            continue
        if runs and runs[-1][1] == at:
            runs[-1] = runs[-1][0], at + 1
        else:
            runs.append((at, at + 1))
    return runs


def _arc(start: float, end: float, whole: float, outer: float, inner: float) -> str:
    """A piece of a ring, clockwise from the top. A whole one is drawn in halves: no arc ends where it begins."""
    if end - start >= whole:
        return _arc(0, 1, 2, outer, inner) + _arc(1, 2, 2, outer, inner)
    large = 1 if (end - start) / whole > 0.5 else 0
    (ax, ay), (bx, by) = _point(start / whole, outer), _point(end / whole, outer)
    (cx, cy), (dx, dy) = _point(end / whole, inner), _point(start / whole, inner)
    return (
        f"M{ax:.1f} {ay:.1f}A{outer:g} {outer:g} 0 {large} 1 {bx:.1f} {by:.1f}"
        f"L{cx:.1f} {cy:.1f}A{inner:g} {inner:g} 0 {large} 0 {dx:.1f} {dy:.1f}Z"
    )


def _point(share: float, radius: float) -> tuple[float, float]:
    angle = share * _WHOLE - math.pi / 2
    return _MIDDLE + radius * math.cos(angle), _MIDDLE + radius * math.sin(angle)
