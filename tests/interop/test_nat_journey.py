"""A task of one user behind a NAT runs on a machine behind another NAT: the real commands, in network namespaces."""

import json
import os
import subprocess
import sys
from contextlib import contextmanager

import pytest

from tests.interop import lab as labs
from tests.interop.lab import Lab, Nat
from tests.interop.lab_process import PATIENCE, ROOT

labs.skip_unless_possible()

EVERYWHERE = ("--listen", "/ip4/0.0.0.0/tcp/4001")


@pytest.fixture
def environment(tmp_path):
    return os.environ | {
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "bootstrap")]),
        "HIVEMIND_P2P_PASSWORD": "correct horse battery staple",
        "HIVEMIND_P2P_CONFIG": str(tmp_path / "none.toml"),
        "HOME": str(tmp_path),
    }


@contextmanager
def running(host, module, *arguments, environment, log):
    """A node, and what it says once it runs."""
    command = host.command([sys.executable, "-m", module, "run", "--json", "-v", "--exit-with-parent", *arguments])
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, env=environment, text=True
        )
    try:
        ready = process.stdout.readline()
        assert ready, log.read_text()[-4000:]
        yield json.loads(ready)
    finally:
        process.terminate()
        process.communicate(timeout=PATIENCE)


def test_a_task_runs_on_a_machine_behind_a_nat(tmp_path, environment):
    with Lab() as lab:
        public, lender, user = lab.public_host(), *(lab.private_host(Nat.SYMMETRIC) for _ in range(2))
        bootstrap = running(
            public,
            "hivemind_bootstrap",
            *("--data", str(tmp_path / "bootstrap"), *EVERYWHERE),
            environment=environment,
            log=tmp_path / "bootstrap.log",
        )
        with bootstrap as ready:
            address = next(address for address in ready["addresses"] if public.address in address)
            who = ("--bootstrap", address, "--username", "ada")
            peer = running(
                lender,
                "hivemind_p2p",
                *(
                    *who,
                    "--register",
                    "--data",
                    str(tmp_path / "lender"),
                    "--sandbox",
                    "none",
                    "--no-upnp",
                    *EVERYWHERE,
                ),
                environment=environment,
                log=tmp_path / "lender.log",
            )
            with peer as lent:
                done = subprocess.run(
                    user.command([sys.executable, "-m", "hivemind_p2p", "submit", "math:sqrt", "16", *who, "--json"]),
                    env=environment,
                    capture_output=True,
                    text=True,
                    timeout=PATIENCE,
                    check=False,
                )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["result"], result["peer"]) == (4.0, lent["peer_id"])
