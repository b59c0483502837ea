"""One hive of real processes for the journeys that leave it as they find it; others start their own."""

from collections.abc import Iterator

import pytest

import hivemind_p2p as hm
from hivemind_p2p.local import LocalHive
from tests.journeys import programs


@pytest.fixture(scope="session", autouse=True)
def own_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Local hives start their nodes with this process's environment.

    Programs that are killed cannot remove their temporary folders: pytest does it with its own.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(tmp_path_factory.mktemp("temporary")))
        for name, value in programs.environment().items():
            patch.setenv(name, value)
        yield


@pytest.fixture(scope="session")
def hive(own_environment: None) -> Iterator[LocalHive]:
    """A hive of three peers, and this process in it."""
    with hm.local_hive(peers=3) as hive:
        yield hive


@pytest.fixture
def joined(hive: LocalHive) -> dict[str, str]:
    """The environment that lets a command join the hive with an account of its own."""
    return {"HIVEMIND_P2P_BOOTSTRAP": hive.nodes.bootstrap_address} | hive.nodes.credentials("ada")
