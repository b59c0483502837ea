"""Cgroups, on a made-up tree: where they can be had, what is set, and that nothing is left."""

import shutil
import subprocess

import pytest

from hivemind_p2p.worker import cgroups
from hivemind_p2p.worker.cgroups import NoCgroupsError, find

ALL = "cpuset cpu io memory hugetlb pids"


class Tree:
    """A tree of folders with the kernel's files in them."""

    def __init__(self, root):
        self.root, self.own = root / "cgroup", root / "own"
        self.make("", ALL, "", "1 2 3")

    def make(self, path, controllers=ALL, control="", processes=""):
        folder = self.root / path
        folder.mkdir(parents=True, exist_ok=True)
        folder.joinpath("cgroup.controllers").write_text(controllers + "\n")
        folder.joinpath("cgroup.subtree_control").write_text(control + "\n")
        folder.joinpath("cgroup.procs").write_text(processes.replace(" ", "\n") + "\n")

    def find(self, path, **more):
        self.own.write_text(f"9:name=systemd:/\n0::/{path}\n")
        return find(self.root, self.own, pid=42, remove=shutil.rmtree, **more)

    def read(self, path):
        return self.root.joinpath(path).read_text().strip()


@pytest.fixture
def tree(tmp_path):
    return Tree(tmp_path)


def test_a_part_that_is_all_its_own_is_made_ready(tree):
    tree.make("system.slice/peer.service", processes="42")
    groups = tree.find("system.slice/peer.service")
    base = "system.slice/peer.service"
    assert groups.base == tree.root / base
    assert tree.read(f"{base}/peer/cgroup.procs") == "42"
    assert tree.read(f"{base}/cgroup.subtree_control") == "+memory +pids +cpu"


def test_only_looking_changes_nothing(tree):
    tree.make("service", processes="42")
    tree.root.joinpath("service/hivemind-7-0").mkdir()
    before = sorted(path.relative_to(tree.root) for path in tree.root.rglob("*"))
    tree.find("service", only_look=True)
    assert sorted(path.relative_to(tree.root) for path in tree.root.rglob("*")) == before
    assert tree.read("service/cgroup.subtree_control") == ""


def test_a_part_that_is_ready_is_taken_as_it_is_and_what_others_left_is_removed(tree):
    tree.make("service", control="memory pids", processes="")
    tree.make("service/peer", controllers="memory pids", processes="42")
    tree.root.joinpath("service/hivemind-7-0").mkdir()
    groups = tree.find("service/peer")  # systemd has put it there, or it has itself, before a restart
    assert groups.base == tree.root / "service"
    assert not tree.root.joinpath("service/hivemind-7-0").exists()
    assert tree.read("service/cgroup.subtree_control") == "memory pids"


def test_root_takes_a_part_where_its_own_is_shared(tree):
    tree.make("", control="cpu memory pids")
    tree.make("user.slice/session", processes="42 43")
    assert tree.find("user.slice/session").base == tree.root


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda tree: tree.make("service", processes="42 43"), "other processes"),
        (lambda tree: tree.make("service", controllers="cpu", processes="42"), "no control of memory and pids"),
        (lambda tree: shutil.rmtree(tree.root / "service"), "cannot be used"),
        (lambda tree: tree.root.joinpath("cgroup.controllers").unlink(), "version 1 only"),
    ],
)
def test_where_there_is_none_the_reason_is_told(tree, spoil, reason):
    tree.make("service", processes="42")
    spoil(tree)
    with pytest.raises(NoCgroupsError, match=reason):
        tree.find("service")
    with pytest.raises(NoCgroupsError, match="no cgroups"):
        find(tree.root, tree.root / "nothing")


def test_a_part_that_belongs_to_another_user_is_not_taken(tree, monkeypatch):
    tree.make("service", processes="42")
    monkeypatch.setattr(cgroups.os, "access", lambda path, mode: False)
    with pytest.raises(NoCgroupsError, match="may not make"):
        tree.find("service")


def test_a_child_joins_before_anything_else_and_has_its_limits(tree):
    tree.make("service", processes="42")
    group = tree.find("service").make()
    assert {name: group.path.joinpath(name).read_text() for name in ("pids.max", "memory.swap.max")} == {
        "pids.max": "256",
        "memory.swap.max": "0",
    }
    ended = subprocess.run(group.command(["/bin/sh", "-c", "echo $$"]), capture_output=True, check=True)
    assert group.path.joinpath("cgroup.procs").read_text() == ended.stdout.decode()
    group.limit(1 << 30, 1.5)
    assert group.path.joinpath("memory.max").read_text() == str(1 << 30)
    assert group.path.joinpath("cpu.max").read_text() == "150000 100000"
    group.path.joinpath("memory.max").write_text("as it was")
    group.limit(1 << 30, 2.0)
    assert group.path.joinpath("memory.max").read_text() == "as it was"  # what is set is not set again
    assert group.path.joinpath("cpu.max").read_text() == "200000 100000"
    group.end()
    assert group.path.joinpath("cgroup.kill").read_text() == "1"
    group.close()
    assert not group.path.exists()
    group.close()


def test_what_cannot_be_joined_does_not_start(tree):
    tree.make("service", processes="42")
    group = tree.find("service").make()
    shutil.rmtree(group.path)
    ended = subprocess.run(group.command(["echo", "started"]), capture_output=True, check=False)
    assert (ended.returncode != 0, ended.stdout) == (True, b"")


@pytest.mark.parametrize(
    ("events", "told"), [("oom 1\noom_kill 3\n", True), ("oom_kill 0\n", False), ("", False), ("nonsense", False)]
)
def test_the_kernel_says_whether_it_had_no_memory_left(tree, events, told):
    tree.make("service", processes="42")
    group = tree.find("service").make()
    group.path.joinpath("memory.events").write_text(events)
    assert group.out_of_memory() is told
    group.close()
    assert group.out_of_memory() is False


def test_where_no_more_can_be_made_a_child_goes_without(tree):
    tree.make("service", processes="42")
    groups = tree.find("service")
    shutil.rmtree(tree.root / "service")
    assert groups.make() is None
