"""Remote tracebacks are told with the caller's own lines, and never make the caller open another file."""

import linecache
import sys

from hivemind_p2p.errors import TaskFailedError
from hivemind_p2p.job import Job
from hivemind_p2p.notebook.tracebacks import localised, source_file


def fails():
    raise ValueError("no")  # the line that is looked for


LINE = fails.__code__.co_firstlineno + 1
REMOTE = f"""Traceback (most recent call last):
  File "{__file__}", line {LINE}, in fails
ValueError: no"""


def test_own_lines_are_put_in():
    told = localised(REMOTE, source_file(fails)).splitlines()
    assert told[2] == '    raise ValueError("no")  # the line that is looked for'
    assert told[3] == "ValueError: no"


def test_a_line_that_has_its_code_keeps_it():
    with_code = REMOTE.replace("in fails\n", "in fails\n    something_else()\n")
    assert localised(with_code, source_file(fails)) == with_code


def test_no_other_file_is_opened(tmp_path):
    secret = tmp_path / "secret.py"
    secret.write_text("hidden\n")
    told = localised(f'  File "{secret}", line 1, in f\nValueError: no', source_file(fails))
    assert "hidden" not in told
    assert str(secret) not in linecache.cache


def test_cells_are_called_by_their_number(monkeypatch):
    class Compiler:
        def format_code_name(self, name):
            return ("Cell", "In[7]") if name == "/tmp/ipykernel_1/2.py" else None

    class Shell:
        compile = Compiler()

    class FakeIPython:
        @staticmethod
        def get_ipython():
            return Shell()

    monkeypatch.setitem(sys.modules, "IPython", FakeIPython)
    assert localised('  File "/tmp/ipykernel_1/2.py", line 3, in f', None) == "  Cell In[7], line 3, in f"
    assert localised('  File "other.py", line 3, in f', None) == '  File "other.py", line 3, in f'


def test_what_has_no_code_has_no_file():
    assert source_file(pow) is None


def test_a_job_that_fails_tells_the_line():
    job = Job("1", "fails", source_file(fails))
    job.fail(TaskFailedError("on peer x: ValueError: no", remote_traceback=REMOTE))
    assert "the line that is looked for" in str(job.exception(0))
