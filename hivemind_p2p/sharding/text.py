"""Text between tokens: a prompt to ids, and ids to pieces of text as they come.

One token is not one piece of text. A byte-level token may hold half a character, and some tokenizers write a space
before a word only if another stands before it. So each new token is decoded together with a few before it, and
nothing is shown that the next token could still change.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hivemind_p2p.errors import CheckpointError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

REPLACEMENT = "\ufffd"
"""What a tokenizer decodes bytes to that are no whole character."""

LONGEST_CHARACTER = 8
"""Tokens that one character can be spread over (UTF-8 has 4 bytes at most; some emoji are longer sequences). If the
text still ends in a replacement after so many, the bytes are no character at all and are shown as they are."""

CONTEXT = 6
"""Tokens before the new ones that are decoded along, so that the decoder knows what stands before a word."""


def load_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer in a tokenizer.json.

    Raises:
        CheckpointError: It is missing or malformed.
    """
    from tokenizers import Tokenizer

    if not path.is_file():
        raise CheckpointError(
            f"{path.name} is missing in {path.parent}", hint="Give token ids instead of text, and get token ids back."
        )
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the tokenizers library raises nothing narrower
        raise CheckpointError(f"{path.name} cannot be read: {error}") from error
    # Some files keep what their last user had switched on.
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


class TextStream:
    """Turns the tokens of one generation into pieces of text whose sum is the decoded whole.

    Args:
        tokenizer: Says what ids mean.
        prompt: The ids before the first new one.
        stop: The text ends before the first of these.
    """

    def __init__(self, tokenizer: Tokenizer, prompt: Sequence[int], stop: Sequence[str] = ()) -> None:
        self._tokenizer = tokenizer
        self._ids = list(prompt[-CONTEXT:])
        self._from = 0
        """Where decoding starts; what stands between it and `_shown` is context."""
        self._shown = len(self._ids)
        self._stop = tuple(text for text in stop if text)
        self._held = ""
        self.stopped = False

    def push(self, token: int) -> str:
        """The text that can be shown now that this token came; often empty."""
        self._ids.append(token)
        before, after = self._decode(self._shown), self._decode(len(self._ids))
        waiting = len(self._ids) - self._shown < LONGEST_CHARACTER
        if after.endswith(REPLACEMENT) and waiting:
            return ""
        return self._show(after[len(before) :])

    def finish(self) -> str:
        """What was still held back."""
        if self.stopped:
            return ""
        before, after = self._decode(self._shown), self._decode(len(self._ids))
        piece = self._show(after[len(before) :])
        rest, self._held = self._held, ""
        return piece if self.stopped else piece + rest

    def _decode(self, stop: int) -> str:
        return str(self._tokenizer.decode(self._ids[self._from : stop], skip_special_tokens=True))

    def _show(self, text: str) -> str:
        self._from = max(self._from, self._shown - CONTEXT)
        self._shown = len(self._ids)
        self._from = min(self._from, self._shown)
        return self._until_stop(text)

    def _until_stop(self, text: str) -> str:
        if self.stopped:
            return ""
        text = self._held + text
        found = [place for stop in self._stop if (place := text.find(stop)) >= 0]
        if found:
            self.stopped, self._held = True, ""
            return text[: min(found)]
        keep = max((_overlap(text, stop) for stop in self._stop), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]


def _overlap(text: str, stop: str) -> int:
    """How many characters at the end of the text could be the beginning of `stop`."""
    return next((size for size in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:size])), 0)
