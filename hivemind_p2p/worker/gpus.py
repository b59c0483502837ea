"""The GPUs that tasks may have: which devices each of them is, so that one that is lent can be shown behind the walls.

A task that asks for a GPU gets one for itself while it runs: its child sees that GPU's device files, and those that all
of a driver's GPUs have in common, and no others. NVIDIA's are known from ``nvidia-smi``; others from their render nodes
below ``/dev/dri``.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from hivemind_p2p.worker.reporter import GpuReport

_NVIDIA: Final = ("dev/nvidiactl", "dev/nvidia-uvm", "dev/nvidia-uvm-tools", "dev/nvidia-modeset")
_NVIDIA_VENDOR: Final = "0x10de"
_RENDER: Final = "dev/dri"
_DRM: Final = "sys/class/drm"

SHOWN: Final = ("/sys/bus/pci", "/sys/devices", "/sys/class/drm", "/sys/module/nvidia", "/sys/dev/char")
"""What drivers look up about their devices; read-only, and of the machine's hardware only."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU.

    Attributes:
        name: For people.
        memory_bytes: What it has; 0 where that is not known.
        devices: Its device files, and those that it cannot do without.
        number: Its number for CUDA, in the order of the bus; -1 where it is none of NVIDIA's.
    """

    name: str
    memory_bytes: int
    devices: tuple[str, ...]
    number: int = -1


def find(reports: Sequence[GpuReport], root: Path = Path("/")) -> tuple[Gpu, ...]:
    """The GPUs of this machine that have device files.

    Args:
        reports: What NVIDIA's driver knows, in its order.
        root: Where the file system begins.
    """
    shared = tuple(f"/{name}" for name in _NVIDIA if root.joinpath(name).exists())
    found = [
        Gpu(report.name, report.memory_bytes, (f"/dev/nvidia{number}", *shared), number)
        for number, report in enumerate(reports)
        if root.joinpath(f"dev/nvidia{number}").exists()
    ]
    return (*found, *_render_nodes(root, with_nvidia=not found))


def _render_nodes(root: Path, *, with_nvidia: bool) -> list[Gpu]:
    found = []
    for node in sorted(root.joinpath(_RENDER).glob("renderD*")):
        device = root / _DRM / node.name / "device"
        vendor = _text(device / "vendor")
        if vendor == _NVIDIA_VENDOR and not with_nvidia:
            continue  # it is counted already
        memory = _text(device / "mem_info_vram_total")
        shared = ("/dev/kfd",) if root.joinpath("dev/kfd").exists() else ()
        size = int(memory) if memory.isdecimal() else 0
        found.append(Gpu(f"{node.name} ({vendor or 'unknown'})", size, (f"/{_RENDER}/{node.name}", *shared)))
    return found


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def devices_of(gpus: Sequence[Gpu]) -> tuple[str, ...]:
    """Their device files, each once."""
    return tuple(dict.fromkeys(device for gpu in gpus for device in gpu.devices))


def groups_of(devices: Sequence[str]) -> tuple[int, ...]:
    """The groups that may use devices which not everybody may."""
    found = set()
    for device in devices:
        try:
            status = os.stat(device)
        except OSError:
            continue
        for_all = stat.S_IROTH | stat.S_IWOTH
        if status.st_mode & for_all != for_all and status.st_gid:
            found.add(status.st_gid)
    return tuple(sorted(found))


def environment(gpus: Sequence[Gpu]) -> dict[str, str]:
    """What tells libraries which GPUs to use: none, where a task asked for none."""
    numbers = ",".join(str(gpu.number) for gpu in gpus if gpu.number >= 0)
    return {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": numbers}
