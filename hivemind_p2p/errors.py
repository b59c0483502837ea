"""Every error that this library raises on purpose.

All of them descend from `HivemindError` and carry two sentences: what happened (with the peer and the thing
that was tried) and what to do about it (`hint`). Only `net/` turns libp2p's exceptions into these.

    HivemindError
    ├── ConfigurationError            a flag, environment variable or config file is wrong
    ├── IdentityError                 a key file is missing, unreadable or not an Ed25519 key
    ├── HiveKeyError                  the key file of a private hive is missing, unreadable or no key
    ├── NetworkError
    │   ├── AddressError              a multiaddr cannot be understood
    │   ├── PortInUseError            another process listens on the port
    │   ├── PeerUnreachableError      no address of a peer answered
    │   │   └── BootstrapUnreachableError
    │   │       └── PrivateHiveError  the hive is private, and this peer has no key for it, or another one
    │   ├── HandshakeError            a peer could not prove who it is, or does not have the hive's key
    │   ├── StreamClosedError         the other side ended a stream, or vanished, in mid-conversation
    │   ├── DeadlineExceededError     a peer did not answer in time
    │   ├── ProtocolError             a peer sent something malformed or too large
    │   │   └── NotSpokenError        a peer does not speak the protocol that was asked for
    │   ├── BusyError                 a peer has no room for another request
    │   └── RemoteError               the other side failed for a reason that has no class here
    ├── DirectoryError
    │   ├── RecordError               a record is forged, expired or too large
    │   └── NoRecordError             nothing is stored under a key
    ├── ContentError
    │   ├── LinkError                 not a link
    │   ├── ManifestError             a manifest is malformed or does not match its link
    │   ├── UnsafePathError           a path would leave the folder that it belongs to
    │   ├── NoSourceError             nobody has the pieces that are missing
    │   ├── CorruptPieceError         bytes do not match the hash tree
    │   ├── DiskFullError             no room left on the disk
    │   └── QuotaError                no room left in what this peer may use of it
    ├── ModelError
    │   ├── CheckpointError           a folder is no (complete) checkpoint
    │   ├── UnsupportedModelError     transformers does not know the architecture, or its layers form no list
    │   ├── MissingLayersError        no peer hosts some of the layers
    │   ├── PromptTooLongError        prompt and answer do not fit the model's context
    │   └── GenerationError           a generation failed and no route was left to go on with
    ├── TaskError
    │   ├── NotSerializableError      a function or its arguments cannot be packed
    │   ├── UnsafeValueError          a result is no safe value
    │   ├── ArchiveError              a zip archive is damaged, too large, or would write elsewhere
    │   ├── TaskTypeError             a task type has no proper name, or nothing that runs
    │   ├── UnknownTaskTypeError      a peer does not know the task type
    │   ├── TaskRefusedError          a peer will not or cannot run the task
    │   ├── NoPeerError               no offer fits what the task needs
    │   ├── TaskFailedError           the function raised; `remote_traceback` says where
    │   ├── TaskTimeoutError          the task ran longer than it was allowed to
    │   ├── TaskMemoryError           the task used more memory than it was allowed to
    │   ├── TaskCrashedError          the child process died (killed, segmentation fault, exit)
    │   ├── TaskLostError             a task that must not run twice may have begun on a lost peer
    │   ├── UnknownJobError           there is no job of this id, or nothing was kept of it
    │   ├── DisagreementError         the peers that were asked for the same result did not agree
    │   └── SandboxError              the sandbox could not be set up
    └── CreditError
        ├── AuthenticationError       wrong password, or no such account
        ├── AccountExistsError        the username is taken
        ├── AccountRequiredError      the peer is not linked to an account
        ├── InsufficientCreditsError  the balance does not cover a hold
        ├── VoucherError              a voucher, hold or receipt is forged, spent or does not add up
        └── PaymentRequiredError      a peer wants to be paid before it goes on
"""

from __future__ import annotations

import re
from typing import ClassVar


class HivemindError(Exception):
    """The root of the tree.

    Args:
        message: One sentence: which peer or thing, what was tried, what went wrong.
        hint: One sentence: what the reader can do about it. Falls back to the class's own.
    """

    default_hint: ClassVar[str] = "Run the command again with -v to see the details."

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint or self.default_hint
        # A traceback, in a notebook too, shows notes below the message.
        self.add_note(f"hint: {self.hint}")

    @classmethod
    def code(cls) -> str:
        """The name of this class on the wire, for example ``peer_unreachable``."""
        return re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__.removesuffix("Error")).lower()


class ConfigurationError(HivemindError):
    """A flag, environment variable or config file is wrong."""

    default_hint = "Correct the setting that is named above."


class IdentityError(HivemindError):
    """A key file is missing, unreadable or not an Ed25519 key."""

    default_hint = "Restore the key file from a backup, or move it away to get a new identity."


class HiveKeyError(HivemindError):
    """The key file of a private hive is missing, unreadable or no key."""

    default_hint = "Ask the hive's operator for the key file and pass it with --hive-key."


class NetworkError(HivemindError):
    """Something between two peers went wrong."""

    default_hint = "Check that the other peer runs and that the network between you is up."


class AddressError(NetworkError):
    """A multiaddr cannot be understood."""

    default_hint = "An address looks like /ip4/127.0.0.1/tcp/4001/p2p/12D3KooW..."


class PortInUseError(NetworkError):
    """Another process listens on the port."""

    default_hint = "Choose another port, or port 0 for any free one."


class PeerUnreachableError(NetworkError):
    """No address of a peer answered."""


class BootstrapUnreachableError(PeerUnreachableError):
    """The bootstrap did not answer."""

    default_hint = "Check the bootstrap's address and that `hivemind-bootstrap run` is running there."


class PrivateHiveError(BootstrapUnreachableError):
    """The hive is private, and this peer has no key for it, or another one."""

    default_hint = "Ask its operator for the key file and pass it with --hive-key."


class HandshakeError(NetworkError):
    """A peer could not prove who it is, or does not have the hive's key."""

    default_hint = "Check that the address is that peer's, and that both have the same hive key, or none."

    def __init__(self, message: str, *, hint: str | None = None, found: str = "") -> None:
        super().__init__(message, hint=hint)
        self.found = found
        """The id of a peer that has proven to be another than the one that was called."""


class StreamClosedError(NetworkError):
    """The other side ended a stream, or vanished, in mid-conversation."""


class DeadlineExceededError(NetworkError):
    """A peer did not answer in time."""


class ProtocolError(NetworkError):
    """A peer sent something malformed or too large."""

    default_hint = "The other peer may run another version of hivemind_p2p, or be broken."


class NotSpokenError(ProtocolError):
    """A peer does not speak the protocol that was asked for."""

    default_hint = "The service behind it is not switched on there, or that peer runs another version."


class BusyError(NetworkError):
    """A peer has no room for another request."""

    default_hint = "Try again in a moment."


class RemoteError(NetworkError):
    """The other side failed for a reason that has no class here."""

    default_hint = "The log of the other peer has the traceback."


class DirectoryError(HivemindError):
    """The DHT could not store or find a record."""


class RecordError(DirectoryError):
    """A record is forged, expired or too large."""


class NoRecordError(DirectoryError):
    """Nothing is stored under a key."""


class ContentError(HivemindError):
    """A content could not be shared or fetched."""


class LinkError(ContentError):
    """Not a link."""

    default_hint = "A link looks like magnet:?xt=urn:btmh:1220..., as `share` prints it."


class ManifestError(ContentError):
    """A manifest is malformed or does not match its link."""


class UnsafePathError(ContentError):
    """A path would leave the folder that it belongs to."""


class NoSourceError(ContentError):
    """Nobody has the pieces that are missing."""

    default_hint = "Keep a peer running that shares this content, then fetch it again: what has arrived is kept."


class CorruptPieceError(ContentError):
    """Bytes do not match the hash tree."""


class DiskFullError(ContentError):
    """No room left on the disk."""

    default_hint = "Free some room, then fetch again: what has arrived is kept."


class QuotaError(ContentError):
    """No room left in what this peer may use of the disk."""

    default_hint = "Allow more with --storage, or make room with `hivemind-peer swarm unpin` or `swarm rm`."


class ModelError(HivemindError):
    """A model could not be loaded or run."""


class CheckpointError(ModelError):
    """A folder is no (complete) checkpoint."""

    default_hint = "A checkpoint folder holds config.json, *.safetensors and tokenizer.json."


class UnsupportedModelError(ModelError):
    """The model library does not know the architecture, or its layers form no list."""


class MissingLayersError(ModelError):
    """No peer hosts some of the layers."""

    default_hint = "Start more peers with `hivemind-peer run --serve-models any`."


class PromptTooLongError(ModelError):
    """Prompt and answer do not fit the model's context."""

    default_hint = "Shorten the prompt or lower max_new_tokens."


class GenerationError(ModelError):
    """A generation failed and no route was left to go on with."""


class TaskError(HivemindError):
    """A task could not be run."""


class NotSerializableError(TaskError):
    """A function or its arguments cannot be packed."""

    default_hint = "Pass plain data, and open files, locks and connections inside the function."


class UnsafeValueError(TaskError):
    """A result is no safe value."""

    default_hint = "Return numbers, strings, bytes, lists, tuples, dicts, dataclasses, numpy arrays or torch tensors."


class ArchiveError(TaskError):
    """A zip archive is damaged, too large, or would write elsewhere."""

    default_hint = "Pack plain files and folders with relative names, without links, comment or password."


class TaskTypeError(TaskError):
    """A task type has no proper name, or nothing that runs."""

    default_hint = "Write a name like word-count/1 over a function of the payload or a class with a method run."


class UnknownTaskTypeError(TaskError):
    """A peer does not know the task type."""


class TaskRefusedError(TaskError):
    """A peer will not or cannot run the task."""


class NoPeerError(TaskError):
    """No offer fits what the task needs."""

    default_hint = "Ask for less with needs=hm.Needs(...), or start a peer that lends more."


class TaskFailedError(TaskError):
    """The function raised on the peer that ran it.

    Attributes:
        remote_traceback: The traceback as text, from the child process.
    """

    default_hint = "The remote traceback shows the line; on the command line -v prints it."

    def __init__(self, message: str, *, hint: str | None = None, remote_traceback: str = "") -> None:
        super().__init__(message, hint=hint)
        self.remote_traceback = remote_traceback

    def __str__(self) -> str:
        if not self.remote_traceback:
            return self.message
        return f"{self.message}\n\nRemote traceback:\n{self.remote_traceback.rstrip()}"


class TaskTimeoutError(TaskError):
    """The task ran longer than it was allowed to."""

    default_hint = "Allow more time with needs=hm.Needs(seconds=...)."


class TaskMemoryError(TaskError):
    """The task used more memory than it was allowed to."""

    default_hint = "Ask for more with needs=hm.Needs(memory=...)."


class TaskCrashedError(TaskError):
    """The child process died."""

    default_hint = "Look for what ends a whole process in the function: os._exit, or native code that crashes."


class TaskLostError(TaskError):
    """A task that must not run twice may have begun on a peer that was lost."""

    default_hint = "Look whether it had an effect. If it may run twice, say so: idempotent=True."


class UnknownJobError(TaskError):
    """There is no job of this id, or nothing was kept of it."""

    default_hint = "Only jobs that were started with keep=True are found again; hive.jobs() lists them."


class DisagreementError(TaskError):
    """The peers that were asked for the same result did not agree."""

    default_hint = "Look whether the function gives the same each time; for numbers, allow a tolerance in the quorum."


class SandboxError(TaskError):
    """The sandbox could not be set up."""


class CreditError(HivemindError):
    """Something about accounts or credits went wrong."""


class AuthenticationError(CreditError):
    """Wrong password, or no such account."""

    default_hint = "Check the username and the password."


class AccountExistsError(CreditError):
    """The username is taken."""

    default_hint = "Choose another username, or log in with its password."


class AccountRequiredError(CreditError):
    """The peer is not linked to an account."""

    default_hint = "Connect with username=... and password=..."


class InsufficientCreditsError(CreditError):
    """The balance does not cover a hold."""

    default_hint = "Earn credits by lending a machine (`hivemind-peer run`), or ask the operator for some."


class VoucherError(CreditError):
    """A voucher, hold or receipt is forged, spent or does not add up."""


class PaymentRequiredError(CreditError):
    """A peer wants to be paid before it goes on."""

    default_hint = "Connect with username=... and password=...: without an account only what is free can be used."


def _tree(root: type[HivemindError]) -> dict[str, type[HivemindError]]:
    classes: dict[str, type[HivemindError]] = {}
    for child in root.__subclasses__():
        classes |= _tree(child)
    # A class that was made of this one for a single use has its code, and does not stand for it.
    return classes | {root.code(): root}


def from_code(code: str, message: str, hint: str | None = None) -> HivemindError:
    """The error that a peer reported, as an instance of the class it has here.

    A code that this version does not know becomes a `RemoteError`, so a newer peer can add classes.
    """
    known = _tree(HivemindError).get(code)
    if known is None:
        return RemoteError(f"{message} ({code})", hint=hint)
    return known(message, hint=hint)
