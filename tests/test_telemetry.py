"""One event: a count always, a line where a program wants lines."""

import json

import pytest
import structlog

from hivemind_p2p import telemetry


@pytest.fixture(autouse=True)
def unconfigured():
    structlog.reset_defaults()
    yield
    structlog.reset_defaults()


def _count(source, event):
    return telemetry.events_total().labels(source=source, event=event)._value.get()


@pytest.mark.parametrize("level", ["debug", "info", "warning", "error"])
def test_every_event_is_counted(level):
    before = _count("test", "it_happened")
    getattr(telemetry.source("test"), level)("it_happened", peer="x")
    assert _count("test", "it_happened") == before + 1


def test_a_library_writes_nothing_until_a_program_wants_it(capsys):
    telemetry.source("test").error("it_broke")
    assert capsys.readouterr() == ("", "")


def test_lines_of_json(capsys):
    telemetry.configure("info", as_json=True)
    telemetry.source("test").info("it_happened", peer="x", piece=7)
    told = capsys.readouterr()
    line = json.loads(told.err)
    assert (line["event"], line["source"], line["peer"], line["piece"]) == ("it_happened", "test", "x", 7)
    assert (line["level"], told.out) == ("info", "")


def test_what_is_below_the_level_is_counted_and_not_shown(capsys):
    telemetry.configure("warning")
    before = _count("test", "quiet")
    telemetry.source("test").info("quiet")
    telemetry.source("test").warning("loud", peer="x")
    told = capsys.readouterr().err
    assert _count("test", "quiet") == before + 1
    assert "quiet" not in told
    assert "loud" in told
    assert "peer" in told


def test_a_traceback_is_shown(capsys):
    telemetry.configure("info", as_json=True)
    try:
        raise ValueError("no")
    except ValueError as error:
        telemetry.source("test").error("it_broke", exc_info=error)
    assert "ValueError: no" in json.loads(capsys.readouterr().err)["exception"]


def test_a_source_has_one_object():
    assert telemetry.source("test") is telemetry.source("test")
