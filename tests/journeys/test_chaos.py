"""Seeds and peers are killed and started again at random moments; in the end everybody has everything, and right.

``pytest tests/journeys/test_chaos.py --chaos-seconds 120 --chaos-seed 7`` goes on for longer, at other moments.
"""

from __future__ import annotations

import hashlib
import json
import random
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.journeys.programs import PEER, Program, environment, until

MIB = 2**20
SEEDS, PEERS = 2, 4
SIZES = {"one": {"large.bin": 5 * MIB + 17, "deep/er/small.txt": 5, "empty": 0}, "two": {"other.bin": 3 * MIB}}
PAUSES = (0.2, 1.0)
"""Seconds between two kills, and for which what was killed stays away."""

FETCHER = """
import json, sys, time
from pathlib import Path
import hivemind_p2p as hm
from hivemind_p2p.errors import NoSourceError

data, to, *links = sys.argv[1:]
with hm.connect(data=data) as hive:
    for link in links:
        while True:
            try:
                path = hive.fetch(link, to)
                break
            except NoSourceError:
                continue
        print(json.dumps(str(path)), flush=True)
    while True:
        time.sleep(60)
"""


@dataclass
class Victim:
    """A program that is killed and started again.

    Attributes:
        command: What it runs.
        done: What it says as soon as it needs nothing more.
        kills: How often it was killed, and how often before it was done.
    """

    command: list[str]
    done: int
    program: Program | None = None
    lines: list[str] = field(default_factory=list)
    back_at: float = 0.0
    kills: int = 0
    interrupted: int = 0

    def start(self, env: dict[str, str]) -> None:
        self.lines = []
        self.program = Program(self.command, env)

    def kill(self, number: signal.Signals, back_at: float) -> None:
        assert self.program is not None
        self.interrupted += not self.is_done()
        self.kills += 1
        self.program.end(number)
        self.program.__exit__()
        self.program, self.back_at = None, back_at

    def is_done(self) -> bool:
        if self.program is None:
            return False
        assert self.program.running, self.program.errors
        self.lines += self.program.lines_so_far()
        return len(self.lines) >= self.done


def make_contents(folder: Path) -> list[Path]:
    numbers = random.Random(5)
    for name, files in SIZES.items():
        for path, size in files.items():
            (folder / name / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / name / path).write_bytes(numbers.randbytes(size))
    return [folder / name for name in SIZES]


def digests(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture
def victims(joined, tmp_path) -> Iterator[list[Victim]]:
    """Seeds and peers; what runs at the end is ended."""
    contents = make_contents(tmp_path / "contents")
    links = []
    for content in contents:
        with Program(["-m", PEER, "share", str(content), "--json"], environment(joined)) as once:
            links.append(once.ready()["link"])
            once.end(signal.SIGTERM)
    seeds = [
        Victim(["-m", PEER, "share", str(content), "--json"], done=1) for content in contents for _ in range(SEEDS)
    ]
    peers = [
        Victim(["-c", FETCHER, str(tmp_path / f"data-{number}"), str(tmp_path / f"to-{number}"), *links], len(links))
        for number in range(PEERS)
    ]
    with ExitStack() as stack:
        stack.callback(lambda: [victim.program.__exit__() for victim in seeds + peers if victim.program is not None])
        yield seeds + peers


@pytest.mark.timeout(900)
def test_everybody_ends_complete_whoever_is_killed(victims, joined, tmp_path, request):
    seconds = request.config.getoption("--chaos-seconds")
    chance = random.Random(request.config.getoption("--chaos-seed"))
    total = PEERS * sum(size for files in SIZES.values() for size in files.values())
    # So slow that what is killed is nearly always in the middle of something.
    slowly = environment(joined | {"HIVEMIND_P2P_UPLOAD_LIMIT": str(int(total / seconds / 2))})
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        now = time.monotonic()
        for victim in victims:
            if victim.program is None and victim.back_at <= now:
                victim.start(slowly)
        running = [victim for victim in victims if victim.program is not None]
        if running:
            number = chance.choices([signal.SIGKILL, signal.SIGTERM], [4, 1])[0]
            chance.choice(running).kill(number, time.monotonic() + chance.uniform(*PAUSES))
        time.sleep(chance.uniform(*PAUSES))
    for victim in victims:
        if victim.program is None:
            victim.start(environment(joined))
    until(lambda: all(victim.is_done() for victim in victims), "everybody has everything", 120)
    expected = digests(tmp_path / "contents")
    for number in range(PEERS):
        assert digests(tmp_path / f"to-{number}") == expected, "and no hidden folder is left"
    assert sum(victim.kills for victim in victims) >= seconds / 4
    assert sum(victim.interrupted for victim in victims[len(SIZES) * SEEDS :]) > 0, "no fetch was ever interrupted"
    for victim in victims[len(SIZES) * SEEDS :]:
        assert [Path(json.loads(line)).name for line in victim.lines] == list(SIZES)
