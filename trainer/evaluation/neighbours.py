"""Exact nearest neighbours by inner product, a block of the matrix of similarities at a time, on CPUs and GPUs.

A block serves both directions before the next one is computed: memory is bounded, and nothing is computed twice. Most
rows of a block hold nothing that is better than the best so far; only the others are searched.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

CPU_BLOCK, GPU_BLOCK = 1024, 8192  # rows and columns; on CPUs, what stays in the cache


@dataclass(frozen=True)
class Neighbours:
    """The k best of each row: similarities (n, k), float32, highest first, and their indices (n, k), int64, on the CPU.

    Of equal similarities the lower index comes first.
    """

    similarities: torch.Tensor
    indices: torch.Tensor


def nearest(
    queries: torch.Tensor,
    candidates: torch.Tensor,
    k: int,
    device: torch.device | None = None,
    block: int | None = None,
) -> Neighbours:
    """The k candidates (all, if there are fewer) with the largest inner product with each query.

    Args:
        queries, candidates: float32 (n, H) and (m, H), where they lie; neither empty.
        device: to compute on; default: the queries'.
        block: rows and columns of the similarities that are held at a time.
    """
    return _search(queries, candidates, k, False, device, block)[0]


def nearest_both_ways(
    left: torch.Tensor,
    right: torch.Tensor,
    k: int,
    device: torch.device | None = None,
    block: int | None = None,
) -> tuple[Neighbours, Neighbours]:
    """The neighbours on the right of each row of `left`, and those on the left of each row of `right`, in one pass.

    Args: as of `nearest`.
    """
    forward, backward = _search(left, right, k, True, device, block)
    return forward, backward


def _search(left, right, k, both, device, block) -> list[Neighbours]:
    device = torch.device(device or left.device)
    block = block or (CPU_BLOCK if device.type == "cpu" else GPU_BLOCK)
    best = [_Best(len(left), min(k, len(right)), device)]
    if both:
        best.append(_Best(len(right), min(k, len(left)), device))
    scratch = torch.empty(min(block, len(left)) * min(block, len(right)), device=device)
    for top in range(0, len(left), block):
        rows = left[top : top + block].to(device)
        for first in range(0, len(right), block):
            columns = right[first : first + block].to(device)
            similarities = scratch[: len(rows) * len(columns)].view(len(rows), len(columns))
            torch.mm(rows, columns.T, out=similarities)
            best[0].update(similarities, top, first)
            if both:
                best[1].update(similarities.T, first, top)
    return [side.result() for side in best]


class _Best:
    """The k largest of each row of a matrix whose blocks come from left to right."""

    def __init__(self, rows: int, k: int, device: torch.device):
        self.similarities = torch.full((rows, k), -torch.inf, device=device)
        self.indices = torch.full((rows, k), -1, device=device)

    def update(self, block: torch.Tensor, top: int, first: int) -> None:
        """A block (rows, columns) whose corner is row `top` and column `first`.

        What is equal to the k-th best so far has a higher index than it, so it does not count.
        """
        height, width = block.shape
        similarities, indices = self.similarities[top : top + height], self.indices[top : top + height]
        better = (block.amax(1) > similarities[:, -1]).nonzero().flatten()
        if not len(better):
            return
        found, places = _top(block[better], min(similarities.shape[1], width))
        merged = torch.cat([similarities[better], found], 1)
        kept = merged.sort(dim=1, descending=True, stable=True).indices[:, : similarities.shape[1]]
        similarities[better] = merged.gather(1, kept)
        indices[better] = torch.cat([indices[better], places + first], 1).gather(1, kept)

    def result(self) -> Neighbours:
        return Neighbours(self.similarities.cpu(), self.indices.cpu())


def _top(rows: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The k largest of each row, with equal ones by index, which torch.topk does not promise."""
    values, places = rows.topk(min(k + 1, rows.shape[1]), 1)
    tied = (values[:, k - 1] == values[:, -1]).nonzero().flatten() if values.shape[1] > k else ()
    values, places = values[:, :k], places[:, :k]
    if len(tied):  # which of the equal ones were taken is chance
        every = rows[tied].sort(dim=1, descending=True, stable=True)
        values[tied], places[tied] = every.values[:, :k], every.indices[:, :k]
    places, by_place = places.sort(1)
    values, by_value = values.gather(1, by_place).sort(dim=1, descending=True, stable=True)
    return values, places.gather(1, by_value)
