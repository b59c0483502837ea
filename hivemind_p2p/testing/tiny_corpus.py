"""The text that the tiny language model learns from, and the tokenizer that cuts it up.

The text is the Python standard library as it lies on this machine: everyone who has
Python has it, so the training can be repeated anywhere without a download.
"""

from __future__ import annotations

import hashlib
import sysconfig
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Tokenizer

END_OF_TEXT = "<|endoftext|>"
"""The one special token: it stands between two files and ends a generation."""

END_OF_TEXT_ID = 0
"""Special tokens come first in the vocabulary."""

HELD_OUT_SHARE = 50
"""About one file in this many is kept from the training, to measure the loss on text never seen."""

SKIPPED_FOLDERS = frozenset(
    {
        "__pycache__",
        "encodings",  # tables of characters, generated
        "idlelib",
        "lib2to3",
        "lib-dynload",
        "msilib",  # tables of the Windows installer
        "pydoc_data",  # the whole language reference as one string
        "site-packages",
        "test",
        "tests",
        "idle_test",
        "turtledemo",
    }
)
SKIPPED_FILES = frozenset(
    {
        "_casefix.py",  # a generated table
        "entities.py",  # the HTML entities, a table
        "locale.py",  # mostly a table of aliases
        "stringprep.py",  # tables of RFC 3454
        "this.py",  # a poem in ROT13
    }
)
SKIPPED_PREFIX = "_sysconfigdata"
"""Generated when Python was built, and full of this machine's paths."""

LONGEST_FILE = 400_000
"""Bytes. Nothing written by hand in the standard library is larger."""


@dataclass(frozen=True)
class Corpus:
    """Whole source files, divided once and for all into two parts.

    Attributes:
        training: what the model and its tokenizer learn from.
        held_out: what the loss is measured on.
    """

    training: tuple[str, ...]
    held_out: tuple[str, ...]


def standard_library_folder() -> Path:
    """Return the folder of this interpreter's standard library."""
    return Path(sysconfig.get_path("stdlib"))


def is_wanted(relative: Path) -> bool:
    """Tell whether a source file is worth learning from.

    Args:
        relative: the file's path inside the standard library's folder.
    """
    if SKIPPED_FOLDERS.intersection(relative.parts[:-1]):
        return False
    return relative.name not in SKIPPED_FILES and not relative.name.startswith(SKIPPED_PREFIX)


def is_held_out(relative: Path) -> bool:
    """Tell whether a file belongs to the held-out part; depends on its name alone."""
    digest = hashlib.sha256(relative.as_posix().encode()).digest()
    return digest[0] % HELD_OUT_SHARE == 0


def read_corpus(folder: Path) -> Corpus:
    """Read every wanted ``*.py`` file below a folder, in the order of their names.

    Args:
        folder: for instance `standard_library_folder()`.

    Raises:
        FileNotFoundError: the folder holds too little Python to train on.
    """
    training: list[str] = []
    held_out: list[str] = []
    for path in sorted(folder.rglob("*.py")):
        relative = path.relative_to(folder)
        if not is_wanted(relative) or path.stat().st_size > LONGEST_FILE:
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        (held_out if is_held_out(relative) else training).append(text)
    if not training or not held_out:
        raise FileNotFoundError(
            f"{folder} holds too few Python files to train on. "
            "Name the folder of a Python standard library, or of a large project."
        )
    return Corpus(tuple(training), tuple(held_out))


def train_tokenizer(texts: Iterable[str], vocabulary_size: int) -> Tokenizer:
    """Learn a byte-level BPE vocabulary (Sennrich et al. 2016; GPT-2's byte alphabet).

    Args:
        texts: what to learn from.
        vocabulary_size: tokens, the 256 bytes and `END_OF_TEXT` among them.

    Returns:
        A tokenizer that can write any text without an unknown token, and read it back
        byte for byte. `END_OF_TEXT` has the id `END_OF_TEXT_ID`.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def encode_texts(tokenizer: Tokenizer, texts: Sequence[str]) -> list[int]:
    """Return the token ids of all texts in one row, `END_OF_TEXT` after each."""
    ids: list[int] = []
    for encoding in tokenizer.encode_batch(list(texts)):
        ids.extend(encoding.ids)
        ids.append(END_OF_TEXT_ID)
    return ids
