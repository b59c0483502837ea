"""What a user may ask of a generation, checked before anybody is called."""

from __future__ import annotations

import math
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypedDict

from hivemind_p2p.errors import ConfigurationError
from hivemind_p2p.sharding import quantise, wire
from hivemind_p2p.sharding.requests import MAX_DRAFTS
from hivemind_p2p.sharding.routes import Extras, Patience
from hivemind_p2p.sharding.sampling import MAX_SEED, SamplingOptions


class GenerateOptions(TypedDict, total=False):
    """What can be asked for by keyword. `Model.generate` explains each of them."""

    temperature: float | None
    top_k: int | None
    top_p: float | None
    min_p: float | None
    repetition_penalty: float | None
    seed: int | None
    stop: str | Sequence[str]
    stop_tokens: Sequence[int]
    log_probabilities: int
    speculate: bool | int | None
    draft_model: str | None
    activations: str | None
    wait_for_hosts: float | None


@dataclass(frozen=True, slots=True)
class Options:
    """The same, in the terms of the parts that heed it.

    Attributes:
        sampling: How tokens are chosen.
        extras: What makes it faster.
        stop: Texts before which the text ends.
        ends: Token ids that end the text, beside the model's own.
        wait_for_hosts: Seconds to wait for a host of layers that lack one; None for what the peer does by itself.
    """

    sampling: SamplingOptions
    extras: Extras
    stop: tuple[str, ...] = ()
    ends: frozenset[int] = frozenset()
    wait_for_hosts: float | None = None

    def for_row(self, row: int) -> Options:
        """The same options with a seed of the row's own: equal prompts in a batch are to differ."""
        seed = (self.sampling.seed + row) % (MAX_SEED + 1)
        return replace(self, sampling=replace(self.sampling, seed=seed))

    def patience(self, usual: Patience) -> Patience:
        """How long this generation waits."""
        return usual if self.wait_for_hosts is None else replace(usual, wait_for_hosts=self.wait_for_hosts)


def read(given: Mapping[str, Any]) -> Options:
    """What was asked for; without a seed one is drawn.

    Raises:
        ConfigurationError: There is no such option, or a value is out of range.
    """
    chosen = {name: value for name, value in given.items() if value is not None}
    if unknown := sorted(set(chosen) - set(GenerateOptions.__annotations__)):
        raise ConfigurationError(f"generate knows no option {unknown[0]!r}", hint=f"It knows {', '.join(_known())}.")
    chosen.setdefault("seed", secrets.randbelow(MAX_SEED))
    names = {field.name for field in fields(SamplingOptions)}
    try:
        sampling = SamplingOptions(**{name: value for name, value in chosen.items() if name in names})
    except TypeError as error:
        raise ConfigurationError(f"an option is no number: {error}") from error
    return Options(
        sampling, _extras(chosen), _stop(chosen), _ends(chosen), wait_for_hosts(chosen.get("wait_for_hosts"))
    )


def _known() -> list[str]:
    return ["max_new_tokens", *sorted(GenerateOptions.__annotations__)]


def _extras(chosen: Mapping[str, Any]) -> Extras:
    draft_model = str(chosen.get("draft_model", ""))
    speculate = chosen.get("speculate", bool(draft_model))
    drafts = MAX_DRAFTS if speculate is True else speculate
    if not isinstance(drafts, int) or not 0 <= drafts <= MAX_DRAFTS:
        raise ConfigurationError(f"speculate is True, False, or at most {MAX_DRAFTS} tokens, not {speculate!r}")
    return Extras(int(drafts), draft_model, activations(chosen.get("activations")))


def activations(wanted: str | None) -> str:
    """How hidden states travel; empty for the stages' own dtype.

    Raises:
        ConfigurationError: No stage writes them so.
    """
    if wanted and wanted not in quantise.ENCODINGS:
        raise ConfigurationError(f"activations travel as {', '.join(quantise.ENCODINGS)}, not as {wanted!r}")
    return wanted or ""


def wait_for_hosts(wanted: float | None) -> float | None:
    """Seconds to wait for a host.

    Raises:
        ConfigurationError: That is no time to wait.
    """
    if wanted is not None and not (math.isfinite(wanted) and wanted >= 0):
        raise ConfigurationError(f"wait_for_hosts is a number of seconds, not {wanted}")
    return wanted


def _stop(chosen: Mapping[str, Any]) -> tuple[str, ...]:
    stop = chosen.get("stop", ())
    texts = (stop,) if isinstance(stop, str) else tuple(stop)
    if wrong := [each for each in texts if not isinstance(each, str) or not each]:
        raise ConfigurationError(f"a stop text is a text, not {wrong[0]!r}", hint="Give token ids as stop_tokens.")
    return texts


def _ends(chosen: Mapping[str, Any]) -> frozenset[int]:
    found = frozenset(chosen.get("stop_tokens", ()))
    if any(type(token) is not int or token < 0 for token in found) or len(found) > wire.MAX_ENDS:
        raise ConfigurationError(f"stop_tokens are at most {wire.MAX_ENDS} token ids")
    return found


__all__ = ["GenerateOptions", "Options", "activations", "read", "wait_for_hosts"]
