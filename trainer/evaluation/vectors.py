"""Sentence vectors from any layer of an encoder: sentences in packs without padding, every rank its share of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from trainer import distributed, engine
from trainer.config import RunConfig
from trainer.data.packing import pack_in_order
from trainer.distributed import World
from trainer.errors import UserError
from trainer.model.attention import choose_attention
from trainer.model.encoder import load_encoder, load_tokenizer, position_offset
from trainer.model.fused import fuse

POOLING = ("mean", "cls")
MAX_LENGTH = 512  # tokens a sentence, special ones included (XTREME)
# What XTREME takes of encoders of so many layers: scripts/run_tatoeba.sh has LAYER=13 for XLM-R Large and 7 for mBERT,
# counted from 0 without the embeddings.
XTREME_LAYERS = {24: 14, 12: 8}
CHUNK = 8192  # sentences tokenised at a time: what a tokenizer returns is far larger than the ids that are kept


def open_encoder(name: str, config: RunConfig, world: World) -> tuple[torch.nn.Module, Any]:
    """The encoder of a Hugging Face folder or hub name, ready for packs on this rank's device; and its tokenizer.

    Of the recipe `model.revision`, `kernels` and `engine.dtype` apply.

    Raises:
        UserError: not found, the hub is out of reach, an unsupported architecture, or weights are missing.
    """
    model = dataclasses.replace(config.model, encoder=str(name), tokenizer=None, init="pretrained")
    config = dataclasses.replace(config, model=model)
    dtype = engine.DTYPES[engine.choose_dtype(config, world.device)]
    attention, _ = choose_attention(config.kernels.attention, world.device, dtype)
    tokenizer = load_tokenizer(config)
    encoder, _ = load_encoder(config, attention)
    if config.kernels.layers == "fused":
        fuse(encoder, attention, compiled=False)
    return encoder.to(world.device, dtype).eval(), tokenizer


def choose_layer(layer: int | str | None, encoder: torch.nn.Module) -> int:
    """An index into the encoder's hidden states: 0 for the embeddings, then one a layer.

    Args:
        layer: such an index; -1 or "last" for the last one; None for XTREME's: 14 of 24, 8 of 12; of others, as
            deep as 14 of 24.

    Raises:
        UserError: the encoder has no such layer.
    """
    last = len(encoder.encoder.layer)
    if layer is None:
        return XTREME_LAYERS.get(last, round(last * 14 / 24))
    if layer in (-1, "last", "-1"):
        return last
    if not str(layer).isdecimal() or int(layer) > last:
        raise UserError(
            f"the encoder has no layer {layer}",
            why=f"its hidden states are counted from 0, the embeddings, to {last}, the last layer",
            fix=f"--layer 0 to {last}, or last",
        )
    return int(layer)


@torch.no_grad()
def sentence_vectors(
    encoder: torch.nn.Module,
    tokenizer,
    sentences: Sequence[str],
    layers: Sequence[int],
    world: World,
    pooling: str = "mean",
    pack_tokens: int = 16384,
    max_length: int = MAX_LENGTH,
    counts: dict[str, int] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> torch.Tensor:
    """Vectors of sentences, on every rank; which ones do not depend on the number of ranks.

    Args:
        encoder: with packed attention, on the rank's device, in the dtype to compute in.
        sentences: n texts, the same on every rank; an empty one consists of the special tokens.
        layers: different indices of hidden states (see `choose_layer`); what is above the highest is not run.
        pooling: mean of all tokens, special ones included, or cls, the first token.
        max_length: tokens a sentence, at most; never more than the encoder has positions.
        counts: `truncated` is raised by the number of longer sentences.
        progress: told (packs done, packs in all) of this rank.

    Returns:
        float32 (layers, n, H) on the CPU.

    Raises:
        UserError: an unknown layer or pooling, or hidden states that are no numbers.
    """
    if pooling not in POOLING:
        raise UserError(f"unknown pooling {pooling!r}", fix=f"one of: {', '.join(POOLING)}")
    layers = [choose_layer(layer, encoder) for layer in layers]
    max_length = min(max_length, encoder.config.max_position_embeddings - position_offset(encoder.config))
    ids, lengths, truncated = _tokenise(tokenizer, sentences, max_length)
    if counts is not None:
        counts["truncated"] = counts.get("truncated", 0) + truncated
    starts = np.cumsum(lengths) - lengths
    order = np.argsort(lengths, kind="stable")  # runs of equal lengths are pooled together
    packs = [order[places] for places in pack_in_order(lengths[order], pack_tokens)][world.rank :: world.size]
    vectors = torch.zeros(len(layers), len(sentences), encoder.config.hidden_size)
    for done, units in enumerate(packs, 1):
        spans = zip(starts[units], lengths[units], strict=True)
        tokens = np.concatenate([ids[start : start + size] for start, size in spans])
        places = torch.from_numpy(units)
        for layer, hidden in enumerate(_hidden_states(encoder, tokens, lengths[units], max(layers))):
            if layer in layers:
                vectors[layers.index(layer), places] = _pool(hidden, lengths[units], pooling).cpu()
        if progress:
            progress(done, len(packs))
    _share(vectors, world)
    if not torch.isfinite(vectors).all():
        dtype = str(next(encoder.parameters()).dtype).removeprefix("torch.")
        why = f"computed in {dtype}" if dtype != "float32" else "its weights are damaged, or its training diverged"
        raise UserError("the encoder's hidden states are not all numbers", why=why, fix="engine.dtype=fp32")
    return vectors


def _tokenise(tokenizer, sentences: Sequence[str], max_length: int) -> tuple[np.ndarray, np.ndarray, int]:
    """int32 ids of all sentences one after the other, their lengths, int64 (n,), and how many were truncated."""
    ids, lengths, truncated = [np.empty(0, np.int32)], [], 0
    for first in range(0, len(sentences), CHUNK):
        chunk = list(sentences[first : first + CHUNK])
        settings = {"truncation": True, "max_length": max_length, "return_attention_mask": False}
        encodings = tokenizer(chunk, **settings).encodings
        ids.append(np.concatenate([np.array(encoding.ids, np.int32) for encoding in encodings]))
        lengths += [len(encoding.ids) for encoding in encodings]
        truncated += sum(bool(encoding.overflowing) for encoding in encodings)
    return np.concatenate(ids), np.array(lengths, np.int64), truncated


def _hidden_states(
    encoder: torch.nn.Module, tokens: np.ndarray, lengths: np.ndarray, highest: int
) -> Iterator[torch.Tensor]:
    """(T, H) of a pack: the embeddings, then what each layer gives, up to the layer `highest`.

    Layers are called one by one, as transformers' encoders do, so that none is run in vain.
    """
    device = next(encoder.parameters()).device
    ends = np.cumsum(lengths)
    positions = np.arange(ends[-1]) - np.repeat(ends - lengths, lengths) + position_offset(encoder.config)
    input_ids = torch.from_numpy(tokens.astype(np.int64)).to(device)[None]
    hidden = encoder.embeddings(
        input_ids=input_ids,
        position_ids=torch.from_numpy(positions).to(device)[None],
        token_type_ids=torch.zeros_like(input_ids),
    )
    yield hidden[0]
    offsets = {
        "cu_seqlens": torch.from_numpy(np.concatenate([[0], ends]).astype(np.int32)).to(device),
        "max_seqlen": int(lengths.max()),
        "lengths": tuple(lengths.tolist()),
    }
    layers = list(encoder.encoder.layer)
    for number, layer in enumerate(layers[:highest], 1):
        hidden = layer(hidden, **offsets)
        final_norm = getattr(encoder.encoder, "LayerNorm", None)  # of pre-norm encoders, behind the last layer
        yield (final_norm(hidden) if final_norm and number == len(layers) else hidden)[0]


def _pool(hidden: torch.Tensor, lengths: np.ndarray, pooling: str) -> torch.Tensor:
    """Hidden states (T, H) of sequences sorted by length -> float32 (sequences, H)."""
    sizes, runs = np.unique(lengths, return_counts=True)
    parts = hidden.split((sizes * runs).tolist())
    sequences = [part.view(-1, size, hidden.shape[1]) for part, size in zip(parts, sizes.tolist(), strict=True)]
    if pooling == "cls":
        return torch.cat([sequence[:, 0].float() for sequence in sequences])
    return torch.cat([sequence.mean(1, dtype=torch.float32) for sequence in sequences])


def _share(vectors: torch.Tensor, world: World) -> None:
    """Complete the vectors, in place, by those of the other ranks, which are zero here."""
    if world.size > 1:
        for rows in vectors.flatten(0, 1).split(1 << 16):  # bounds the copy on a GPU
            rows.copy_(distributed.sum_over_ranks(rows.to(world.device)))
