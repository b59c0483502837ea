"""Which table is for which fact. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from hivemind_p2p.doctor import hive_facts, hive_findings, machine_facts, machine_findings
from hivemind_p2p.doctor.findings import Finding, Unmeasured, unmeasured

_TABLES: Final[dict[type, Callable[[Any], Finding]]] = {
    Unmeasured: unmeasured,
    hive_facts.AccountFact: hive_findings.account,
    hive_facts.BootstrapFact: hive_findings.bootstrap,
    hive_facts.ClockFact: hive_findings.clock,
    hive_facts.DirectoryFact: hive_findings.directory,
    hive_facts.KeyFileFact: hive_findings.hive_key,
    machine_facts.AddressesFact: machine_findings.addresses,
    machine_facts.FolderFact: machine_findings.folder,
    machine_facts.GpuFact: machine_findings.gpu,
    machine_facts.MemoryFact: machine_findings.memory,
    machine_facts.OpenFilesFact: machine_findings.open_files,
    machine_facts.PortFact: machine_findings.port,
    machine_facts.ReachabilityFact: machine_findings.reachability,
    machine_facts.SandboxFact: machine_findings.sandbox,
    machine_facts.TorchFact: machine_findings.torch,
    machine_facts.VersionsFact: machine_findings.versions,
}


def judge(fact: object) -> Finding:
    """What a fact means."""
    return _TABLES[type(fact)](fact)
