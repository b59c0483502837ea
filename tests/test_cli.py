"""The command's own small decisions; what it does with a hive is walked in `journeys/test_command_line.py`."""

import json
from dataclasses import dataclass
from decimal import Decimal

import pytest
from typer.testing import CliRunner

from hivemind_p2p import __version__, cli
from hivemind_p2p.errors import ConfigurationError, LinkError

LINK = "magnet:?xt=urn:btmh:1220" + "ab" * 32 + "&dn=name"


def run(*arguments):
    return CliRunner().invoke(cli.app, arguments)


def test_version():
    assert run("--version").output == f"hivemind_p2p {__version__}\n"


@pytest.mark.parametrize("command", ["run", "demo", "status", "submit", "share", "fetch", "generate", "new-hive-key"])
def test_every_command_explains_itself(command):
    done = run(command, "--help")
    assert done.exit_code == 0
    assert "exit-with-parent" not in done.output


@pytest.mark.parametrize("command", ["status", "submit", "share", "fetch", "generate", "run"])
def test_json_on_whatever_prints_data(command):
    assert "--json" in run(command, "--help").output.replace("\n", "")


def test_functions_by_name(tmp_path):
    import math

    assert cli._find_function("math:factorial") is math.factorial
    script = tmp_path / "own.py"
    script.write_text("def twice(x):\n    return 2 * x\n")
    assert cli._find_function(f"{script}:twice")(21) == 42


@pytest.mark.parametrize(
    "name", ["math", ":factorial", "math:nothing", "no.such:f", "missing.py:f", "", "math:pi", "..x:f"]
)
def test_functions_that_there_are_not(name):
    with pytest.raises(ConfigurationError):
        cli._find_function(name)


def test_a_script_that_is_no_python(tmp_path):
    script = tmp_path / "own.py"
    script.write_text("def twice(x)\n")
    with pytest.raises(ConfigurationError):
        cli._find_function(f"{script}:twice")


@pytest.mark.parametrize(("text", "value"), [("3", 3), ("[1, 2]", [1, 2]), ('"3"', "3"), ("word", "word"), ("", "")])
def test_arguments_are_json_or_text(text, value):
    assert cli._json_or_text(text) == value


@dataclass
class Row:
    amount: Decimal


def test_json_of_amounts_is_exact(capsys):
    cli.print_json({"row": cli._plain(Row(Decimal("0.000210"))), "none": cli._plain(None)})
    assert json.loads(capsys.readouterr().out) == {"row": {"amount": "0.000210"}, "none": None}


def test_what_was_begun_is_kept_until_it_is_done(tmp_path):
    with cli._kept_until_done(LINK, tmp_path, verbose=True) as folder:
        folder.mkdir()
        (folder / "state").write_text("")
    assert not folder.exists()

    def fail():
        with cli._kept_until_done(LINK, tmp_path, verbose=True) as kept:
            kept.mkdir()
            raise SystemExit(1)

    with pytest.raises(SystemExit):
        fail()
    assert folder.exists()
    with pytest.raises(LinkError), cli._kept_until_done("no link", tmp_path, verbose=True):
        pass
