"""Options of the whole test run."""

import signal
from collections.abc import Iterator

import pytest
import structlog
from hypothesis import settings

# How long an example takes says more of the machine than of the code.
settings.register_profile("no-deadline", deadline=None)
settings.load_profile("no-deadline")


def pytest_configure() -> None:
    # A shell that starts the tests in the background has them ignore Ctrl-C, which some of them are about; so would
    # the programs that they start.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--chaos-seconds",
        type=float,
        default=20.0,
        help="How long the chaos test kills and restarts peers.",
    )
    parser.addoption("--chaos-seed", type=int, default=4, help="Which moments and victims it chooses.")


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    """A test that has logging set up writes to a stream that is closed when the next one runs."""
    yield
    structlog.reset_defaults()
