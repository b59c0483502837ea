"""Durations and sizes for people."""

from __future__ import annotations


def in_milliseconds(seconds: float) -> str:
    """A duration of up to some seconds."""
    return f"{seconds * 1000:.0f}" if seconds >= 0.001 else "less than 1"


def in_bytes(number: float) -> str:
    """A size in the unit that suits it, ``8.0 GiB``."""
    size, name = next(((size, name) for size, name in _SIZES if number >= size), (1, "bytes"))
    return f"{number / size:.1f} {name}" if size > 1 else f"{number:.0f} {name}"


_SIZES = ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))


def in_words(seconds: float) -> str:
    """A duration in the largest unit of which it has two, ``90 seconds``, ``3 hours``."""
    size, name = next(((size, name) for size, name in _UNITS if seconds >= 2 * size), (1, "second"))
    number = round(seconds / size)
    return f"{number} {name}{'' if number == 1 else 's'}"


_UNITS = ((31_557_600, "year"), (86_400, "day"), (3600, "hour"), (60, "minute"))
