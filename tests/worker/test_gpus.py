"""Which devices a GPU is, on made-up systems."""

import os

import pytest

from hivemind_p2p.worker.gpus import Gpu, devices_of, environment, find, groups_of
from hivemind_p2p.worker.reporter import GpuReport

GIB = 1 << 30


@pytest.fixture
def system(tmp_path):
    """Makes files of a system."""

    def make(*names, **texts):
        for name in names:
            tmp_path.joinpath(name).parent.mkdir(parents=True, exist_ok=True)
            tmp_path.joinpath(name).touch()
        for name, text in texts.items():
            path = tmp_path.joinpath("sys/class/drm", name, "device")
            path.mkdir(parents=True)
            path.joinpath("vendor").write_text(text.partition(" ")[0] + "\n")
            if memory := text.partition(" ")[2]:
                path.joinpath("mem_info_vram_total").write_text(memory + "\n")
        return tmp_path

    return make


def report(name, memory=GIB):
    return GpuReport(name, 0.0, 0, memory)


def test_nvidias_are_numbered_as_their_driver_does(system):
    root = system("dev/nvidia0", "dev/nvidia2", "dev/nvidiactl", "dev/nvidia-uvm")
    found = find([report("first"), report("gone"), report("third", 2 * GIB)], root)
    shared = ("/dev/nvidiactl", "/dev/nvidia-uvm")
    assert found == (
        Gpu("first", GIB, ("/dev/nvidia0", *shared), 0),
        Gpu("third", 2 * GIB, ("/dev/nvidia2", *shared), 2),
    )
    assert devices_of(found) == ("/dev/nvidia0", *shared, "/dev/nvidia2")
    assert environment(found)["CUDA_VISIBLE_DEVICES"] == "0,2"
    assert environment([])["CUDA_VISIBLE_DEVICES"] == ""


def test_others_are_known_by_their_render_nodes(system):
    root = system("dev/dri/renderD128", "dev/dri/renderD129", "dev/dri/card0", "dev/kfd", renderD128=f"0x1002 {GIB}")
    assert find([], root) == (
        Gpu("renderD128 (0x1002)", GIB, ("/dev/dri/renderD128", "/dev/kfd")),
        Gpu("renderD129 (unknown)", 0, ("/dev/dri/renderD129", "/dev/kfd")),
    )
    assert environment(find([], root))["CUDA_VISIBLE_DEVICES"] == ""


def test_none_is_counted_twice(system):
    root = system("dev/nvidia0", "dev/dri/renderD128", "dev/dri/renderD129", renderD128="0x10de", renderD129="0x8086")
    assert [gpu.devices for gpu in find([report("one")], root)] == [("/dev/nvidia0",), ("/dev/dri/renderD129",)]
    assert len(find([], root)) == 2  # without its own driver it still has a node


def test_a_machine_without_gpus_has_none(tmp_path):
    assert find([], tmp_path) == find([report("gone")], tmp_path) == ()


def test_the_groups_are_those_of_devices_that_not_everybody_may_use(tmp_path):
    for name, mode in (("open", 0o666), ("closed", 0o660)):
        tmp_path.joinpath(name).touch()
        tmp_path.joinpath(name).chmod(mode)
    own = os.stat(tmp_path / "closed").st_gid
    paths = [str(tmp_path / name) for name in ("open", "closed", "missing")]
    assert groups_of(paths) == ((own,) if own else ())
    assert groups_of(paths[:1]) == ()
