"""Started by test_mining.py: mines planted pairs out of random vectors, and says how well, how fast and how large.

python -m tests.evaluation.mining_worker LEFT RIGHT WIDTH PAIRS
"""

import json
import sys
import time

import torch
import torch.nn.functional as F

from trainer import host
from trainer.evaluation.mining import mine, tune_threshold
from trainer.evaluation.scorer import bucc_f1


def planted(rows: int, columns: int, width: int, pairs: int, seed: int):
    """Random vectors of length 1, (rows, width) and (columns, width), and which of them are noisy copies."""
    generator = torch.Generator().manual_seed(seed)
    left, right = (F.normalize(torch.randn(n, width, generator=generator), dim=1) for n in (rows, columns))
    here = torch.randperm(rows, generator=generator)[:pairs]
    there = torch.randperm(columns, generator=generator)[:pairs]
    noise = F.normalize(torch.randn(pairs, width, generator=generator), dim=1)
    right[there] = F.normalize(left[here] + 0.5 * noise, dim=1)
    return left, right, set(zip(here.tolist(), there.tolist(), strict=True))


def main() -> None:
    rows, columns, width, pairs = map(int, sys.argv[1:])
    left, right, gold = planted(4000, 4000, width, 400, seed=1)
    found, margins = mine(left, right)
    threshold = tune_threshold([tuple(pair) for pair in found.tolist()], margins, gold)
    left, right, gold = planted(rows, columns, width, pairs, seed=2)
    began = time.perf_counter()
    found, margins = mine(left, right)
    seconds = time.perf_counter() - began
    scores = bucc_f1(found[margins >= threshold].tolist(), sorted(gold))
    facts = {"seconds": seconds, "threads": torch.get_num_threads(), "peak_bytes": host.peak_resident_bytes()}
    sys.stdout.write(json.dumps({**scores, **facts}) + "\n")


if __name__ == "__main__":
    main()
