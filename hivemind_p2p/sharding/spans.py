"""Fetching the layers that a peer will host, and little else.

First the small files (config, index, and the tokenizer, so that who only prompts finds it with any host), then the
headers of the weights files that hold the layers, then the layers' bytes. All that comes beside them is what a range
lacks to whole pieces. What has arrived is served to others at once, so peers that host a part each are a full source
together.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import trio

from hivemind_p2p.interfaces import Content, Progress
from hivemind_p2p.sharding import checkpoint as checkpoints
from hivemind_p2p.types import LayerSpan, Link


async def read_span(content: Content, link: Link, span: LayerSpan) -> tuple[Path, checkpoints.Checkpoint]:
    """What a link holds, as far as some layers need it: from the small files and the headers.

    Returns:
        The folder in which it lies in part, and the checkpoint; it can tell of these layers only.

    Raises:
        CheckpointError: The link holds no checkpoint, or the model has no such layers.
        ContentError: It cannot be fetched.
    """
    files = await content.files(link)
    folder = await content.fetch(link, wanted=checkpoints.small_files(files))
    weights = await trio.to_thread.run_sync(checkpoints.weight_files, folder, files, span)
    await content.fetch(link, wanted=checkpoints.first_header_ranges(weights))
    await content.fetch(link, wanted=checkpoints.header_ranges(folder, weights))
    return folder, await trio.to_thread.run_sync(partial(checkpoints.read, folder, files, span))


async def fetch_span(
    content: Content, link: Link, span: LayerSpan, progress: Progress | None = None
) -> tuple[Path, checkpoints.Checkpoint]:
    """Fetches some layers of a checkpoint.

    Returns:
        The folder, in which the bytes of all other layers are holes, and the checkpoint.

    Raises:
        CheckpointError: The link holds no checkpoint, or the model has no such layers.
        ContentError: It cannot be fetched.
    """
    _, checkpoint = await read_span(content, link, span)
    folder = await content.fetch(link, wanted=checkpoint.ranges(span), progress=progress)
    return folder, checkpoint
