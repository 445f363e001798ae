"""From a recipe to the model that is trained, and from its weights back to transformers' names and shapes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from trainer import engine
from trainer.config import RunConfig
from trainer.data.prepare import Prepared, tasks_of
from trainer.errors import UserError
from trainer.model import vocabulary
from trainer.model.attention import SDPA, choose_attention
from trainer.model.encoder import KeyReport, load_encoder, position_offset
from trainer.model.fused import fuse, plain_names
from trainer.model.heads import HeadBank
from trainer.model.multitask import MultiTaskModel


def build_model(
    config: RunConfig, prepared: Mapping[str, Prepared], tokenizer, device: torch.device, dtype: str
) -> tuple[MultiTaskModel, KeyReport, list[str]]:
    """The model of a recipe with fresh heads, in fp32 on the CPU; what became of the encoder's checkpoint; and what was
    chosen for a device and a dtype, a line each."""
    attention, why = choose_attention(config.kernels.attention, device, engine.DTYPES[dtype])
    notes = [f"attention: {why}"]
    encoder, report = load_encoder(config, attention)
    _check_fit(config, prepared, encoder)
    notes += _trim_vocabulary(config, prepared, tokenizer, encoder)
    if config.kernels.layers == "fused":
        compiled = config.kernels.compile == "on" or (
            config.kernels.compile == "auto" and device.type == "cuda" and engine.stage_of(config) < 3
        )
        fuse(encoder, attention, compiled)
        notes.append(f"layers: fused{', elementwise parts compiled' if compiled else ''}")
    if config.model.gradient_checkpointing:
        encoder.gradient_checkpointing_enable({"use_reentrant": False})
    dropout = encoder.config.hidden_dropout_prob
    shared = config.model.heads == "family"
    heads = HeadBank(tasks_of(prepared), encoder.config.hidden_size, dropout, shared, config.seed)
    return MultiTaskModel(encoder, heads), report, notes


def _trim_vocabulary(config: RunConfig, prepared: Mapping[str, Prepared], tokenizer, encoder) -> list[str]:
    """Trim the encoder's word embeddings when the recipe says so, or when it is worth it; what was done."""
    asked, rows = config.model.vocabulary, encoder.get_input_embeddings().num_embeddings
    if asked == "full":
        return []
    stores = [store for item in prepared.values() for store in (item.train, item.dev)]
    kept = vocabulary.used_rows(stores, tokenizer.all_special_ids, rows)
    saved = vocabulary.trimming_saves(encoder, len(kept))
    if asked == "auto" and saved < vocabulary.WORTH_IT:
        return []
    vocabulary.trim(encoder, kept)
    return [f"vocabulary: {len(kept):,} of {rows:,} rows are trained, {saved:.0%} fewer parameters; export has all"]


def plain_state(
    state: Mapping[str, torch.Tensor], kept: np.ndarray | None, decay: float, first: torch.Tensor | None
) -> dict[str, torch.Tensor]:
    """Weights of a live model as transformers names them and with the whole vocabulary.

    Args:
        kept, decay, first: see `vocabulary.restore_rows`; `kept` is None for an untrimmed model.
    """
    plain = plain_names(state)
    if kept is not None:
        plain[vocabulary.NAME] = vocabulary.restore_rows(plain[vocabulary.NAME], kept, first, decay)
    return plain


def first_rows(config: RunConfig) -> torch.Tensor:
    """(V, H) fp32: the word embeddings that a recipe's run starts from."""
    return load_encoder(config, SDPA)[0].get_input_embeddings().weight


def _check_fit(config: RunConfig, prepared: Mapping[str, Prepared], encoder) -> None:
    rows = encoder.config.vocab_size
    longest = encoder.config.max_position_embeddings - position_offset(encoder.config)
    for name, item in prepared.items():
        for store in (item.train, item.dev):
            if len(used := store.used_vocabulary()) and used[-1] >= rows:
                raise UserError(
                    f"{name} has token id {used[-1]}, but the encoder's vocabulary ends at {rows - 1}",
                    why="the tokenizer belongs to another encoder",
                    fix="leave model.tokenizer empty, or choose the tokenizer the encoder was trained with",
                )
            if store.sequence_lengths.max(initial=0) > longest:
                raise UserError(
                    f"{name} has sequences of {store.sequence_lengths.max()} tokens, the encoder {longest} positions",
                    fix=f"data.max_length={longest}, then `xstilts prepare` again",
                )
