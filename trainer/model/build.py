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
from trainer.model.encoder import KeyReport, load_encoder, load_masked_lm, position_offset
from trainer.model.fused import fuse, plain_names
from trainer.model.heads import HeadBank
from trainer.model.lm_head import MaskedLMHead, pretrained_state
from trainer.model.multitask import MultiTaskModel


def build_model(
    config: RunConfig, prepared: Mapping[str, Prepared], tokenizer, device: torch.device, dtype: str
) -> tuple[MultiTaskModel, KeyReport, list[str]]:
    """The model of a recipe with fresh heads, in fp32 on the CPU; what became of the encoder's checkpoint; and what was
    chosen for a device and a dtype, a line each."""
    attention, why = choose_attention(config.kernels.attention, device, engine.DTYPES[dtype])
    notes = [f"attention: {why}"]
    language_models = [name for name, item in prepared.items() if item.task.format == "masked_lm"]
    with_head = bool(language_models) and config.model.init == "pretrained"
    loaded, report = (load_masked_lm if with_head else load_encoder)(config, attention)
    encoder = loaded.base_model
    _check_fit(config, prepared, encoder)
    if language_models:
        notes += _whole_vocabulary(config, language_models[0], tokenizer, encoder)
    else:
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
    settings = encoder.config
    heads = HeadBank(tasks_of(prepared), settings.hidden_size, dropout, shared, config.seed, settings)
    if language_models:
        notes.append(_start_masked_lm(heads, loaded if with_head and not report.new else None))
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


def _whole_vocabulary(config: RunConfig, task: str, tokenizer, encoder) -> list[str]:
    """What masked LM, which predicts over the whole vocabulary, means for `model.vocabulary`; a note.

    Raises:
        UserError: the recipe trims the vocabulary, or the tokenizer has more tokens than the encoder.
    """
    rows = encoder.get_input_embeddings().num_embeddings
    if config.model.vocabulary == "trimmed":
        raise UserError(
            f"model.vocabulary is trimmed, but {task} is in the mixture",
            why="a masked language model predicts over the whole vocabulary, so each of its rows is trained",
            fix="model.vocabulary=full, or leave it at auto",
        )
    if len(tokenizer) > rows:  # masking draws from all of them
        raise UserError(
            f"the tokenizer has {len(tokenizer):,} tokens, the encoder's vocabulary {rows:,}",
            why="the tokenizer belongs to another encoder",
            fix="leave model.tokenizer empty, or choose the tokenizer the encoder was trained with",
        )
    return [f"vocabulary: all {rows:,} rows are trained, as {task} predicts over all of them"]


def _start_masked_lm(heads: HeadBank, model) -> str:
    """Give the heads for masked LM the weights of transformers' `model`, if there is one and it fits; a note."""
    state = pretrained_state(model) if model is not None else None
    if state is None:
        return "masked LM head: new, as the encoder comes without one tied to its embeddings"
    for head in heads.heads.values():
        if isinstance(head, MaskedLMHead):
            head.load_state_dict(state)
    return "masked LM head: from the encoder's checkpoint"


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
