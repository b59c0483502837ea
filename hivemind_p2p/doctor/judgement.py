"""Which table is for which fact. Pure."""

from __future__ import annotations

from typing import Final

from hivemind_p2p.doctor import hive_facts, hive_findings, machine_facts, machine_findings
from hivemind_p2p.doctor.findings import Finding, Table, Unmeasured, find, unmeasured

_TABLES: Final[dict[type, tuple[str, Table]]] = {
    hive_facts.AccountFact: ("account", hive_findings.ACCOUNT),
    hive_facts.BootstrapFact: ("bootstrap", hive_findings.BOOTSTRAP),
    hive_facts.ClockFact: ("clock", hive_findings.CLOCK),
    hive_facts.DirectoryFact: ("directory", hive_findings.DIRECTORY),
    hive_facts.KeyFileFact: ("hive key", hive_findings.HIVE_KEY),
    machine_facts.AddressesFact: ("addresses", machine_findings.ADDRESSES),
    machine_facts.FolderFact: ("folder", machine_findings.FOLDER),
    machine_facts.GpuFact: ("gpu", machine_findings.GPU),
    machine_facts.MemoryFact: ("memory", machine_findings.MEMORY),
    machine_facts.OpenFilesFact: ("open files", machine_findings.OPEN_FILES),
    machine_facts.PortFact: ("port", machine_findings.PORT),
    machine_facts.ReachabilityFact: ("reachability", machine_findings.REACHABILITY),
    machine_facts.CgroupFact: ("cgroup", machine_findings.CGROUP),
    machine_facts.SandboxFact: ("sandbox", machine_findings.SANDBOX),
    machine_facts.TorchFact: ("torch", machine_findings.TORCH),
    machine_facts.VersionsFact: ("versions", machine_findings.VERSIONS),
}


def judge(fact: object) -> Finding:
    """What a fact means."""
    if isinstance(fact, Unmeasured):
        return unmeasured(fact)
    check, table = _TABLES[type(fact)]
    return find(check, fact, table)
