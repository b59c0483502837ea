"""The model card of the tiny language model: what it is, how it was made, what it can't do.

The card follows https://huggingface.co/docs/hub/model-cards: a Markdown file, `README.md`,
that opens with a few lines of YAML for machines.
"""

from __future__ import annotations

import math
import platform
from collections.abc import Mapping
from pathlib import Path

from hivemind_p2p.testing.tiny_recipe import Figures, Recipe

CARD = """\
---
license: apache-2.0
language: [code]
library_name: transformers
pipeline_tag: text-generation
tags: [llama, tiny, python]
---

# {name}

A very small language model that writes something that looks like Python. The hivemind_p2p
project trained it from nothing, on one CPU core, so that its demo, notebooks and tests have a
real checkpoint to split over several peers, with no download. It is a plain Hugging Face folder:

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{name}")
model = AutoModelForCausalLM.from_pretrained("{name}")
ids = tokenizer("def main(", return_tensors="pt")
print(tokenizer.decode(model.generate(**ids, max_new_tokens=60)[0]))
```

## What it is

| | |
|---|---|
| architecture | Llama, {layers} layers |
| sizes | hidden {hidden_size}, feed-forward {intermediate_size} |
| attention | {attention_heads} query heads, {key_value_heads} key-value heads |
| parameters | {parameters:,}, saved in bfloat16; the head shares the embedding's weights |
| vocabulary | {vocabulary_size:,} tokens, byte-level BPE, learned from the same text |
| context | trained on windows of {window_tokens} tokens; further on it gets worse |

## How it was made

```
python -m hivemind_p2p.testing.tiny_model --out {name} --minutes {minutes:g}
```

- **Text:** the sources of Python {python}'s standard library as installed, without tests, IDLE,
  lib2to3 and generated tables: {training_tokens:,} tokens. Whole files, chosen by the hash of
  their names, were held out: {held_out_tokens:,} tokens.
- **Training:** {steps:,} steps of {batch_windows} windows, {tokens_seen:,} tokens in all
  ({epochs:.1f} times through the text), in {elapsed_minutes:.1f} minutes with {threads} thread(s). Muon for the
  matrices inside the layers (peak learning rate {muon_learning_rate:g}), AdamW for the rest
  ({adam_learning_rate:g}), warm-up and cosine to zero, bfloat16 autocast, seed {seed}.
- Four runs of 72 seconds, measured on the same held-out files, guided the choice of learning
  rates and batch size.
- The schedule follows the clock, so a second run gives a like model, not the same numbers.

## How good it is

| on held-out files | |
|---|---|
| loss | {held_out_loss:.3f} nats a token (a perplexity of {perplexity:.1f}) |
| for comparison, loss on the training text | {training_loss:.3f} nats a token |
| bits per byte | {bits_per_byte:.3f} |

Measured on the saved bfloat16 weights, in windows of {window_tokens} tokens. What it writes when
it always takes the likeliest token, after each of {prompts}:

{samples}

## What it can't do

- It knows the look of Python, not its meaning: the text is rarely valid for long, names come
  from nowhere, and greedy text falls into repetition: after most prompts within a few lines,
  after some at once. The prompts above are among the better ones; sampling loops less.
- It answers no questions and follows no instructions. It has seen no language but Python's
  and the English of its comments.
- It may repeat lines of the standard library word for word.
- A prompt should stop in the middle of a line: a line's end and the indentation after it are one
  token, so a prompt that ends with a line break is nothing it has seen.
- Don't use what it writes for anything but looking at.

## Licence

The weights, like the project, are under the Apache License 2.0. The text that they were learned
from is the Python standard library, © Python Software Foundation and contributors, under the
[PSF License Agreement](https://docs.python.org/3/license.html); none of it is in this folder
as text, apart from pieces of words in the vocabulary and what the samples above may echo.
"""


def write_card(folder: Path, recipe: Recipe, figures: Figures, samples: Mapping[str, str]) -> None:
    """Write the model card.

    Args:
        folder: the checkpoint; its name becomes the model's.
        recipe: how it was trained.
        figures: what came out.
        samples: texts that the model wrote, by their prompts, which they begin with.
    """
    values = vars(recipe) | vars(figures)
    card = CARD.format(
        **values,
        name=folder.resolve().name,
        python=platform.python_version(),
        epochs=figures.tokens_seen / figures.training_tokens,
        elapsed_minutes=figures.seconds / 60,
        perplexity=math.exp(figures.held_out_loss),
        prompts=", ".join(f"`{prompt}`" for prompt in samples),
        samples="\n\n".join(f"```python\n{text.rstrip()}\n```" for text in samples.values()),
    )
    (folder / "README.md").write_text(card, encoding="utf-8")
