"""Real children: warm reuse, limits, crashes, escapes, and that nothing is left behind."""

import functools
import io
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import psutil
import pytest
import trio

from hivemind_p2p.errors import SandboxError, TaskRefusedError
from hivemind_p2p.proto.tasks_pb2 import Report
from hivemind_p2p.tasks.library.function import NAME, pack
from hivemind_p2p.tasks.reading import decode
from hivemind_p2p.types import Needs, PeerId, Work
from hivemind_p2p.worker import process, sandbox
from hivemind_p2p.worker.cgroups import Group, Groups
from hivemind_p2p.worker.executor import ChildExecutor
from hivemind_p2p.worker.gpus import Gpu
from hivemind_p2p.worker.limits import BASE_MEMORY
from hivemind_p2p.worker.packets import REPLY_HEAD, RESULT

GIB = 1 << 30
HOME_FILE = os.path.expanduser("~/.bashrc")
FALSE_REPORT = Report(error_code="insufficient_credits", error_message="pay me").SerializeToString()


@functools.cache
def bubblewrap_works() -> bool:
    wall = sandbox.walls("bubblewrap", sandbox.this_machine())
    if not wall:
        return False
    probe = [wall[-1].program, "--unshare-user", "--ro-bind", "/", "/", "true"]
    return subprocess.run(probe, capture_output=True, check=False).returncode == 0


needs_bubblewrap = pytest.mark.skipif(not bubblewrap_works(), reason="bubblewrap is not installed or not allowed here")


@pytest.fixture(params=["none", pytest.param("bubblewrap", marks=needs_bubblewrap)])
async def executor(request, tmp_path):
    async with ChildExecutor(tmp_path / "peer" / "work", slots=2, memory_bytes=GIB, sandbox=request.param) as opened:
        yield opened


@pytest.fixture
async def walled(tmp_path):
    async with ChildExecutor(tmp_path / "peer" / "work", slots=1, memory_bytes=GIB, sandbox="bubblewrap") as opened:
        yield opened


def work(function, *args, caller="alice", memory="256MiB", seconds=20.0, cpus=1.0):
    needs = Needs(cpus=cpus, memory=memory, seconds=seconds)
    return Work("t", PeerId(caller), NAME, pack(function, args), needs)


async def value(executor, function, *args, **needs):
    outcome = await executor.run(work(function, *args, **needs))
    assert outcome.error_code == "", (outcome.error_message, outcome.remote_traceback)
    return decode(outcome.payload)


def descendants():
    return {child.pid for child in psutil.Process().children(recursive=True)}


async def test_a_warm_child_serves_one_caller_and_no_other(executor):
    def remember():
        sys.modules.setdefault("remembered", sys).__dict__.setdefault("_calls", []).append(1)
        return len(sys._calls)

    assert await value(executor, remember) == 1
    assert await value(executor, remember) == 2
    assert await value(executor, remember, caller="mallory") == 1
    assert await value(executor, remember, memory="128MiB") == 1
    assert executor.statistics().warm == 1
    assert executor.statistics().completed == 4


async def test_a_child_that_something_was_left_running_in_is_not_used_again(executor):
    def leave_a_thread():
        import threading

        threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
        return os.getpid()

    def leave_a_process():
        import subprocess

        subprocess.Popen(["/bin/sleep", "1000"])
        return os.getpid()

    await value(executor, leave_a_thread)
    await value(executor, leave_a_process)
    await value(executor, os.getpid)
    assert executor.statistics().warm == 0


async def test_errors_come_back_with_their_traceback_and_output(executor):
    def fails():
        print("so far so good")
        return {}["missing"]

    outcome = await executor.run(work(fails))
    assert (outcome.error_code, outcome.error_message) == ("task_failed", "KeyError: 'missing'")
    assert "in fails" in outcome.remote_traceback
    assert "hivemind_p2p" not in outcome.remote_traceback
    assert outcome.output == "so far so good\n"
    assert (await executor.run(work(sys.exit, 3))).error_message == "SystemExit: 3"
    unsafe = await executor.run(work(lambda: [1, object()]))
    assert (unsafe.error_code, unsafe.error_message[:9]) == ("unsafe_value", "result[1]")
    huge = await executor.run(work(lambda: [bytes(128 << 20)] * 2, memory="200MiB"))
    assert huge.error_code == "unsafe_value"
    assert executor.statistics().warm == 2  # none of these cost the child; the last one needed another


async def test_prints_do_not_reach_the_pipe_and_only_their_end_is_kept(executor):
    def chatter():
        os.write(1, b"raw" * 1000)
        for number in range(10_000):
            print("line", number)
        return "value"

    outcome = await executor.run(work(chatter))
    assert decode(outcome.payload) == "value"
    assert outcome.output.endswith("line 9999\n")
    assert len(outcome.output) <= 16_000


def read(path):
    return Path(path).read_bytes()


async def test_a_large_result_goes_into_a_file_and_small_ones_before_and_behind_it_do_not(executor, monkeypatch):
    monkeypatch.setattr("hivemind_p2p.worker.packets.LARGEST_KEPT", 200_000)
    monkeypatch.setattr("hivemind_p2p.worker.pipes.READS_AT_ONCE", 1)
    for size in (1, 3_000_000, 1):
        outcome = await executor.run(work(bytes, size))
        assert (outcome.error_code, bool(outcome.path)) == ("", size > 1)
        data = read(outcome.path) if outcome.path else outcome.payload
        assert decode(data) == bytes(size)
        assert outcome.length == (len(data) if outcome.path else 0)
    monkeypatch.setattr("hivemind_p2p.worker.spool.LEAST_FREE", 1 << 60)
    outcome = await executor.run(work(bytes, 3_000_000))
    assert (outcome.error_code, outcome.path) == ("task_failed", "")
    assert "no room for its result of 3,000," in outcome.error_message
    assert await value(executor, len, "abc") == 3
    assert executor.statistics().started <= 2  # the one that did it all, and the one that stands ready


@pytest.mark.parametrize("sandbox_name", ["none", pytest.param("bubblewrap", marks=needs_bubblewrap)])
async def test_children_lie_in_cgroups_of_their_own_where_there_are_any(tmp_path, monkeypatch, sandbox_name):
    base = tmp_path / "cgroup"
    base.mkdir()
    groups = Groups(base, cpu=True, pid=7, remove=shutil.rmtree)
    monkeypatch.setattr("hivemind_p2p.worker.cgroups.find", lambda: groups)
    folder = tmp_path / "peer" / "work"
    async with ChildExecutor(folder, slots=1, memory_bytes=GIB, sandbox=sandbox_name) as executor:
        assert executor.walls.endswith(", a cgroup")
        inside = await value(executor, os.getpid, cpus=0.5)
        (first,) = (each for each in base.iterdir() if each.joinpath("memory.max").exists())
        assert read(first / "memory.max") == str((256 << 20) + BASE_MEMORY + 2 * sandbox.SCRATCH_BYTES).encode()
        assert read(first / "cpu.max") == b"50000 100000"
        assert sandbox_name == "bubblewrap" or int(read(first / "cgroup.procs")) == inside
        first.joinpath("memory.events").write_text("oom_kill 1\n")  # as the kernel does
        outcome = await executor.run(work(os.kill, 0, signal.SIGKILL, cpus=0.5))
        assert outcome.error_code == "task_memory"
        assert not first.exists()
    assert list(base.iterdir()) == []


async def test_a_cgroup_that_cannot_be_joined_is_done_without(tmp_path, monkeypatch):
    groups = Groups(tmp_path / "cgroup", cpu=True, pid=7, remove=shutil.rmtree)
    monkeypatch.setattr(groups, "make", lambda: Group(tmp_path / "nothing", True, shutil.rmtree))
    monkeypatch.setattr("hivemind_p2p.worker.cgroups.find", lambda: groups)
    async with ChildExecutor(tmp_path / "work", slots=1, memory_bytes=GIB, sandbox="none") as executor:
        assert executor.walls == "no walls"
        assert await value(executor, len, "abc") == 3


def knock(port):
    import socket

    try:
        socket.create_connection(("127.0.0.1", port), 5).close()
    except OSError:
        return False
    return True


@needs_bubblewrap
async def test_a_task_has_the_network_only_where_it_asks_for_it(walled):
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]
    for network in (False, True, False):
        needs = Needs(memory="128MiB", seconds=20.0, network=network)
        outcome = await walled.run(Work("t", PeerId("alice"), NAME, pack(knock, [port]), needs))
        assert outcome.error_code == "", outcome
        assert decode(outcome.payload) is network
    assert walled.statistics().warm == 1  # the one without is the same as before
    await listeners[0].aclose()


def look_at(paths):
    seen = os.environ["CUDA_VISIBLE_DEVICES"], [path for path in paths if os.path.exists(path)]
    for path in seen[1]:
        with open(path, "r+b") as device:
            device.write(b"used")
    return seen


@pytest.mark.parametrize("sandbox_name", ["none", pytest.param("bubblewrap", marks=needs_bubblewrap)])
async def test_a_task_that_asks_for_a_gpu_has_that_one_and_no_other(tmp_path, sandbox_name):
    paths = [str(tmp_path / f"gpu{number}") for number in range(2)]
    for path in paths:
        make_for_all(path)
    gpus = [Gpu(f"gpu-{number}", 1, (path,), number) for number, path in enumerate(paths)]
    folder = tmp_path / "peer" / "work"
    async with ChildExecutor(folder, slots=2, memory_bytes=GIB, gpus=gpus, sandbox=sandbox_name) as executor:
        walled = sandbox_name == "bubblewrap"
        seen = []

        async def run(number_of_gpus, caller="alice"):
            needs = Needs(memory="128MiB", seconds=20.0, gpus=number_of_gpus)
            outcome = await executor.run(Work("t", PeerId(caller), NAME, pack(look_at, [paths]), needs))
            assert outcome.error_code == "", outcome
            seen.append(decode(outcome.payload))

        for count in (0, 1, 2, 1):
            await run(count)
        assert [visible for visible, _ in seen] == ["", "0", "0,1", "0"]
        assert [found for _, found in seen] == [paths[:count] if walled else paths for count in (0, 1, 2, 1)]
        seen.clear()
        async with trio.open_nursery() as nursery:
            for caller in ("alice", "bob"):
                nursery.start_soon(run, 1, caller)
        assert sorted(visible for visible, _ in seen) == ["0", "1"]
        assert executor.statistics().warm == 0  # one that holds a GPU's memory is not kept


def make_for_all(path):
    Path(path).write_bytes(b"here")
    os.chmod(path, 0o666)


async def test_a_process_that_dies_is_a_crash(executor):
    outcome = await executor.run(work(os._exit, 3))
    assert (outcome.error_code, outcome.error_message) == ("task_crashed", "it ended with exit status 3")
    outcome = await executor.run(work(lambda: os.kill(os.getpid(), signal.SIGSEGV)))
    assert "SIGSEGV" in outcome.error_message
    assert await value(executor, len, "abc") == 3


async def test_a_fork_that_comes_out_of_the_function_answers_nothing(executor):
    def fork():
        return os.fork() == 0

    assert await value(executor, fork) is False
    assert await value(executor, len, "abc") == 3


async def test_an_endless_loop_is_stopped_in_time(executor):
    def loop():
        while True:
            pass

    outcome = await executor.run(work(loop, seconds=0.5))
    assert outcome.error_code == "task_timeout"
    assert 0.5 <= outcome.usage.wall_seconds < 2
    assert outcome.usage.cpu_seconds > 0.1


async def test_a_memory_bomb_is_stopped(executor):
    def bomb():
        held = []
        while True:
            held.append(bytearray(8 << 20))

    outcome = await executor.run(work(bomb, memory="64MiB"))
    assert outcome.error_code == "task_memory"


async def test_a_fork_bomb_is_stopped_and_leaves_nothing(executor):
    def bomb():
        while True:
            if os.fork() == 0:
                time.sleep(1000)

    before = descendants()
    outcome = await executor.run(work(bomb))
    assert outcome.error_code in ("task_memory", "task_crashed", "task_failed")
    assert await value(executor, len, "abc") == 3
    assert len(descendants() - before) < 10


async def test_cancelling_kills_the_work(executor):
    before = descendants()
    with trio.move_on_after(0.3):
        await executor.run(work(time.sleep, 1000))
    assert executor.statistics().running == 0
    assert await value(executor, len, "abc") == 3
    assert len(descendants() - before) < 10


async def test_what_does_not_fit_is_refused(executor):
    with pytest.raises(TaskRefusedError, match="needs 3 cpus"):
        await executor.run(work(len, "", cpus=3))
    with pytest.raises(TaskRefusedError, match="bytes of memory"):
        await executor.run(work(len, "", memory="2GiB"))


async def test_usage_is_metered(executor):
    def burn():
        until = time.process_time() + 0.3
        while time.process_time() < until:
            pass
        return len(bytearray(50 << 20))

    outcome = await executor.run(work(burn))
    assert 0.2 < outcome.usage.cpu_seconds < 1.0
    assert outcome.usage.wall_seconds >= 0.3
    idle = await executor.run(work(len, ""))
    assert idle.usage.cpu_seconds < 0.1


async def test_closing_leaves_no_process_and_no_folder(tmp_path):
    before = descendants()
    async with ChildExecutor(tmp_path / "work", slots=2, memory_bytes=GIB, sandbox="none") as executor:
        await value(executor, len, "abc")
        assert descendants() > before
    assert descendants() == before
    assert list((tmp_path / "work").iterdir()) == []


async def test_a_sandbox_that_cannot_be_had_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(SandboxError, match="bubblewrap is not installed") as caught:
        async with ChildExecutor(tmp_path / "work", slots=1, memory_bytes=GIB, sandbox="bubblewrap"):
            pass
    assert "apt install bubblewrap" in caught.value.hint


# -- escapes -----------------------------------------------------------------------------------------------------------


@needs_bubblewrap
async def test_the_sandbox_hides_the_machine(walled, tmp_path):
    key = tmp_path / "peer" / "key"
    key.write_text("secret")

    def look(paths):
        import socket

        seen = {"env": sorted(os.environ), "uid": os.getuid(), "processes": 0, "readable": [], "writable": []}
        seen["processes"] = len([name for name in os.listdir("/proc") if name.isdigit()])
        for path in paths:
            try:
                seen["readable"] += [path] if os.path.isfile(path) and Path(path).read_text() else []
            except OSError:
                continue
        for folder in ("/", "/usr", "/etc", "/root", "/home", sys.prefix, os.path.dirname(os.__file__)):
            try:
                open(folder + "/written", "w").close()
                seen["writable"].append(folder)
            except OSError:
                continue
        try:
            socket.create_connection(("127.0.0.1", 22), 1)
        except OSError as error:
            seen["network"] = error.errno
        return seen

    secrets = [str(key), "/etc/passwd", "/etc/shadow", HOME_FILE, "/proc/1/environ", __file__]
    seen = await value(walled, look, secrets)
    assert set(seen["env"]) <= {*sandbox.environment("/tmp"), "PWD"}
    assert seen["processes"] <= 4
    assert not {str(key), "/etc/passwd", "/etc/shadow", HOME_FILE} & set(seen["readable"])
    assert seen["writable"] == []
    assert seen["network"] is not None
    if os.geteuid() == 0:
        assert seen["uid"] >= sandbox.FIRST_UID


@needs_bubblewrap
async def test_a_data_folder_inside_a_shown_folder_is_hidden(tmp_path, monkeypatch):
    (tmp_path / "peer").mkdir()
    (tmp_path / "peer" / "key").write_text("secret")
    (tmp_path / "visible").write_text("x")
    tmp_path.chmod(0o755)  # under root the child is another user
    python = sandbox.this_python()
    shown = sandbox.Python(python.executable, (*python.folders, str(tmp_path)), python.path)
    monkeypatch.setattr(sandbox, "this_python", lambda: shown)
    async with ChildExecutor(tmp_path / "peer" / "work", slots=1, memory_bytes=GIB, sandbox="bubblewrap") as executor:
        assert await value(executor, lambda folder: sorted(os.listdir(folder)), str(tmp_path)) == ["peer", "visible"]
        assert await value(executor, os.listdir, str(tmp_path / "peer")) == []


@needs_bubblewrap
async def test_a_disk_bomb_fills_only_the_childs_own_scratch(walled):
    def fill():
        written = 0
        try:
            with open("/tmp/bomb", "wb") as file:
                while True:
                    written += file.write(bytes(1 << 20))
        except OSError as error:
            return written, error.errno

    written, error = await value(walled, fill)
    assert written <= sandbox.SCRATCH_BYTES
    assert error is not None


@needs_bubblewrap
async def test_new_privileges_cannot_be_had(walled):
    def try_it():
        status = dict(line.split(":\t", 1) for line in Path("/proc/self/status").read_text().splitlines())
        try:
            os.setuid(0)
        except OSError:
            return status["CapEff"], status["NoNewPrivs"], os.getuid()
        return status["CapEff"], status["NoNewPrivs"], "became 0"

    capabilities, no_new, uid = await value(walled, try_it)
    assert int(capabilities, 16) == 0
    assert no_new == "1"
    assert os.geteuid() != 0 or uid != "became 0"


def _write_to_every_pipe(data):
    for descriptor in range(3, 20):
        try:
            os.write(descriptor, data)
        except OSError:
            continue
    time.sleep(5)


def frame(*, ticket=1, report_bytes=0, payload_bytes=0, wall=0.0, cpu=0.0):
    return REPLY_HEAD.pack(RESULT, ticket, 0, report_bytes, payload_bytes, wall, cpu, 1 << 60)


@pytest.mark.parametrize(
    "data",
    [
        frame(report_bytes=1 << 31),
        frame(payload_bytes=1 << 63),
        frame(report_bytes=4) + b"\xff\xff\xff\xff",
        frame(report_bytes=len(FALSE_REPORT)) + FALSE_REPORT,
        frame(ticket=2),
        frame(wall=float("nan"), cpu=-1e300) + frame(),
    ],
    ids=["report", "payload", "garbage", "false code", "other task", "twice"],
)
async def test_frames_that_a_task_writes_itself_harm_nobody(tmp_path, data):
    async with ChildExecutor(tmp_path / "work", slots=1, memory_bytes=GIB, sandbox="none") as executor:
        outcome = await executor.run(work(_write_to_every_pipe, data, seconds=3))
        assert outcome.error_code == "task_crashed"
        assert await value(executor, len, "abc") == 3


# -- the peer itself is killed -----------------------------------------------------------------------------------------

_PEER = """
import sys, trio
from pathlib import Path
from hivemind_p2p.worker.executor import ChildExecutor
from hivemind_p2p.tasks.library.function import NAME, pack
from hivemind_p2p.types import Needs, PeerId, Work
import time
import zipfile
async def main():
    async with ChildExecutor(Path(sys.argv[1]), slots=1, memory_bytes=1 << 30, sandbox=sys.argv[2]) as executor:
        print("ready", flush=True)
        await executor.run(Work("t", PeerId("a"), NAME, pack(time.sleep, (1000,)), Needs()))
trio.run(main)
"""


@pytest.mark.parametrize("kind", ["none", pytest.param("bubblewrap", marks=needs_bubblewrap)])
def test_no_orphan_is_left_when_the_peer_is_killed(tmp_path, kind):
    peer = subprocess.Popen(
        [sys.executable, "-c", _PEER, str(tmp_path), kind],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(process.__file__).parents[2])},
    )
    with peer:
        assert peer.stdout.readline() == b"ready\n"
        children = psutil.Process(peer.pid).children(recursive=True)
        assert children
        peer.kill()
    _, alive = psutil.wait_procs(children, timeout=10)
    assert [child for child in alive if child.is_running() and child.status() != psutil.STATUS_ZOMBIE] == []


async def test_a_command_runs_behind_the_same_wall(walled):
    from hivemind_p2p.tasks.library import command

    payload = command.pack(["cat", HOME_FILE])
    outcome = await walled.run(Work("t", PeerId("alice"), command.NAME, payload, Needs(memory="256MiB", seconds=20.0)))
    assert outcome.error_code == ""
    ended = decode(outcome.payload)
    assert (ended["status"], ended["output"]) == (1, b"")


async def test_a_command_ends_with_its_time(executor):
    from hivemind_p2p.tasks.library import command

    payload = command.pack(["sleep", "1000"])
    outcome = await executor.run(Work("t", PeerId("alice"), command.NAME, payload, Needs(memory="256MiB", seconds=0.5)))
    assert outcome.error_code == "task_timeout"
    assert "sleep" not in [child.name() for child in psutil.Process().children(recursive=True)]


class Watched:
    """Keeps what one task prints, and says when it has printed a word."""

    def __init__(self, word):
        self.word, self.output, self.outcome, self.heard = word, b"", None, trio.Event()

    def started(self, work):
        pass

    def printed(self, work, data):
        self.output += data
        if self.word in self.output:
            self.heard.set()

    def ended(self, work, outcome):
        self.outcome = outcome
        self.heard.set()


@pytest.mark.parametrize("kind", ["command", "bundle", "function"])
async def test_what_a_task_of_any_type_prints_comes_while_it_runs_and_cancelling_ends_it(executor, tmp_path, kind):
    from hivemind_p2p.tasks.library import bundle, command

    program = "import subprocess; below = subprocess.Popen(['sleep', '1000']); print('so far'); below.wait()"
    if kind == "bundle":
        tmp_path.joinpath("bundle").mkdir()
        tmp_path.joinpath("bundle", "main.py").write_text(program)
    payloads = {
        "command": lambda: (command.NAME, command.pack([sys.executable, "-c", program])),
        "bundle": lambda: (bundle.NAME, bundle.pack(tmp_path / "bundle")),
        "function": lambda: (NAME, pack(exec, [program])),
    }
    name, payload = payloads[kind]()
    needs = Needs(memory="256MiB", seconds=60.0)
    task, listener = Work("t", PeerId("alice"), name, payload, needs, stream_output=True), Watched(b"so far\n")
    executor.submit(task, listener)
    executor.go_on()
    with trio.fail_after(30):
        await listener.heard.wait()
        assert (listener.outcome, listener.output) == (None, b"so far\n")
        below = [child for child in psutil.Process().children(recursive=True) if child.name() == "sleep"]
        assert below
        executor.cancel(task)
        _, alive = await trio.to_thread.run_sync(functools.partial(psutil.wait_procs, below, timeout=20))
        assert alive == []
    assert executor.statistics().running == 0
    assert listener.outcome is None


async def test_a_bundle_runs_behind_the_wall_and_a_hostile_one_fails(walled, tmp_path):
    from hivemind_p2p.tasks.library import bundle

    def sent(payload):
        return Work("t", PeerId("alice"), bundle.NAME, payload, Needs(memory="256MiB", seconds=20.0))

    tmp_path.joinpath("bundle").mkdir()
    tmp_path.joinpath("bundle", "main.py").write_text(f"import os; print(os.path.exists({HOME_FILE!r}))")
    payload = bundle.pack(tmp_path / "bundle")
    ended = decode((await walled.run(sent(payload))).payload)
    with zipfile.ZipFile(io.BytesIO(ended["zip"])) as back:
        assert (ended["status"], back.read("stdout.txt")) == (0, b"False\n")
    hostile = payload.replace(b"main.py", b"/ain.py")
    outcome = await walled.run(sent(hostile))
    assert outcome.error_code == "task_failed"
    assert "not a name" in outcome.error_message
