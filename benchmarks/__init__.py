"""Benchmarks: figures that documents quote, made anew by `./run bench [NAME...]`, rivals side by side in one run."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured figure. `goal` says what it should be, `met` whether it is; both None where it only informs."""

    bench: str
    name: str
    figure: float
    unit: str
    goal: str | None = None
    met: bool | None = None
    #: What it was measured against, in the same run.
    versus: str | None = None

    @classmethod
    def at_least(cls, bench: str, name: str, figure: float, unit: str, low: float, versus: str | None = None) -> Figure:
        """Make a figure that should not be below `low`."""
        return cls(bench, name, figure, unit, f">= {low:.4g}", bool(figure >= low), versus)

    @classmethod
    def within(
        cls, bench: str, name: str, figure: float, unit: str, band: tuple[float, float], versus: str | None = None
    ) -> Figure:
        """Make a figure that should be inside a band, its ends included."""
        low, high = band
        return cls(bench, name, figure, unit, f"{low:.4g} to {high:.4g}", bool(low <= figure <= high), versus)
