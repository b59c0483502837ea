"""One content as it lies on the disk: sparse files, written in place, and the record of which pieces are there.

A piece is checked, written, then recorded (`piece_log`), in this order. A content may lie there in part: the rest of
its files are holes. Nothing that this peer did not write is ever overwritten. Before a piece is given out its file's
size and modification time are compared with what was recorded; where they differ the piece is checked again, so that
a file that was changed by others is never passed on as what it was.

Everything here blocks and is run in threads; a lock keeps them apart.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from threading import Lock

from hivemind_p2p.bt.bitfield import Bitfield
from hivemind_p2p.bt.files import make_folders, read_up_to, translated, write_all
from hivemind_p2p.bt.hashing import verify_piece
from hivemind_p2p.bt.metainfo import Manifest, ManifestFile, PieceSpan
from hivemind_p2p.bt.piece_log import LOST, OPENED, UNKNOWN, PieceLog
from hivemind_p2p.errors import ContentError, UnsafePathError


class ContentStore:
    """A content on this disk.

    Args:
        manifest: What it is.
        location: The folder in which the content's file or folder lies.
        log: Which pieces lie there.
        shared: Whether these are the user's own files, served from where they lie and never written.
    """

    def __init__(self, manifest: Manifest, location: Path, log: PieceLog, *, shared: bool = False) -> None:
        self.manifest = manifest
        self.location = location
        self.shared = shared
        self.held = Bitfield(manifest.pieces)
        self._log = log
        self._lock = Lock()
        self._stamps: dict[str, int] = {}
        self._replay()

    def _replay(self) -> None:
        for piece, stamp in self._log.read():
            if piece >= self.manifest.pieces:
                continue
            if stamp == LOST:
                self.held.discard(piece)
                continue
            self._stamps[self.manifest.piece(piece).file.path] = stamp
            if stamp != OPENED:
                self.held.add(piece)

    @property
    def path(self) -> Path:
        """The content's file or folder."""
        return self.location / self.manifest.name

    def path_of(self, file: ManifestFile) -> Path:
        """Where a file of the content lies."""
        return self.path if self.manifest.is_file else self.path / file.path

    def stamp(self, file: ManifestFile) -> int | None:
        """The modification time (nanoseconds) that a file must have to be taken for what it was; None if unknown."""
        stamp = self._stamps.get(file.path)
        return stamp if stamp is not None and stamp > UNKNOWN else None

    def adopt(self, stamps: Mapping[str, int]) -> None:
        """Records whole files as they were found and hashed.

        Args:
            stamps: Modification times by path, of files in which every piece is there.

        Raises:
            DiskFullError: There is no room for the record.
        """
        files = [file for file in self.manifest.files if file.path in stamps]
        with self._lock:
            self._log.replace((piece, stamps[file.path]) for file in files for piece in _pieces(file))
            for file in files:
                self._stamps[file.path] = stamps[file.path]
                for piece in _pieces(file):
                    self.held.add(piece)

    def intact(self, pieces: Iterable[int]) -> bool:
        """Whether all these pieces are there, in files that nobody has changed."""
        files: dict[str, ManifestFile] = {}
        for piece in pieces:
            if piece not in self.held:
                return False
            file = self.manifest.piece(piece).file
            files[file.path] = file
        return all(self._trusted(file, _status(self.path_of(file))) for file in files.values())

    def read(self, piece: int, begin: int, length: int) -> memoryview | None:
        """Bytes ``[begin, begin + length)`` of a piece, or None if the piece is not there or not what it was.

        Raises:
            IndexError: The content has no such piece.
        """
        span = self.manifest.piece(piece)
        if piece not in self.held or begin + length > span.length:
            return None
        data = self._read_span(span, begin, length)
        if data is None:
            # What cannot be recorded now (the disk may be full) is found again after a restart.
            with suppress(ContentError):
                self._lose([piece])
        return data

    def _read_span(self, span: PieceSpan, begin: int, length: int) -> memoryview | None:
        try:
            descriptor = os.open(self.path_of(span.file), os.O_RDONLY | os.O_CLOEXEC | self._no_follow)
        except OSError:
            return None
        try:
            # Looked at under the lock: between a write and its record the two differ for a good reason.
            with self._lock:
                trusted = self._trusted(span.file, os.fstat(descriptor))
            if trusted:
                data = read_up_to(descriptor, length, span.offset + begin)
                return memoryview(data) if len(data) == length else None
            whole = read_up_to(descriptor, span.length, span.offset)
        except OSError:
            return None
        finally:
            os.close(descriptor)
        if not verify_piece(whole, span.expected, leaves=span.leaves):
            return None
        return memoryview(whole)[begin : begin + length]

    def write(self, piece: int, data: bytes | bytearray | memoryview) -> bool:
        """Checks a piece and puts it in its place; False if it does not match the hash tree.

        Raises:
            DiskFullError: There is no room; the piece does not count.
            ContentError: It cannot be written.
        """
        span = self.manifest.piece(piece)
        if len(data) != span.length or not verify_piece(data, span.expected, leaves=span.leaves):
            return False
        path = self.path_of(span.file)
        with self._lock:
            with translated(str(path)):
                descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC | self._no_follow)
            try:
                known = self._trusted(span.file, os.fstat(descriptor))
                write_all(descriptor, data, span.offset, path)
                stamp = os.fstat(descriptor).st_mtime_ns if known else UNKNOWN
            finally:
                os.close(descriptor)
            self._stamps[span.file.path] = stamp
            self._log.append([(piece, stamp)])
            self.held.add(piece)
        return True

    def prepare(self, files: Sequence[ManifestFile]) -> None:
        """Makes files ready to be written: creates them, and checks again what was changed by others.

        Raises:
            ContentError: Something else lies where a file should be.
            UnsafePathError: A symbolic link would lead out of the folder.
            DiskFullError: There is no room.
        """
        for file in files:
            parts = () if self.manifest.is_file else (self.manifest.name, *file.path.split("/")[:-1])
            make_folders(self.location, parts)
            path = self.path_of(file)
            if path.is_symlink():
                raise UnsafePathError(f"a symbolic link stands where {path} should be")
            with translated(str(path)):
                self._prepare(file, path)

    def _prepare(self, file: ManifestFile, path: Path) -> None:
        status = _status(path)
        if status is None:
            self._lose(_pieces(file))
            self._create(file, path)
        elif self._trusted(file, status):
            return
        elif file.path in self._stamps:
            with path.open("r+b") as opened:
                opened.truncate(file.length)
            self._check_again(file, path, foreign=False)
        elif status.st_size != file.length or not path.is_file():
            raise _occupied(path)
        else:
            self._check_again(file, path, foreign=True)

    def _create(self, file: ManifestFile, path: Path) -> None:
        with self._lock:
            if file.pieces:
                self._log.append([(file.first_piece, OPENED)])
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
            try:
                os.ftruncate(descriptor, file.length)
                self._stamps[file.path] = os.fstat(descriptor).st_mtime_ns
            finally:
                os.close(descriptor)

    def _check_again(self, file: ManifestFile, path: Path, *, foreign: bool) -> None:
        """Finds out which pieces of a file are there. A `foreign` one was not made by this peer.

        A foreign file is taken over if each of its pieces is right or a hole, so that nothing in it can be lost.
        """
        right: list[int] = []
        wrong: list[int] = []
        stamp = path.stat().st_mtime_ns
        with path.open("rb", buffering=0) as opened:
            for piece in _pieces(file):
                if not foreign and piece not in self.held:
                    continue
                span = self.manifest.piece(piece)
                data = read_up_to(opened.fileno(), span.length, span.offset)
                if verify_piece(data, span.expected, leaves=span.leaves):
                    right.append(piece)
                elif foreign and any(data):
                    raise _occupied(path)
                else:
                    wrong.append(piece)
        self._lose(wrong)
        with self._lock:
            self._stamps[file.path] = stamp
            self._log.append([(file.first_piece, OPENED), *((piece, stamp) for piece in right)])
            for piece in right:
                self.held.add(piece)

    def _lose(self, pieces: Iterable[int]) -> None:
        with self._lock:
            lost = [piece for piece in pieces if self.held.discard(piece)]
            if lost:
                self._log.append((piece, LOST) for piece in lost)

    def _trusted(self, file: ManifestFile, status: os.stat_result | None) -> bool:
        if status is None or status.st_size != file.length:
            return False
        return file.length == 0 or status.st_mtime_ns == self.stamp(file)

    @property
    def _no_follow(self) -> int:
        # The user's own files may be links inside the shared folder; what this peer wrote never is one.
        return 0 if self.shared else os.O_NOFOLLOW


def _pieces(file: ManifestFile) -> Iterator[int]:
    return iter(range(file.first_piece, file.first_piece + file.pieces))


def _status(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError:
        return None


def _occupied(path: Path) -> ContentError:
    return ContentError(
        f"{path} exists already and is something else", hint="Choose another folder, or move the file away."
    )
