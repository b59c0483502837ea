"""What the facts mean: every rule is reached, every sentence reads well, every failure has one remedy."""

import string

import pytest

from hivemind_p2p.doctor import hive_findings, machine_findings
from hivemind_p2p.doctor.findings import (
    SECTIONS,
    Finding,
    Mark,
    Rule,
    Unmeasured,
    always,
    exit_code,
    find,
    in_order,
    merged,
    summary,
)
from hivemind_p2p.doctor.hive_facts import (
    AccountFact,
    BootstrapFact,
    ClockFact,
    DirectoryFact,
    KeyFileFact,
    Login,
    Step,
)
from hivemind_p2p.doctor.judgement import judge
from hivemind_p2p.doctor.machine_facts import (
    AddressesFact,
    CgroupFact,
    FolderFact,
    GpuFact,
    MemoryFact,
    OpenFilesFact,
    Port,
    PortFact,
    ReachabilityFact,
    SandboxFact,
    TorchFact,
    VersionsFact,
)

WELL, WARNING, FAILURE = Mark.WELL, Mark.WARNING, Mark.FAILURE
GIB = 1 << 30


def way(step, **more):
    return BootstrapFact(step, "/dns4/hive.example/tcp/1", "hive.example, port 1", "hive.example", **more)


EXAMPLES = [
    (way(Step.UNNAMED), FAILURE, "No hive is named", "--bootstrap"),
    (way(Step.MALFORMED, detail="not a multiaddr"), FAILURE, "not a multiaddr", "Copy the whole address"),
    (way(Step.BAD_KEY_FILE, detail="there is no file"), FAILURE, "there is no file", "--hive-key FILE"),
    (way(Step.UNRESOLVED), FAILURE, "The name hive.example has no address", "Open any web page"),
    (way(Step.REFUSED, local=True), FAILURE, "no bootstrap runs here", "hivemind-bootstrap run"),
    (way(Step.REFUSED), FAILURE, "meeting point) runs there", "to start the bootstrap"),
    (way(Step.UNREACHABLE), FAILURE, "offline", "VPN"),
    (way(Step.SILENT), FAILURE, "switched off, or a firewall", "firewall"),
    (way(Step.NO_PEER), FAILURE, "not a hive's bootstrap", "port number"),
    (way(Step.STALLED), FAILURE, "hangs", "restart"),
    (way(Step.PRIVATE), FAILURE, "This hive is private", "key file"),
    (way(Step.WRONG_KEY), FAILURE, "not (or no longer) its key", "present key file"),
    (way(Step.NOT_PRIVATE), FAILURE, "open to everybody", "Leave out --hive-key"),
    (way(Step.OTHER_PEER, found="abcdef", expected="uvwxyz"), FAILURE, "…abcdef instead of …uvwxyz", "present address"),
    (way(Step.MUTE, detail="no answer"), FAILURE, "does not answer: no answer", "--version"),
    (way(Step.WELCOME, seconds=0.7), WARNING, "slowly: 700 ms", "another connection"),
    (way(Step.WELCOME, seconds=0.02), WELL, "in 20 ms", ""),
    (KeyFileFact("hive.key", "abcd1234", True), WARNING, "Others on this machine can read", "chmod 600 hive.key"),
    (KeyFileFact("hive.key", "abcd1234", False), WELL, "abcd1234", ""),
    (ClockFact(400, 1), FAILURE, "7 minutes ahead of the hive's", "automatic time"),
    (ClockFact(-90_000, 1), FAILURE, "25 hours behind the hive's", "automatic time"),
    (ClockFact(-30, 1), WARNING, "30 seconds behind", "automatic time"),
    (ClockFact(3, 2), WELL, "to within 5 seconds", ""),
    (ClockFact(0.1, 0.1), WELL, "to within a second", ""),
    (DirectoryFact(False, detail="no answer"), FAILURE, "does not work: no answer", "Restart"),
    (DirectoryFact(False), FAILURE, "not found again", "Wait a minute"),
    (DirectoryFact(True, 0.05), WELL, "found in 50 ms", ""),
    (AccountFact(Login.NONE), WELL, "No account", ""),
    (AccountFact(Login.NO_PASSWORD, "ada"), FAILURE, "no password for the account ada", "HIVEMIND_P2P_PASSWORD"),
    (AccountFact(Login.REFUSED, "ada", registers=True), WARNING, "does not exist yet, or", "start the peer"),
    (AccountFact(Login.REFUSED, "ada", detail="wrong password"), FAILURE, "wrong password", "--register"),
    (AccountFact(Login.SILENT, "ada", detail="it is busy"), FAILURE, "it is busy", "Try again"),
    (AccountFact(Login.WELCOME, "ada", "3.5 credits"), WELL, "ada is open: 3.5 credits", ""),
    (PortFact("/ip4/0.0.0.0/tcp/4002", Port.OWN, 4002), WELL, "Your own peer", ""),
    (PortFact("/ip4/0.0.0.0/tcp/4002", Port.TAKEN, 4002, holder="nginx"), FAILURE, "by nginx", "/ip4/0.0.0.0/tcp/4003"),
    (PortFact("/ip4/1.2.3.4/tcp/65535", Port.TAKEN, 65535, holder="x"), FAILURE, "by x", "/ip4/1.2.3.4/tcp/1"),
    (PortFact("/ip4/1.2.3.4/tcp/4002", Port.FOREIGN, 4002), FAILURE, "does not have", "/ip4/0.0.0.0/tcp/4002"),
    (PortFact("/ip4/0.0.0.0/tcp/80", Port.FORBIDDEN, 80, detail="denied"), FAILURE, "port 80: denied", "above 1023"),
    (PortFact("nonsense", Port.MALFORMED, detail="no multiaddr"), FAILURE, "no multiaddr", "--listen"),
    (PortFact("/ip4/0.0.0.0/tcp/0", Port.FREE), WELL, "Any free port", ""),
    (PortFact("/ip4/0.0.0.0/tcp/4002", Port.FREE, 4002), WELL, "Port 4002 is free", ""),
    (AddressesFact(), FAILURE, "no network address", "Connect"),
    (AddressesFact(("1.2.3.4",), (), ("2a00::1",)), WELL, "1.2.3.4, 2a00::1", ""),
    (AddressesFact(("1.2.3.4",), ("10.0.0.1",)), WELL, "no IPv6", ""),
    (AddressesFact((), ("10.0.0.1",), ("2a00::1",)), WELL, "(10.0.0.1), with a public IPv6", ""),
    (AddressesFact((), (), ("2a00::1",)), WELL, "IPv6 address only: 2a00::1", ""),
    (AddressesFact((), ("10.0.0.1",)), WELL, "(10.0.0.1), without IPv6", ""),
    (ReachabilityFact("unknown", listens=False, hive_is_local=True), WELL, "which is enough", ""),
    (ReachabilityFact("unknown", listens=False), WARNING, "Others cannot call", "--listen"),
    (ReachabilityFact("unknown", hive_is_local=True), WELL, "it cannot tell", ""),
    (ReachabilityFact("public", gateway="mapped", observed="X"), WELL, "at X: the router", ""),
    (ReachabilityFact("public", "none", observed="X"), WELL, "directly, at X", ""),
    (ReachabilityFact("private", "cone", relayed=True, can_punch=True), WELL, "until a direct way", ""),
    (ReachabilityFact("private", "symmetric", relayed=True), WARNING, "strict router", "port forwarding"),
    (ReachabilityFact("private", "blocked"), FAILURE, "firewall", "incoming TCP"),
    (ReachabilityFact("private", "cone"), WARNING, "no relay has room", "port forwarding"),
    (ReachabilityFact("unknown", "cone"), WELL, "behind a router; whether", ""),
    (ReachabilityFact("unknown", "none"), WELL, "No router", ""),
    (ReachabilityFact("unknown"), WELL, "did not tell", ""),
    (FolderFact("/x", False, full=True), FAILURE, "disk of /x is full", "Delete"),
    (FolderFact("/x", True, free=1 << 20), FAILURE, "1.0 MiB are left", "Delete"),
    (FolderFact("/x", False, detail="Read-only file system"), FAILURE, "Read-only", "--data ~/hivemind"),
    (FolderFact("/x", True, free=GIB, speed=1e9), WARNING, "1.0 GiB", "Free some"),
    (FolderFact("/x", True, free=9 * GIB, speed=1e6), WARNING, "slow", "faster disk"),
    (FolderFact("/x", True, free=9 * GIB, speed=1e9, running=True), WELL, "A peer is running", ""),
    (FolderFact("/x", True, free=9 * GIB, speed=1e9), WELL, "9.0 GiB are free", ""),
    (MemoryFact(4 * GIB, 4 * GIB, 8 * GIB), FAILURE, "lend 8.0 GiB", "--memory 2048MiB"),
    (MemoryFact(4 * GIB, GIB // 2, GIB), WARNING, "Only 512.0 MiB", "Close programs"),
    (MemoryFact(8 * GIB, 2 * GIB, 4 * GIB), WARNING, "2.0 GiB are free now", "--memory 2048MiB"),
    (MemoryFact(8 * GIB, 6 * GIB, 4 * GIB), WELL, "Of 8.0 GiB of memory 6.0 GiB", ""),
    (OpenFilesFact(64, 4096), FAILURE, "64 files", "ulimit -n 4096"),
    (OpenFilesFact(512, 800), WARNING, "512 files", "ulimit -n 800"),
    (OpenFilesFact(1024, 4096), WELL, "1024 files", ""),
    (SandboxFact("none", True), WARNING, "switched off", "Leave out"),
    (SandboxFact("auto", True, installed=True, works=True), WELL, "behind walls", ""),
    (SandboxFact("auto", True, installed=True, works=True, wall="landlock"), WARNING, "Landlock", "install bubblewrap"),
    (CgroupFact(True, available=True), WELL, "as a whole", ""),
    (CgroupFact(False), WELL, "no cgroups", ""),
    (CgroupFact(True, detail="it says no"), WARNING, "it says no", "Delegate=yes"),
    (SandboxFact("auto", False), WARNING, "on this system", "trust"),
    (SandboxFact("bubblewrap", True), FAILURE, "will not start", "apt install bubblewrap"),
    (SandboxFact("auto", True), WARNING, "not installed", "apt install bubblewrap"),
    (SandboxFact("bubblewrap", True, True, switch="a.b=0"), FAILURE, "not allowed", "sysctl -w a.b=0"),
    (SandboxFact("auto", True, True, switch="a.b=0"), WARNING, "not allowed", "sysctl -w a.b=0"),
    (SandboxFact("bubblewrap", True, True, detail="bwrap: no"), FAILURE, "bwrap: no", "namespaces"),
    (SandboxFact("auto", True, True, detail="bwrap: no"), WARNING, "bwrap: no", "namespaces"),
    (TorchFact("", detail="No module named 'torch'"), FAILURE, "No module named", "make install"),
    (TorchFact("2.6", threads=4, cores=2), WARNING, "4 threads", "threads = 2"),
    (TorchFact("2.6", threads=1, cores=2), WELL, "1 of 2 cores", ""),
    (GpuFact(("H100",)), WELL, "(H100)", ""),
    (GpuFact(), WELL, "no GPU", ""),
    (VersionsFact("0.1", "3.11", ("libp2p 0.9 (needs <0.9)",)), FAILURE, "libp2p 0.9 (needs <0.9)", "make install"),
    (VersionsFact("0.1", "3.11"), WELL, "hivemind_p2p 0.1 on Python 3.11", ""),
]


@pytest.mark.parametrize(("fact", "mark", "sentence", "remedy"), EXAMPLES, ids=lambda value: str(value)[:60])
def test_every_fact_has_its_words(fact, mark, sentence, remedy):
    finding = judge(fact)
    assert finding.mark is mark
    assert sentence in finding.sentence
    assert remedy in finding.remedy
    assert bool(finding.remedy) == bool(remedy)


@pytest.mark.parametrize("finding", [judge(fact) for fact, *_ in EXAMPLES], ids=lambda finding: finding.sentence[:50])
def test_every_sentence_reads_well(finding):
    assert finding.sentence[0] in string.ascii_uppercase + "/" or finding.sentence.startswith(("hive", "torch"))
    assert finding.sentence.endswith((".", "…"))
    assert len(finding.sentence) < 180
    assert len(finding.remedy) < 160
    for text in (finding.sentence, finding.remedy):
        assert "{" not in text
        assert "None" not in text
        assert "  " not in text


def test_every_rule_is_reached():
    tables = {
        value: name
        for module in (hive_findings, machine_findings)
        for name, value in vars(module).items()
        if isinstance(value, tuple) and all(isinstance(rule, Rule) for rule in value)
    }
    assert len(tables) == 16
    facts = [fact for fact, *_ in EXAMPLES]
    reached = set()
    for table in tables:
        for fact in facts:
            try:
                reached.add(next(rule for rule in table if rule.when(fact)))
            except AttributeError:
                continue  # it is a fact of another table
    missed = [rule.sentence for table in tables for rule in table if rule not in reached]
    assert missed == []


def test_every_check_has_a_place():
    placed = {check for checks in SECTIONS.values() for check in checks}
    assert {judge(fact).check for fact, *_ in EXAMPLES} == placed


def test_a_remedy_exactly_where_something_is_wrong():
    for mark in (Mark.WELL, Mark.SKIPPED):
        with pytest.raises(ValueError, match="remedy"):
            Finding("torch", mark, "It works.", "Do something.")
    for mark in (Mark.WARNING, Mark.FAILURE):
        with pytest.raises(ValueError, match="remedy"):
            Finding("torch", mark, "It does not work.")


def test_a_table_without_a_rule_that_applies():
    with pytest.raises(LookupError, match="no rule of torch"):
        find("torch", TorchFact("2.6"), [Rule(lambda fact: False, Mark.WELL, "Never.")])
    assert find("torch", TorchFact("2.6"), [Rule(always, Mark.WELL, "{fact.version}.")]).sentence == "2.6."


def test_what_was_not_measured():
    late = judge(Unmeasured("torch", "it took longer than 8 seconds"))
    assert (late.check, late.mark) == ("torch", Mark.WARNING)
    skipped = judge(Unmeasured("clock", "the bootstrap has to answer first", because_of="bootstrap"))
    assert (skipped.mark, skipped.sentence) == (Mark.SKIPPED, "Not checked: the bootstrap has to answer first.")


def test_the_exit_code_and_the_last_line():
    well, warning, failure = (
        judge(OpenFilesFact(1024, 4096)),
        judge(OpenFilesFact(512, 4096)),
        judge(OpenFilesFact(64, 64)),
    )
    assert [exit_code(found) for found in ([], [well], [well, warning], [well, failure])] == [0, 0, 0, 1]
    assert summary([well]) == "Everything works."
    assert summary([well, warning]) == "Everything works; 1 thing could be better."
    assert summary([failure]).startswith("1 thing does not work.")
    assert summary([failure, failure, warning, warning]).startswith("2 things do not work, and 2 things could be")


def test_the_order_is_that_of_the_sections_however_they_came():
    findings = [judge(fact) for fact in (GpuFact(), OpenFilesFact(64, 64), DirectoryFact(True), way(Step.WELCOME))]
    assert [(title, [finding.check for finding in found]) for title, found in in_order(findings)] == [
        ("The hive", ["bootstrap", "directory"]),
        ("This machine", ["open files", "gpu"]),
    ]


def test_what_was_skipped_for_one_reason_is_one_line():
    first = judge(way(Step.REFUSED))
    skipped = [judge(Unmeasured(check, "the bootstrap has to answer first", "bootstrap")) for check in ("a", "b")]
    other = judge(Unmeasured("c", "it is older", "bootstrap"))
    assert [finding.sentence for finding in merged([first, *skipped, other])][1:] == [
        "Not checked: the bootstrap has to answer first (a, b).",
        "Not checked: it is older (c).",
    ]
