"""How fast each layer of a model is, and where one more peer would help most.

The value of a placement is the sum over its layers of ``-(rate / ideal) ** -SHARPNESS``: a smooth form of its weakest
link, in which each step towards the ideal counts. Rates are shared evenly here (see `throughput.densities`), which is
cheap to change peer by peer.
"""

from __future__ import annotations

from collections.abc import Sequence

from hivemind_p2p.sharding.throughput import ModelSizes, Server, densities, ideal_tokens_per_second
from hivemind_p2p.types import LayerSpan

SHARPNESS = 4
"""How much more a weak layer counts than a strong one. Larger looks at the weakest only, and finds no way uphill when
several are equally weak."""

_FLOOR = 1e-3
"""A layer without a host counts as this part of the ideal rate: much worse than any other, yet each counts."""

_PART_OF_ALIGNED = 0.97
"""A span that begins or ends where others do is taken if it is nearly as good: routes then have fewer stages."""


class LayerRates:
    """The layers' rates under a placement that is tried out.

    Args:
        servers: The peers.
        sizes: What the layers cost.
    """

    def __init__(self, servers: Sequence[Server], sizes: ModelSizes) -> None:
        self._sizes = sizes
        self._ideal = ideal_tokens_per_second(servers, sizes) or 1.0
        self._rates = densities(servers, sizes)
        edges = {edge for server in servers for span in server.spans for edge in (span.start, span.stop)}
        self._edges = edges | {0, sizes.layers}

    def value(self) -> float:
        """The placement's value; 0 is more than any has."""
        return sum(map(self._value, self._rates))

    def as_rate(self, value: float) -> float:
        """The rate, as a part of the ideal, that would give every layer together this value."""
        return (-value / self._sizes.layers) ** (-1 / SHARPNESS) if value < 0 else float("inf")

    def add(self, span: LayerSpan, speed: float) -> None:
        """A peer of this speed works on a span from now on; with a negative speed, no longer."""
        density = speed / self._sizes.work_of(span)
        for layer in range(span.start, span.stop):
            self._rates[layer] = max(0.0, self._rates[layer] + density)
        if speed > 0:
            self._edges |= {span.start, span.stop}

    def best(self, speed: float, spans: Sequence[LayerSpan]) -> tuple[LayerSpan, float] | None:
        """The span that gains most, and its gain; of nearly equal ones the one that fits others' edges."""
        if not spans:
            return None
        gains = self._gains(speed, spans)
        enough = max(gains) * _PART_OF_ALIGNED
        good = [(-self._fits(span), span, gain) for span, gain in zip(spans, gains, strict=True) if gain >= enough]
        _, span, gain = min(good)
        return span, gain

    def _value(self, rate: float) -> float:
        return -((rate / self._ideal + _FLOOR) ** -SHARPNESS)

    def _fits(self, span: LayerSpan) -> int:
        return (span.start in self._edges) + (span.stop in self._edges)

    def _gains(self, speed: float, spans: Sequence[LayerSpan]) -> list[float]:
        """The gains of many spans, from sums of the layers' gains: most spans give their layers the same rate."""
        sums: dict[float, list[float]] = {}
        gains: list[float] = []
        for span in spans:
            density = speed / self._sizes.work_of(span)
            if density not in sums:
                sums[density] = self._sums(density)
            gains.append(sums[density][span.stop] - sums[density][span.start])
        return gains

    def _sums(self, density: float) -> list[float]:
        found = [0.0]
        for rate in self._rates:
            found.append(found[-1] + self._value(rate + density) - self._value(rate))
        return found


__all__ = ["SHARPNESS", "LayerRates"]
