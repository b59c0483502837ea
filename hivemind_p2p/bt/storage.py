"""One content as it lies on the disk: sparse files, written once in place, and the record of which pieces are there.

**Order of a write.** Pieces are checked in memory; the log is told that they are about to be written; their data is
written; the log is told that they are there (`piece_log`). A kill may come between any two of these:

- before the data: the file is untouched, and the piece is not recorded;
- in the data: part of the piece is there and is not recorded, so nobody is given it; it is fetched and written again;
- after the data, before the record: the whole piece is there and is fetched again, which is all that a kill can cost.

Pieces of one file that have arrived together (some MiB) are written together: that saves most of the system calls.

The other order, first the record and then the data, would have a hole served as a piece. A write changes the file's
modification time, by which foreign changes are noticed; so after a kill in mid-write that time is not the recorded one.
The announcement says whose doing that was: where the log ends with one, and the file was changed just after it
(`LONGEST_WRITE`), the rest of the file is still what it was, and nothing needs to be read again.

The log and the data go through the same kernel, which outlives the process: a kill needs no `fsync`. A loss of power
may keep the record and lose the data; such a piece is found wrong by whoever fetches it, or by `verify`.

**Where the files lie.** What goes to a folder of the user's, and was not there before, arrives in a hidden folder
beside its place and is moved there (`settle`) when it is complete: what has its name is whole. In the peer's own folder
files have their names from the start, since parts of a content are of use there (some layers of a checkpoint).

Nothing that this peer did not write is ever overwritten. Before a piece is given out its file's size and modification
time are compared with what was recorded; where they differ the piece is checked again, so that a file that was changed
by others is never passed on as what it was.

Everything here blocks and is run in threads, but for `read_now`. One lock keeps them apart, for moments only; one
thread at a time writes, and others read meanwhile.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import groupby, zip_longest
from pathlib import Path
from threading import Lock

from hivemind_p2p.bt.bitfield import Bitfield
from hivemind_p2p.bt.files import make_folders, read_into, read_up_to, translated, write_all
from hivemind_p2p.bt.hashing import verify_piece
from hivemind_p2p.bt.metainfo import Manifest, ManifestFile, PieceSpan
from hivemind_p2p.bt.piece_log import LOST, OPENED, UNKNOWN, WRITING, PieceLog
from hivemind_p2p.bt.wire import Block
from hivemind_p2p.errors import ContentError, HivemindError, UnsafePathError
from hivemind_p2p.interfaces import Buffer

LONGEST_WRITE = 10 * 10**9
"""Nanoseconds that a disk may take to write one piece: a file changed later than this was changed by somebody else."""

_ARRIVING = "arriving"


class ContentStore:
    """A content on this disk.

    Args:
        manifest: What it is.
        location: The folder in which the content's file or folder lies.
        log: Which pieces lie there.
        shared: Whether these are the user's own files, served from where they lie and never written.
        staged: Whether they arrive beside their place, until `settle`.
    """

    def __init__(
        self, manifest: Manifest, location: Path, log: PieceLog, *, shared: bool = False, staged: bool = False
    ) -> None:
        self.manifest = manifest
        self.location = location
        self.shared = shared
        self.staged = staged
        self.held = Bitfield(manifest.pieces)
        self.held_bytes = 0
        self._log = log
        self._lock = Lock()
        self._one_writer = Lock()
        self._changing: str | None = None
        self._no_wait: int | None = getattr(os, "RWF_NOWAIT", None)
        self._stamps: dict[str, int] = {}
        self._choose_place()
        self._replay()

    def _choose_place(self) -> None:
        # What has the content's name already is completed or mended where it lies.
        self._arriving = self.staged and not os.path.lexists(self.location / self.manifest.name)

    def _replay(self) -> None:
        piece, stamp = 0, OPENED
        for piece, stamp in self._log.read():
            if piece >= self.manifest.pieces:
                continue
            if stamp in {LOST, WRITING}:
                self._drop(piece)
                continue
            self._stamps[self.manifest.piece(piece).file.path] = stamp
            if stamp != OPENED:
                self._hold(piece)
        if stamp == WRITING and piece < self.manifest.pieces:
            self._forgive(self.manifest.piece(piece).file)

    def _forgive(self, file: ManifestFile) -> None:
        """The last process was killed while it wrote to this file: its time is not the recorded one, and yet right."""
        status, written = _status(self.path_of(file)), self._log.modified()
        if status is None or written is None or self.stamp(file) is None:
            return
        if status.st_size == file.length and written <= status.st_mtime_ns <= written + LONGEST_WRITE:
            self._stamps[file.path] = status.st_mtime_ns

    def _hold(self, piece: int) -> None:
        if self.held.add(piece):
            self.held_bytes += self.manifest.length_of(piece)

    def _drop(self, piece: int) -> bool:
        if not self.held.discard(piece):
            return False
        self.held_bytes -= self.manifest.length_of(piece)
        return True

    @property
    def path(self) -> Path:
        """The content's file or folder, where it lies now."""
        return (self._arrivals if self._arriving else self.location) / self.manifest.name

    @property
    def _arrivals(self) -> Path:
        return self.location / arrivals_folder(self.manifest.infohash) / _ARRIVING

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
                    self._hold(piece)

    def intact(self, pieces: Iterable[int]) -> bool:
        """Whether all these pieces are there, in files that nobody has changed."""
        files: dict[str, ManifestFile] = {}
        for piece in pieces:
            if piece not in self.held:
                return False
            file = self.manifest.piece(piece).file
            files[file.path] = file
        return all(self._trusted(file, _status(self.path_of(file))) for file in files.values())

    # -- reading -----------------------------------------------------------------------------------------------------

    def read(self, piece: int, begin: int, length: int) -> memoryview | None:
        """Bytes ``[begin, begin + length)`` of a piece, or None if the piece is not there or not what it was.

        Raises:
            IndexError: The content has no such piece.
        """
        data = memoryview(bytearray(length))
        return data if self.read_into([Block(piece, begin, length)], data) else None

    def read_into(self, blocks: Sequence[Block], memory: memoryview) -> list[Block]:
        """Reads blocks, one behind the other; which of them are there and what they were.

        Raises:
            IndexError: The content has no such piece.
        """
        there: list[Block] = []
        filled = 0
        for block in blocks:
            if self._read_block(block, memory[filled : filled + block.length]):
                there.append(block)
                filled += block.length
        return there

    def read_now(self, blocks: Sequence[Block], memory: memoryview) -> bool:
        """The same where it does not block: all blocks are in the system's memory. False if not, or on any doubt."""
        spans = [self.manifest.piece(block.piece) for block in blocks]
        if self._no_wait is None or not self._lock.acquire(blocking=False):
            return False
        try:
            files = {span.file.path: span.file for span in spans}
            opened = {path: self._open_trusted(file) for path, file in files.items()}
        finally:
            self._lock.release()
        filled = 0
        try:
            for block, span in zip(blocks, spans, strict=True):
                descriptor = opened[span.file.path]
                place = memory[filled : filled + block.length]
                if descriptor is None or block.piece not in self.held or block.begin + block.length > span.length:
                    return False
                if os.preadv(descriptor, [place], span.offset + block.begin, self._no_wait) < block.length:
                    return False
                filled += block.length
        except BlockingIOError:
            return False
        except OSError:
            self._no_wait = None  # this file system cannot tell
            return False
        finally:
            for descriptor in opened.values():
                if descriptor is not None:
                    os.close(descriptor)
        return True

    def _open_trusted(self, file: ManifestFile) -> int | None:
        try:
            descriptor = os.open(self.path_of(file), os.O_RDONLY | os.O_CLOEXEC | self._no_follow)
        except OSError:
            return None
        if self._trusted(file, os.fstat(descriptor)):
            return descriptor
        os.close(descriptor)
        return None

    def _read_block(self, block: Block, place: memoryview) -> bool:
        span = self.manifest.piece(block.piece)
        if block.piece not in self.held or block.begin + block.length > span.length:
            return False
        there = self._read_span(span, block.begin, place)
        if not there:
            # What cannot be recorded now (the disk may be full) is found again after a restart.
            with suppress(ContentError):
                self._lose([block.piece])
        return there

    def _read_span(self, span: PieceSpan, begin: int, place: memoryview) -> bool:
        try:
            with self._lock:  # so that it is not moved in between
                descriptor = os.open(self.path_of(span.file), os.O_RDONLY | os.O_CLOEXEC | self._no_follow)
        except OSError:
            return False
        try:
            # Looked at under the lock: between a write and its record the two differ for a good reason.
            with self._lock:
                trusted = self._trusted(span.file, os.fstat(descriptor))
            if trusted:
                return read_into(descriptor, place, span.offset + begin) == len(place)
            whole = read_up_to(descriptor, span.length, span.offset)
        except OSError:
            return False
        finally:
            os.close(descriptor)
        if not verify_piece(whole, span.expected, leaves=span.leaves):
            return False
        place[:] = memoryview(whole)[begin : begin + len(place)]
        return True

    # -- writing -----------------------------------------------------------------------------------------------------

    def write(self, piece: int, data: Buffer) -> bool:
        """Checks a piece and puts it in its place; False if it does not match the hash tree.

        Raises:
            DiskFullError: There is no room; the piece does not count.
            ContentError: It cannot be written.
        """
        right, failure = self.write_batch([(piece, data)])
        if failure is not None:
            raise failure
        return right[0]

    def write_batch(
        self, batch: Sequence[tuple[int, Buffer]], checked: Sequence[bool | None] = ()
    ) -> tuple[list[bool], HivemindError | None]:
        """Checks pieces and puts them in their places; quickest where those of one file stand together.

        Args:
            batch: Numbers of pieces, and what is to be their bytes.
            checked: Which of them are known to be right or wrong; None, or nothing at all, for those to be checked.

        Returns:
            Whether each was right and is there now, up to the first that could not be written; and why that was.
        """
        right = [
            self._is_right(piece, data) if known is None else known
            for (piece, data), known in zip_longest(batch, checked)
        ]
        for file, numbers in groupby(range(len(batch)), lambda number: self.manifest.piece(batch[number][0]).file):
            group = [number for number in numbers if right[number]]
            written, failure = self._write_to(file, [batch[number] for number in group]) if group else (0, None)
            if failure is not None:
                return right[: group[written]], failure
        return right, None

    def _is_right(self, piece: int, data: Buffer) -> bool:
        span = self.manifest.piece(piece)
        return len(data) == span.length and verify_piece(data, span.expected, leaves=span.leaves)

    def _write_to(self, file: ManifestFile, pieces: Sequence[tuple[int, Buffer]]) -> tuple[int, HivemindError | None]:
        """Writes right pieces of one file; how many, and what kept it from writing the next."""
        written: list[int] = []
        failure: HivemindError | None = None
        with self._one_writer:
            try:
                with self._lock:
                    path = self.path_of(file)
                    with translated(str(path)):
                        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC | self._no_follow)
            except HivemindError as error:
                return 0, error
            known = False
            try:
                known = self._announce(file, descriptor, [piece for piece, _ in pieces])
                for piece, data in pieces:
                    write_all(descriptor, data, self.manifest.piece(piece).offset, path)
                    written.append(piece)
            except HivemindError as error:
                failure = error
            finally:
                # Also where the disk is full: the rest of the file is what it was.
                unrecorded = self._record(file, descriptor, written, known=known)
                os.close(descriptor)
        return (0, unrecorded) if unrecorded is not None else (len(written), failure)

    def _announce(self, file: ManifestFile, descriptor: int, pieces: Sequence[int]) -> bool:
        """Says that pieces are about to be written; whether the file is what it was until now."""
        with self._lock:
            known = self._trusted(file, os.fstat(descriptor))
            self._log.append([(piece, WRITING) for piece in pieces])
            for piece in pieces:
                self._drop(piece)
            if known:
                self._changing = file.path
        return known

    def _record(
        self, file: ManifestFile, descriptor: int, pieces: Sequence[int], *, known: bool
    ) -> HivemindError | None:
        """Notes down that pieces are there; or why that was impossible, in which case they do not count."""
        with self._lock:
            self._changing = None
            stamp = self._stamps[file.path] = os.fstat(descriptor).st_mtime_ns if known else UNKNOWN
            try:
                self._log.append([(piece, stamp) for piece in pieces])
            except HivemindError as error:
                return error
            for piece in pieces:
                self._hold(piece)
        return None

    # -- places ------------------------------------------------------------------------------------------------------

    def settle(self) -> None:
        """Puts the content in its place, once all of it has arrived; does nothing where it lies there already.

        Raises:
            ContentError: Something of that name has come there meanwhile.
        """
        with self._lock:
            place = self.location / self.manifest.name
            if not self._arriving:
                return
            if os.path.lexists(place):
                raise _occupied(place)
            with translated(str(place)):
                os.rename(self.path, place)
            self._arriving = False
            with suppress(OSError):  # others may keep something there
                self._arrivals.rmdir()
                self._arrivals.parent.rmdir()

    def verify(self) -> list[int]:
        """Reads all that is said to be there and checks it; what is wrong is forgotten, so that it is fetched again.

        Returns:
            The pieces that were wrong.

        Raises:
            ContentError: A file cannot be read, or what was found cannot be recorded.
        """
        before = list(self.held)
        for file in self.manifest.files:
            path = self.path_of(file)
            if _status(path) is None:
                self._lose(_pieces(file))
            elif file.pieces and file.path in self._stamps:
                with translated(str(path)):
                    self._check_again(file, path, foreign=False)
        return [piece for piece in before if piece not in self.held]

    def prepare(self, files: Sequence[ManifestFile]) -> None:
        """Makes files ready to be written: creates them, and checks again what was changed by others.

        Raises:
            ContentError: Something else lies where a file should be.
            UnsafePathError: A symbolic link would lead out of the folder.
            DiskFullError: There is no room.
        """
        with self._lock:
            self._choose_place()
        above = (arrivals_folder(self.manifest.infohash), _ARRIVING) if self._arriving else ()
        for file in files:
            parts = above if self.manifest.is_file else (*above, self.manifest.name, *file.path.split("/")[:-1])
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
        elif not path.is_file() or (status.st_size != file.length and not self._arriving):
            raise _occupied(path)
        else:
            if self._arriving and status.st_size != file.length:
                os.truncate(path, file.length)
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
                elif foreign and not self._arriving and any(data):
                    raise _occupied(path)
                else:
                    wrong.append(piece)
        self._lose(wrong)
        with self._lock:
            self._stamps[file.path] = stamp
            self._log.append([(file.first_piece, OPENED), *((piece, stamp) for piece in right)])
            for piece in right:
                self._hold(piece)

    def _lose(self, pieces: Iterable[int]) -> None:
        with self._lock:
            lost = [piece for piece in pieces if self._drop(piece)]
            if lost:
                self._log.append((piece, LOST) for piece in lost)

    def _trusted(self, file: ManifestFile, status: os.stat_result | None) -> bool:
        if status is None or status.st_size != file.length:
            return False
        # What this peer itself writes to now was trusted when it began.
        return file.length == 0 or file.path == self._changing or status.st_mtime_ns == self.stamp(file)

    @property
    def _no_follow(self) -> int:
        # The user's own files may be links inside the shared folder; what this peer wrote never is one.
        return 0 if self.shared else os.O_NOFOLLOW


def arrivals_folder(infohash: bytes) -> str:
    """The name of the hidden folder in which a content arrives, beside the place where it will lie."""
    return f".fetching-{infohash.hex()}"


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
