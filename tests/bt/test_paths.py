"""No name in a metainfo writes outside its folder, or means two things on two systems."""

import string
import unicodedata
from pathlib import Path, PurePosixPath, PureWindowsPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hivemind_p2p.bt.files import make_folders
from hivemind_p2p.bt.paths import DEEPEST_PATH, LONGEST_NAME, LONGEST_PATH, check_name, check_path, check_siblings
from hivemind_p2p.errors import UnsafePathError

nasty = st.one_of(
    st.text(max_size=20),
    st.sampled_from(["..", ".", "", "/", "\\", "C:", "con", "NUL.txt", "a.", "a ", "~", "COM1", "aux.tar.gz", "a\0b"]),
    st.text(alphabet=string.ascii_letters + "./\\: ", max_size=8),
)


def accepted(parts):
    try:
        return check_path(parts)
    except UnsafePathError:
        return None


@given(st.lists(nasty, min_size=1, max_size=3))
def test_what_is_accepted_stays_below_the_folder_on_every_system(parts):
    path = accepted(parts)
    if path is None:
        return
    folder = Path("/folder")
    assert PurePosixPath(path).parts == tuple(parts)
    assert (folder / path).resolve().is_relative_to(folder)
    windows = PureWindowsPath(path)
    assert not windows.drive
    assert not windows.root
    assert not windows.is_reserved()
    assert windows.parts == tuple(parts)
    assert all(len(part.encode()) <= LONGEST_NAME for part in parts)
    assert len(path.encode()) <= LONGEST_PATH


@pytest.mark.parametrize(
    "name",
    [
        *(
            "..",
            ".",
            "",
            "a/b",
            "/etc",
            "a\\b",
            "C:x",
            "nul",
            "Con.txt",
            "lpt9",
            "com\N{SUPERSCRIPT ONE}",
            "CONIN$",
            "x.",
            "x ",
            "\x00",
            "a\nb",
            "\x7f",
        ),
        *("\ud800", "x" * (LONGEST_NAME + 1), "é" * (LONGEST_NAME // 2 + 1), "a:stream", "what?", "*", '"', "<", "|"),
    ],
)
def test_unsafe_names(name):
    with pytest.raises(UnsafePathError):
        check_name(name)


@pytest.mark.parametrize(
    "name", ["model.safetensors", ".hidden", "console", "com10", "naïve", "日本語", "a b", "x" * 255]
)
def test_usual_names(name):
    assert check_name(name) == name


def test_paths_that_are_too_deep_or_long():
    assert check_path(["a"] * DEEPEST_PATH)
    for parts in (["a"] * (DEEPEST_PATH + 1), ["x" * 250] * 5, []):
        with pytest.raises(UnsafePathError):
            check_path(parts)


@given(st.text(min_size=1, max_size=12))
def test_names_that_are_one_file_on_some_system_never_stand_together(name):
    variants = {
        name.upper(),
        name.lower(),
        unicodedata.normalize("NFC", name),
        unicodedata.normalize("NFD", name),
        unicodedata.normalize("NFD", name.casefold()),
    } - {name}
    check_siblings([name])
    for variant in variants:
        # Upper and lower case of one text may differ in more than case (ß and SS): only what folds alike is one file.
        if unicodedata.normalize("NFC", variant).casefold() == unicodedata.normalize("NFC", name).casefold():
            with pytest.raises(UnsafePathError):
                check_siblings([name, variant])


@given(st.lists(st.text(alphabet="abAB", min_size=1, max_size=3), max_size=8))
def test_siblings_pass_exactly_where_they_fold_apart(names):
    apart = len({name.casefold() for name in names}) == len(names)
    try:
        check_siblings(names)
    except UnsafePathError:
        assert not apart
    else:
        assert apart


@pytest.mark.parametrize("depth", [0, 1, 2])
@pytest.mark.parametrize("kind", ["link", "dangling", "file"])
def test_no_folder_on_the_way_is_a_link_or_a_file(tmp_path, depth, kind):
    outside = tmp_path / "outside"
    outside.mkdir()
    location = tmp_path / "location"
    parts = ("a", "b", "c")
    obstacle = location.joinpath(*parts[: depth + 1])
    obstacle.parent.mkdir(parents=True)
    if kind == "file":
        obstacle.write_bytes(b"")
    else:
        obstacle.symlink_to(outside if kind == "link" else tmp_path / "nowhere")
    with pytest.raises(UnsafePathError):
        make_folders(location, parts)
    assert list(outside.iterdir()) == []
    assert not (tmp_path / "nowhere").exists()
