"""Numbers as a person reads them."""

from __future__ import annotations

import math


def size(n: float) -> str:
    """Bytes in decimal units: 950 B, 1.2 GB (10^9 bytes)."""
    return _scaled(n, ("B", "kB", "MB", "GB", "TB", "PB"), " ")


def count(n: float) -> str:
    """A count, exact below a million (12,345), then to one decimal (1.1M, 81.3M, 2.0G)."""
    if abs(n) < 1e6:
        return f"{round(n):,}"
    return _scaled(n / 1e6, ("M", "G", "T", "P"), "", decimals=1)


def duration(seconds: float) -> str:
    """Two units at most: 45s, 3m10s, 2h05m, 1d04h; `?` if it is not a finite number."""
    if not math.isfinite(seconds):
        return "?"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    minutes = round(seconds / 60)
    if minutes < 24 * 60:
        return f"{minutes // 60}h{minutes % 60:02d}m"
    hours = round(seconds / 3600)
    return f"{hours // 24}d{hours % 24:02d}h"


def percent(share: float | None) -> str:
    """A share of 1 in per cent with one decimal: 12.5%; `-` for None."""
    return "-" if share is None else f"{100 * share:.1f}%"


def _scaled(n: float, units: tuple[str, ...], gap: str, decimals: int = 0) -> str:
    """`n` in the largest unit that leaves at least 1; above the first unit there is always one decimal."""
    for unit in units[:-1]:
        if float(f"{abs(n):.{decimals}f}") < 1000:
            return f"{n:.{decimals}f}{gap}{unit}"
        n, decimals = n / 1000, 1
    return f"{n:,.{decimals}f}{gap}{units[-1]}"
