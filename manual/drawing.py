"""The life of a migration as a picture: TRANSITIONS as SVG that stands in the page, so that no script draws it.

Floor 5. Pure. Promise: an edge that is drawn exists, and each that exists is drawn; hovering tells its reason.
"""

from __future__ import annotations

from html import escape

from migrator.lifecycle import FINAL, TRANSITIONS, MigrationStatus

S = MigrationStatus
#: Where each status stands, in columns and rows of the picture: on top the way there, below it what stops it.
PLACES: dict[MigrationStatus, tuple[float, float]] = {
    S.PLANNED: (0, 1.6),
    S.BACKFILLING: (1, 1.6),
    S.INDEXING: (2, 1.6),
    S.VALIDATING: (3, 1.6),
    S.READY: (4, 1.6),
    S.COMPLETED: (5, 1.6),
    S.ROLLED_BACK: (5, 0.5),
    S.PAUSED: (2.5, 3),
    S.CANCELLED: (4, 3.2),
    S.CLEANING: (6, 2.6),
    S.CLEANED: (6, 3.9),
}
_COLUMN, _ROW, _LEFT, _TOP = 140, 105, 75, 40
_HALF_WIDTH, _HALF_HEIGHT = 54, 17
#: By how much an edge bends to its left, of its length: one there and one back do not lie on each other.
_BEND = 0.05
#: Edges that would run through other statuses swing wide around them, to their left, or below 0 to their right.
_WIDE = {
    (S.PLANNED, S.CLEANED): -0.14,
    (S.VALIDATING, S.BACKFILLING): 0.16,
    (S.ROLLED_BACK, S.BACKFILLING): -0.08,
    (S.PAUSED, S.ROLLED_BACK): 0.11,
}


def svg() -> str:
    """Return the picture."""
    edges = "".join(_edge(old, new, why) for old, new_ones in TRANSITIONS.items() for new, why in new_ones.items())
    statuses = "".join(_status(each) for each in S)
    width, height = _LEFT * 2 + 6 * _COLUMN, _TOP * 2 + int(4.2 * _ROW)
    return (
        f'<svg class="life" viewBox="0 0 {width} {height}" role="img" aria-label="The life of a migration">'
        '<defs><marker id="arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
        'orient="auto"><path d="M0 0 8 4 0 8z"/></marker></defs>'
        f"{edges}{statuses}</svg>"
    )


def _centre(status: MigrationStatus) -> tuple[float, float]:
    column, row = PLACES[status]
    return _LEFT + column * _COLUMN, _TOP + row * _ROW


def _status(status: MigrationStatus) -> str:
    x, y = _centre(status)
    kind = "final" if status in FINAL else "carried" if status.endswith("ing") else "rests"
    return (
        f'<g class="{kind}"><rect x="{x - _HALF_WIDTH:.0f}" y="{y - _HALF_HEIGHT:.0f}" width="{2 * _HALF_WIDTH}" '
        f'height="{2 * _HALF_HEIGHT}" rx="8"/><text x="{x:.0f}" y="{y + 4:.0f}">{status}</text></g>'
    )


def _edge(old: MigrationStatus, new: MigrationStatus, why: str) -> str:
    (x1, y1), (x2, y2) = _centre(old), _centre(new)
    bend = _WIDE.get((old, new), _BEND)
    middle = ((x1 + x2) / 2 + (y2 - y1) * bend * 2, (y1 + y2) / 2 - (x2 - x1) * bend * 2)
    start, end = _border((x1, y1), middle), _border((x2, y2), middle)
    path = f"M{start[0]:.1f} {start[1]:.1f}Q{middle[0]:.1f} {middle[1]:.1f} {end[0]:.1f} {end[1]:.1f}"
    return f'<path class="edge" data-edge="{old} {new}" d="{path}"><title>{old} to {new}: {escape(why)}</title></path>'


def _border(centre: tuple[float, float], towards: tuple[float, float]) -> tuple[float, float]:
    """Return where a line from a status's centre leaves its box."""
    across, down = towards[0] - centre[0], towards[1] - centre[1]
    share = min(_HALF_WIDTH / abs(across) if across else 9.0, _HALF_HEIGHT / abs(down) if down else 9.0)
    return centre[0] + across * share, centre[1] + down * share
