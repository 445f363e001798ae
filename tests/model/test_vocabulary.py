import numpy as np
import pytest
import torch
from torch import nn

from tests.model.encoders import tiny_encoder
from tests.stores import mixed_prepared
from trainer.model.attention import SDPA
from trainer.model.vocabulary import (
    KEPT_ROWS,
    TrimmedEmbedding,
    kept_rows,
    load_kept_rows,
    restore_rows,
    rows_hash,
    trim,
    trimming_saves,
    used_rows,
    write_kept_rows,
)

KEPT = np.array([0, 1, 2, 5, 9, 40, 59])


def test_used_rows_are_those_of_all_stores_and_the_special_ones(tmp_path):
    prepared, units = mixed_prepared(tmp_path)
    stores = [store for item in prepared.values() for store in (item.train, item.dev)]
    used = used_rows(stores, [0, 1, 2, 300], vocabulary=100)
    expected = {0, 1, 2} | {i for store in stores for i in np.unique(store.used_vocabulary()).tolist()}
    assert used.tolist() == sorted(expected) and used.dtype == np.int64
    trained = {token for task in units.values() for unit in task for sequence in unit.sequences for token in sequence}
    assert trained <= set(used.tolist())


def test_a_trimmed_embedding_is_the_same_function():
    full = nn.Embedding(60, 8, padding_idx=1)
    trimmed = TrimmedEmbedding(full, torch.from_numpy(KEPT))
    ids = torch.tensor([[5, 9, 1, 1], [59, 0, 40, 5]])
    weights = torch.randn(2, 4, 8)
    assert trimmed.weight.shape == (7, 8) and torch.equal(trimmed(ids), full(ids))
    for module in (full, trimmed):
        (module(ids) * weights).sum().backward()
    assert torch.equal(trimmed.weight.grad, full.weight.grad[KEPT])
    assert trimmed.weight.grad[1].abs().sum() == 0  # padding


def test_a_row_left_out_is_an_error():
    trimmed = TrimmedEmbedding(nn.Embedding(60, 8), torch.from_numpy(KEPT))
    with pytest.raises(IndexError):
        trimmed(torch.tensor([3]))


def test_training_the_rows_that_occur_gives_what_training_all_gives():
    """AdamW with decay on both; the rows left out come back decayed."""
    torch.manual_seed(0)
    full = nn.Embedding(60, 8, padding_idx=1)
    first = full.weight.detach().clone()
    trimmed = TrimmedEmbedding(full, torch.from_numpy(KEPT))
    optimizers = [torch.optim.AdamW(m.parameters(), lr=0.01, weight_decay=0.1) for m in (full, trimmed)]
    decay = 1.0
    for step in range(1, 51):
        ids = torch.from_numpy(KEPT)[torch.randint(0, 7, (12,))]
        for module, optimizer in zip((full, trimmed), optimizers, strict=True):
            optimizer.param_groups[0]["lr"] = 0.01 / step
            optimizer.zero_grad()
            module(ids).square().sum().backward()
            optimizer.step()
        decay *= 1 - 0.01 / step * 0.1
    restored = restore_rows(trimmed.weight, KEPT, first, decay)
    assert torch.equal(restored[KEPT], full.weight[KEPT])
    assert torch.allclose(restored, full.weight, rtol=1e-6, atol=0)
    assert not torch.allclose(restored, restore_rows(trimmed.weight, KEPT, first, 1.0), rtol=1e-4, atol=0)


def test_an_encoder_is_trimmed_in_place(tmp_path):
    encoder = tiny_encoder("xlm-roberta", SDPA)
    parameters = sum(p.numel() for p in encoder.parameters())
    assert kept_rows(encoder) is None and rows_hash(None) == "all"
    saves = trimming_saves(encoder, len(KEPT))
    trim(encoder, KEPT)
    left = sum(p.numel() for p in encoder.parameters())
    assert saves == pytest.approx(1 - left / parameters)
    assert kept_rows(encoder).tolist() == KEPT.tolist()
    assert rows_hash(KEPT) != rows_hash(KEPT[:-1])
    assert load_kept_rows(tmp_path) is None
    with open(tmp_path / KEPT_ROWS, "wb") as file:
        write_kept_rows(kept_rows(encoder), file)
    assert load_kept_rows(tmp_path).tolist() == KEPT.tolist()
