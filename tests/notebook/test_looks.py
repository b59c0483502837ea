"""What a notebook shows: nothing that came from a stranger is taken for HTML, and bars say where they stand."""

from decimal import Decimal

import pytest

from hivemind_p2p.job import Job, JobList
from hivemind_p2p.notebook import progress, reprs
from hivemind_p2p.types import PeerId
from hivemind_p2p.views import Balance, PeerList, PeerRow


def row(**changes):
    fields = {
        "peer_id": PeerId("12D3KooWabcdef"),
        "name": "peer-1",
        "addresses": (),
        "cpus": 1.0,
        "memory_bytes": 2**31,
        "task_types": ("function/1",),
        "serves_models": True,
        "stages": (),
        "is_me": False,
    }
    return PeerRow(**(fields | changes))


def test_names_of_strangers_are_escaped():
    html = reprs.peers_html(PeerList([row(name="<script>alert(1)</script>")]))
    assert "<script>" not in html
    assert "&lt;script&gt;" in html


def test_who_was_outvoted_is_marked_and_else_there_is_no_column():
    assert "outvoted" not in reprs.peers_html(PeerList([row()]))
    assert "outvoted, say accounts" in reprs.peers_html(PeerList([row(), row(complaints=3)]))
    assert "outvoted, say 3" in repr(PeerList([row(complaints=3)]))


def test_peers_are_a_table():
    html = reprs.peers_html(PeerList([row(is_me=True)]))
    assert "peer-1 (me)" in html
    assert "2.0 GiB" in html
    assert "any model" in html


def test_a_job_says_where_it_ran_and_what_it_cost():
    job = Job("1", "count")
    job.complete(3, peer=PeerId("12D3KooWabcdef"), cost=111)
    html = job._repr_html_()
    assert all(text in html for text in ("count", "completed", "…abcdef", "0.000111"))


def test_jobs_say_how_many_are_in_which_state():
    jobs = JobList([Job("1"), Job("2")])
    jobs[0].cancel()
    assert "2: 1 cancelled, 1 pending" in jobs._repr_html_()


def test_a_balance_shows_every_digit_that_there_is():
    assert "27.997649" in Balance(Decimal(72), Decimal("27.997649"))._repr_html_()


@pytest.mark.parametrize(("fraction", "width"), [(-1.0, "0%"), (0.5, "50%"), (7.0, "100%")])
def test_a_bar_stays_within_its_frame(fraction, width):
    assert f"width: {width}" in reprs.progress_html("tasks", fraction, "")


class Display:
    """Stands in for what IPython shows."""

    def __init__(self):
        self.bundles = []

    def __call__(self, bundle, *, raw, display_id):
        assert raw
        assert display_id
        self.bundles.append(bundle)
        return self

    def update(self, bundle, *, raw):
        assert raw
        self.bundles.append(bundle)


@pytest.fixture
def display(monkeypatch):
    shown = Display()
    monkeypatch.setattr(progress, "in_notebook", lambda: True)
    monkeypatch.setattr("IPython.display.display", shown)
    return shown


def test_a_bar_in_a_notebook_ends_as_it_stands(display):
    with progress.bar("tasks", shown=True) as bar:
        for done in range(1000):
            bar.show(done + 1, 1000, f"{done + 1} of 1000")
    assert display.bundles[0]["text/plain"] == "tasks: 0%"
    assert display.bundles[-1]["text/plain"].startswith("tasks: 100% 1000 of 1000, ")
    assert len(display.bundles) < 1000, "each drawing is a message to the browser"


def test_a_bar_of_something_that_fails_turns_red(display):
    def half_done():
        with progress.bar("tasks", shown=True) as bar:
            bar.show(1, 2, "1 of 2")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        half_done()
    assert "#ea4335" in display.bundles[-1]["text/html"]
    assert "1 of 2" in display.bundles[-1]["text/plain"]


def test_nothing_is_shown_where_nobody_looks(monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: False, raising=False)
    with progress.bar("tasks", shown=True) as bar:
        assert bar is None
