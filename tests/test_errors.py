"""Every error says what happened and what to do, and comes through the wire as itself."""

import inspect
import traceback

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hivemind_p2p import errors

CLASSES = [found for _, found in inspect.getmembers(errors, inspect.isclass) if issubclass(found, errors.HivemindError)]


@pytest.mark.parametrize("kind", CLASSES)
def test_every_class_travels_as_its_code(kind):
    back = errors.from_code(kind.code(), "the disk of peer x is full", "Free some room.")
    assert type(back) is kind
    assert (back.message, back.hint) == ("the disk of peer x is full", "Free some room.")


def test_codes_are_different_and_plain():
    codes = [kind.code() for kind in CLASSES]
    assert len(set(codes)) == len(codes)
    assert errors.PeerUnreachableError.code() == "peer_unreachable"
    assert all(code.replace("_", "").isascii() and code == code.lower() for code in codes)


@pytest.mark.parametrize("kind", CLASSES)
def test_every_class_has_a_hint_of_one_sentence(kind):
    error = kind("it broke")
    assert error.hint == kind.default_hint
    assert error.hint.endswith((".", "...", "credits."))
    assert "\n" not in error.hint
    assert str(error) == "it broke"


def test_a_traceback_shows_the_hint():
    shown = "".join(traceback.format_exception(errors.LinkError("no link", hint="Paste it whole.")))
    assert shown.endswith("LinkError: no link\nhint: Paste it whole.\n")


def test_a_hint_of_its_own_comes_first():
    assert errors.LinkError("no link", hint="Paste it whole.").hint == "Paste it whole."


@given(st.text(max_size=40), st.text(max_size=40))
def test_a_code_from_the_future_becomes_a_remote_error(code, message):
    known = {kind.code() for kind in CLASSES}
    error = errors.from_code(code, message)
    if code not in known:
        assert type(error) is errors.RemoteError
        assert code in error.message


def test_classes_of_others_travel_too():
    class OtherError(errors.TaskError):
        """A class that a plug-in adds."""

    assert type(errors.from_code("other", "x")) is OtherError


def test_a_failed_task_shows_its_remote_traceback():
    error = errors.TaskFailedError("on peer x: ValueError: no", remote_traceback="Traceback ...\nValueError: no\n")
    assert str(error) == "on peer x: ValueError: no\n\nRemote traceback:\nTraceback ...\nValueError: no"
    assert str(errors.TaskFailedError("on peer x: it raised")) == "on peer x: it raised"
