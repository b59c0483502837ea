"""Options of the whole test run."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--chaos-seconds",
        type=float,
        default=20.0,
        help="How long the chaos test kills and restarts peers.",
    )
    parser.addoption("--chaos-seed", type=int, default=4, help="Which moments and victims it chooses.")
