"""Blocked search against the whole matrix, on small integers: equal similarities are many, and sums are exact."""

import pytest
import torch

from trainer.evaluation.neighbours import nearest, nearest_both_ways


def vectors(rows: int, seed: int, width: int = 5, values: int = 2) -> torch.Tensor:
    return torch.randint(-values, values + 1, (rows, width), generator=torch.Generator().manual_seed(seed)).float()


def brute(left: torch.Tensor, right: torch.Tensor, k: int):
    order = (left @ right.T).sort(dim=1, descending=True, stable=True)  # stable: of equal ones the lower index first
    return order.values[:, :k], order.indices[:, :k]


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (1, 9), (30, 4), (64, 65), (130, 257)])
@pytest.mark.parametrize("k", [1, 4, 20])
@pytest.mark.parametrize("block", [1, 16, 64, 1000])
def test_both_ways_are_what_the_whole_matrix_gives(rows, columns, k, block):
    left, right = vectors(rows, 1), vectors(columns, 2)
    forward, backward = nearest_both_ways(left, right, k, block=block)
    for found, (similarities, indices) in ((forward, brute(left, right, k)), (backward, brute(right, left, k))):
        assert torch.equal(found.similarities, similarities) and torch.equal(found.indices, indices)
    one_way = nearest(left, right, k, block=block)
    assert torch.equal(one_way.similarities, forward.similarities) and torch.equal(one_way.indices, forward.indices)


def test_equal_vectors_come_in_their_order():
    left, right = torch.ones(3, 4), torch.ones(50, 4)
    for block in (1, 7, 50):
        forward, backward = nearest_both_ways(left, right, 4, block=block)
        assert forward.indices.tolist() == [[0, 1, 2, 3]] * 3
        assert backward.indices.tolist() == [[0, 1, 2]] * 50


def test_real_numbers_and_the_default_block():
    generator = torch.Generator().manual_seed(3)
    left, right = torch.randn(1500, 24, generator=generator), torch.randn(2100, 24, generator=generator)
    forward, backward = nearest_both_ways(left, right, 4)
    for found, (similarities, _) in ((forward, brute(left, right, 4)), (backward, brute(right, left, 4))):
        assert torch.allclose(found.similarities, similarities, atol=1e-4)
    exact = (left.double() @ right.double().T).gather(1, forward.indices)
    assert torch.allclose(exact.float(), forward.similarities, atol=1e-4)
    assert (forward.similarities.diff(dim=1) <= 0).all()
