"""Figures that several parts share, each with its unit and the reason for it."""

from __future__ import annotations

OFFERS_KEY = "offers"
"""The directory key under which every peer publishes its offer."""

MODELS_KEY = "models"
"""The directory key under which published models are announced."""

OFFER_LIFETIME = 30.0
"""Seconds an offer lives without being republished: a vanished peer is forgotten within this time."""

CONTENT_LIFETIME = 600.0
"""Seconds a source record lives: sources change slowly, and a dead one costs one failed dial."""

REQUEST_DEADLINE = 10.0
"""Seconds a peer has to answer a small request: a stalled peer (SIGSTOP) is left after this time."""

IDLE_DEADLINE = 30.0
"""Seconds without a byte after which a transfer's source is given up."""

LISTEN_ADDRESS = "/ip4/127.0.0.1/tcp/0"
"""Loopback and a free port: nothing is reachable from outside unless it is asked for."""

WELCOME_CREDITS = 100_000_000
"""Millionths of a credit that a new account is given: enough to try everything, too little to live on."""
