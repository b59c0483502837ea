"""What people see, at the width of an ordinary terminal, and what programs read."""

import io
import json

from rich.console import Console

from hivemind_p2p.doctor.findings import Finding, Mark
from hivemind_p2p.doctor.report import Progress, as_json, print_report

FINDINGS = [
    Finding("torch", Mark.WELL, "torch 2.6 works; a model's stage computes with 1 of 2 cores."),
    Finding(
        "bootstrap", Mark.FAILURE, "Nothing answers at [bold]example[/bold].", "Start it " + "again " * 20 + "now."
    ),
    Finding("clock", Mark.SKIPPED, "Not checked: the bootstrap has to answer first."),
    Finding("account", Mark.SKIPPED, "Not checked: the bootstrap has to answer first."),
    Finding("sandbox", Mark.WARNING, "It is not installed.", "Install it."),
]


def console(width=80, **more):
    return Console(file=io.StringIO(), width=width, color_system=None, **more)


def lines(of):
    return [line.rstrip() for line in of.file.getvalue().splitlines()]


def test_sections_marks_sentences_and_remedies():
    seen = console()
    print_report(FINDINGS, seen)
    told = lines(seen)
    assert told[:2] == ["The hive", "  ✗ bootstrap    Nothing answers at [bold]example[/bold]."]
    assert told[2].startswith(" " * 17 + "→ Start it again")
    assert "  ·              Not checked: the bootstrap has to answer first (clock," in told
    assert " " * 17 + "account)." in told
    assert "  ! sandbox      It is not installed." in told
    assert told[told.index("  ! sandbox      It is not installed.") + 1] == " " * 17 + "→ Install it."
    assert told[-1] == "1 thing does not work, and 1 thing could be better. Begin with the first ✗."
    assert max(map(len, told[:-1])) <= 80


def test_no_line_is_wider_than_the_terminal_or_than_is_good_to_read():
    for width, widest in ((60, 60), (80, 80), (300, 105)):
        seen = console(width)
        print_report(FINDINGS, seen)
        assert max(map(len, lines(seen))) <= widest


def test_programs_get_every_finding():
    told = json.loads(json.dumps(as_json(FINDINGS)))
    assert told["ok"] is False
    assert [(each["section"], each["check"], each["mark"]) for each in told["findings"]] == [
        ("The hive", "bootstrap", "failure"),
        ("The hive", "clock", "skipped"),
        ("The hive", "account", "skipped"),
        ("This machine", "sandbox", "warning"),
        ("This machine", "torch", "ok"),
    ]
    assert told["findings"][3]["remedy"] == "Install it."
    assert as_json(FINDINGS[:1])["ok"] is True


def test_progress_shows_what_is_still_looked_at_and_goes_away():
    seen = console(force_terminal=True)
    with Progress(seen) as progress:
        progress.show(FINDINGS[0])
        seen.print(progress._picture())
    assert "looking at: bootstrap, clock" in seen.file.getvalue()


def test_no_progress_where_nobody_watches():
    seen = console()
    with Progress(seen) as progress:
        progress.show(FINDINGS[0])
    assert seen.file.getvalue() == ""
