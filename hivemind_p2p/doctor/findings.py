"""What the facts mean: one sentence each, and for whatever is wrong the one thing to do about it. Pure.

Each kind of fact has a table of rules, read from the top: the first one whose condition holds is the finding. A rule's
texts are filled in from the fact, ``{fact.place}``. `hive_findings` and `machine_findings` hold the tables.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final


@dataclass(frozen=True, slots=True)
class Unmeasured:
    """A probe that came to no end.

    Attributes:
        check: Which.
        reason: Why, in a few words.
        because_of: The check whose failure made this one pointless; empty where the probe itself failed.
    """

    check: str
    reason: str
    because_of: str = ""


class Mark(Enum):
    """How it stands."""

    WELL = "ok"
    WARNING = "warning"
    FAILURE = "failure"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the doctor's report.

    Attributes:
        check: What was looked at, one word.
        mark: How it stands.
        sentence: What was found, for a person who has never heard of it.
        remedy: The one thing to do; empty exactly where nothing is to be done.
    """

    check: str
    mark: Mark
    sentence: str
    remedy: str = ""

    def __post_init__(self) -> None:
        if bool(self.remedy) != (self.mark in (Mark.WARNING, Mark.FAILURE)):
            raise ValueError(f"a finding has a remedy exactly where something is wrong: {self}")


Condition = Callable[[Any], bool]
"""Whether a rule applies to a fact."""


def always(_fact: Any) -> bool:
    """The condition of a table's last rule."""
    return True


@dataclass(frozen=True, slots=True)
class Rule:
    """One row of a table.

    Attributes:
        when: Whether it applies to a fact.
        mark: How it stands then.
        sentence: What to say; ``{fact.name}`` is filled in.
        remedy: What to do.
    """

    when: Condition
    mark: Mark
    sentence: str
    remedy: str = ""


Table = Sequence[Rule]
"""The rules of one check, the first that applies counts."""

SECTIONS: Final[Mapping[str, tuple[str, ...]]] = {
    "The hive": ("bootstrap", "hive key", "clock", "directory", "account"),
    "The network": ("port", "addresses", "reachability"),
    "This machine": ("folder", "memory", "open files", "sandbox", "cgroup", "torch", "gpu", "versions"),
}
"""The checks in the order in which they are shown."""

NOT_IN_TIME: Final = "Run the doctor again when the machine has less to do."


def find(check: str, fact: Any, table: Table) -> Finding:
    """The finding of the first rule that applies.

    Raises:
        LookupError: None does; the last rule of a table applies to everything.
    """
    for rule in table:
        if rule.when(fact):
            return Finding(check, rule.mark, rule.sentence.format(fact=fact), rule.remedy.format(fact=fact))
    raise LookupError(f"no rule of {check} applies to {fact}")


def unmeasured(fact: Unmeasured) -> Finding:
    """What to say of a check that came to no end."""
    if fact.because_of:
        return Finding(fact.check, Mark.SKIPPED, f"Not checked: {fact.reason}.")
    return Finding(fact.check, Mark.WARNING, f"This could not be checked: {fact.reason}.", NOT_IN_TIME)


def merged(found: Sequence[Finding]) -> list[Finding]:
    """The same with all that was skipped for one reason in one line, which stands where the first of them stood."""
    skipped: dict[str, list[str]] = {}
    for finding in found:
        if finding.mark is Mark.SKIPPED:
            skipped.setdefault(finding.sentence, []).append(finding.check)
    kept: list[Finding] = []
    for finding in found:
        if finding.mark is not Mark.SKIPPED:
            kept.append(finding)
        elif skipped[finding.sentence][0] == finding.check:
            checks = ", ".join(skipped[finding.sentence])
            kept.append(Finding("", Mark.SKIPPED, f"{finding.sentence.rstrip('.')} ({checks})."))
    return kept


def exit_code(findings: Iterable[Finding]) -> int:
    """1 where something failed; warnings do not fail."""
    return int(any(finding.mark is Mark.FAILURE for finding in findings))


def in_order(findings: Iterable[Finding]) -> list[tuple[str, list[Finding]]]:
    """The findings by section, in the order of `SECTIONS`, without sections that have none."""
    kept = list(findings)
    sections = [
        (title, [finding for check in checks for finding in kept if finding.check == check])
        for title, checks in SECTIONS.items()
    ]
    return [(title, found) for title, found in sections if found]


def summary(findings: Iterable[Finding]) -> str:
    """The last line: how many things are wrong."""
    marks = [finding.mark for finding in findings]
    failures, warnings = marks.count(Mark.FAILURE), marks.count(Mark.WARNING)
    broken = f"{failures} {'thing does' if failures == 1 else 'things do'} not work"
    better = f"{warnings} {'thing' if warnings == 1 else 'things'} could be better"
    if failures and warnings:
        return f"{broken}, and {better}. Begin with the first ✗."
    if failures > 1:
        return f"{broken}. Begin with the first ✗, then run the doctor again."
    if failures:
        return f"{broken}. Do what the arrow says, then run the doctor again."
    if warnings:
        return f"Everything works; {better}."
    return "Everything works."
