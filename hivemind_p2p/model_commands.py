"""``hivemind-peer generate`` and ``hivemind-peer embed``: what a published model makes of texts."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hivemind_p2p.options import AsJson, Bootstrap, HiveKeyFile, Identity, Username, Verbose
from hivemind_p2p.program import connected, print_json

if TYPE_CHECKING:
    from hivemind_p2p.model import Model
    from hivemind_p2p.sharding.results import ScoredText, ScoredToken

Link = Annotated[str, typer.Argument(help="The link of a published model.")]
Activations = Annotated[
    str | None, typer.Option(help="bfloat16 or int8: fewer bytes between stages, not exactly the same numbers.")
]
WaitForHosts = Annotated[
    float | None, typer.Option(help="Seconds to wait for a host of layers that have lost theirs; 30 by default.")
]


def generate(  # noqa: PLR0913, PLR0917 - options of a command
    link: Link,
    prompts: Annotated[list[str], typer.Argument(help="What to go on with; several run side by side.")],
    max_new_tokens: Annotated[int, typer.Option(help="How many tokens to add at most.", min=1)] = 50,
    temperature: Annotated[float, typer.Option(help="0 is greedy.", min=0.0)] = 0.0,
    top_k: Annotated[int, typer.Option(help="Draw from the likeliest so many tokens; 0 from all.", min=0)] = 0,
    top_p: Annotated[float, typer.Option(help="Draw from the likeliest tokens up to this probability.")] = 1.0,
    min_p: Annotated[float, typer.Option(help="Draw from tokens this many times as likely as the likeliest.")] = 0.0,
    repetition_penalty: Annotated[float, typer.Option(help="Above 1, what was said comes less often.")] = 1.0,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same text.")] = None,
    stop: Annotated[list[str] | None, typer.Option(help="A text before which to end; may be repeated.")] = None,
    log_probabilities: Annotated[
        int, typer.Option(help="Show the new tokens' log-probabilities, and those of so many less one others.", min=0)
    ] = 0,
    speculate: Annotated[bool, typer.Option("--speculate", help="Guess ahead: faster on text that repeats.")] = False,
    draft_model: Annotated[str | None, typer.Option(help="The link of a small model that guesses ahead.")] = None,
    activations: Activations = None,
    wait_for_hosts: WaitForHosts = None,
    bootstrap: Bootstrap = None,
    username: Username = None,
    identity: Identity = None,
    hive_key: HiveKeyFile = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Generate text with a model that is spread over the hive."""
    options: dict[str, Any] = {
        "max_new_tokens": max_new_tokens,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "min_p": min_p,
        "repetition_penalty": repetition_penalty,
        "seed": seed,
        "stop": stop or (),
        "log_probabilities": log_probabilities,
        "speculate": speculate or None,
        "draft_model": draft_model,
        "activations": activations,
        "wait_for_hosts": wait_for_hosts,
    }
    with connected(bootstrap, username, identity, hive_key, as_json=as_json, verbose=verbose) as hive:
        model = hive.load_model(link, progress=not as_json)
        if log_probabilities:
            for text in model.generate(prompts, **options):
                _show_scored(text, as_json=as_json)
        elif as_json or len(prompts) > 1:
            for text in model.generate(prompts, **options):
                print_json({"text": text}) if as_json else typer.echo(f"{text}\n")
        else:
            _show_as_it_comes(model, prompts[0], options)


def _show_as_it_comes(model: Model, prompt: str, options: dict[str, Any]) -> None:
    typer.echo(prompt, nl=False)
    for piece in model.generate(prompt, stream=True, **options):
        typer.echo(piece, nl=False)
    typer.echo()


def _show_scored(text: ScoredText, *, as_json: bool) -> None:
    if as_json:
        print_json({"text": text.text, "tokens": [asdict(token) for token in text.tokens]})
        return
    typer.echo(f"{text.text}\n")
    for token in text.tokens:
        typer.echo(_scored_line(token))
    typer.echo(f"{text.log_probability:8.3f}  in all\n")


def _scored_line(token: ScoredToken) -> str:
    others = ", ".join(f"{each.text!r} {each.log_probability:.3f}" for each in token.likeliest)
    return f"{token.log_probability:8.3f}  {token.text!r}" + (f"  of {others}" if others else "")


def embed(  # noqa: PLR0913, PLR0917 - options of a command
    link: Link,
    texts: Annotated[list[str] | None, typer.Argument(help="Texts; without any, each line of stdin is one.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write the vectors to this file, as a numpy array.")] = None,
    prompt: Annotated[str | None, typer.Option(help="The name of one of the model's prompts.")] = None,
    activations: Activations = None,
    wait_for_hosts: WaitForHosts = None,
    bootstrap: Bootstrap = None,
    username: Username = None,
    identity: Identity = None,
    hive_key: HiveKeyFile = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Make a vector of each text, with an encoder that is spread over the hive: one JSON list a line, or a file."""
    given = texts or [line.rstrip("\n") for line in sys.stdin]
    with connected(bootstrap, username, identity, hive_key, as_json=as_json, verbose=verbose) as hive:
        model = hive.load_model(link, progress=not as_json and out is not None)
        vectors = model.embed(given, prompt=prompt, activations=activations, wait_for_hosts=wait_for_hosts)
    if out is not None:
        import numpy as np

        with out.open("wb") as file:
            np.save(file, vectors)
        told = {"path": str(out), "shape": list(vectors.shape)}
        print_json(told) if as_json else typer.echo(
            f"wrote {out}: {len(vectors)} vectors of {vectors.shape[1]} numbers"
        )
        return
    _show_vectors(given, vectors, as_json=as_json)


def _show_vectors(texts: Sequence[str], vectors: Any, *, as_json: bool) -> None:
    for text, vector in zip(texts, vectors.tolist(), strict=True):
        print_json({"text": text, "vector": vector} if as_json else vector)
