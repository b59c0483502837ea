"""What the tests of notebooks share."""

from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def kernel_folder(tmp_path):
    """Where a kernel keeps its temporary files; a process that mentions it came from that kernel."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    return folder


def mentions(process, text):
    """Whether a process was started with a text in its command line or its environment."""
    try:
        return text in " ".join(process.cmdline()) or text in " ".join(process.environ().values())
    except psutil.Error:
        return False  # it has ended, or belongs to somebody else


@pytest.fixture
def processes_of_the_kernel(kernel_folder):
    """Gives the processes that a kernel started, directly or not, and that still run."""
    return lambda: [process for process in psutil.process_iter() if mentions(process, str(kernel_folder))]
