"""Vocabulary trimming: train with the embedding rows that the prepared data uses, and get the untrimmed run's result.

A row that never occurs has no gradient and no Adam moments; all that moves it is decoupled weight decay, which
multiplies it by (1 - learning rate * decay) at every step. So the rows left out come back at export as their first
values times the product of those factors (arXiv 1711.05101, algorithm 2, without its first-order term).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from trainer.data.store import Store

WORTH_IT = 0.10  # share of the model's parameters, from which on `auto` trims
KEPT_ROWS = "vocabulary_rows.npy"  # in a checkpoint
NAME = "encoder.embeddings.word_embeddings.weight"


class TrimmedEmbedding(nn.Embedding):
    """Some rows of an embedding, looked up by their first numbers; other numbers are an error.

    Attributes:
        kept: int64 (rows,), ascending: the numbers these rows had.
    """

    def __init__(self, full: nn.Embedding, kept: torch.Tensor):
        padding = full.padding_idx
        where = int(torch.searchsorted(kept, padding)) if padding is not None else None
        super().__init__(len(kept), full.embedding_dim, where, _weight=full.weight.detach()[kept].clone())
        row_of = torch.full((full.num_embeddings,), -1)
        row_of[kept] = torch.arange(len(kept))
        self.register_buffer("row_of", row_of, persistent=False)
        self.register_buffer("kept", kept, persistent=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return F.embedding(self.row_of[ids], self.weight, self.padding_idx)


def used_rows(stores: Iterable[Store], special: Iterable[int], vocabulary: int) -> np.ndarray:
    """int64 (rows,), ascending: ids that occur in the stores, and the special ones below `vocabulary`."""
    used = [np.asarray([i for i in special if 0 <= i < vocabulary], np.int64)]
    return np.unique(np.concatenate(used + [store.used_vocabulary().astype(np.int64) for store in stores]))


def trimming_saves(encoder: nn.Module, rows: int) -> float:
    """Share of the encoder's parameters that keeping only `rows` embedding rows leaves out."""
    embedding = encoder.get_input_embeddings()
    return (embedding.num_embeddings - rows) * embedding.embedding_dim / sum(p.numel() for p in encoder.parameters())


def trim(encoder: nn.Module, kept: np.ndarray) -> None:
    """Replace the encoder's word embeddings, in place."""
    encoder.set_input_embeddings(TrimmedEmbedding(encoder.get_input_embeddings(), torch.from_numpy(kept)))


def kept_rows(encoder: nn.Module) -> np.ndarray | None:
    """The rows a trimmed encoder has, by their first numbers; None for a whole one."""
    embedding = encoder.get_input_embeddings()
    return embedding.kept.cpu().numpy() if isinstance(embedding, TrimmedEmbedding) else None


def rows_hash(kept: np.ndarray | None) -> str:
    return "all" if kept is None else hashlib.blake2b(kept.astype("<i8").tobytes(), digest_size=8).hexdigest()


def restore_rows(trained: torch.Tensor, kept: np.ndarray, first: torch.Tensor, decay: float) -> torch.Tensor:
    """(V, H) fp32: the whole matrix after training.

    Args:
        trained: (rows, H), the trained rows.
        first: (V, H), the matrix before training.
        decay: product of (1 - learning rate * weight decay) over the steps taken.
    """
    whole = first.detach().to(torch.float32) * decay
    whole[torch.from_numpy(kept)] = trained.to(torch.float32)
    return whole


def write_kept_rows(kept: np.ndarray, file: BinaryIO) -> None:
    """The content of a checkpoint's vocabulary_rows.npy: which rows its embedding has."""
    np.save(file, kept)


def load_kept_rows(folder: Path) -> np.ndarray | None:
    """What a checkpoint notes of its rows; None where it has all."""
    return np.load(folder / KEPT_ROWS) if (folder / KEPT_ROWS).is_file() else None
