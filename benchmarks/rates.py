"""What this machine can do at most, measured in the same run as what it does: matrix products and copies."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

from trainer.plan.devices import SHEETS

SIZES = {"cuda": (4096, 8192, 16384), "cpu": (512, 1024, 2048)}  # of square products; the best one counts
COPY_BYTES = {"cuda": 2 << 30, "cpu": 256 << 20}
KNOWN = ("H100 PCIe", "H100 NVL", "H100", "H200", "B200", "A100", "L40S", "V100")
DATA_SHEET = {name: SHEETS[name][0] for name in KNOWN}  # FLOP/s, dense, of bf16 and fp16


def measure(device: torch.device, dtype: torch.dtype, seconds: float = 0.5) -> dict[str, Any]:
    """Matrix product rate in FLOP/s (2 n^3 a product), and copy rate in bytes/s (read and write counted).

    Args:
        seconds: for each of the sizes tried.
    """
    products = {str(n): _product_rate(n, device, dtype, seconds) for n in SIZES[device.type]}
    copies = _copy_rate(device, seconds)
    if device.type == "cuda":
        torch.cuda.empty_cache()
    best = max(products, key=products.get)
    return {
        "dtype": str(dtype).removeprefix("torch."),
        "matmul_flops_per_second": products[best],
        "matmul_size": int(best),
        "matmul_by_size": products,
        "copy_bytes_per_second": copies,
        "data_sheet_flops_per_second": data_sheet(torch.cuda.get_device_name(device))
        if device.type == "cuda" and dtype != torch.float32
        else None,
    }


def data_sheet(name: str) -> float | None:
    """The data sheet's rate of a GPU's marketing name; None for unknown ones."""
    words = name.replace("-", " ").split()
    return next((rate for known, rate in DATA_SHEET.items() if all(word in words for word in known.split())), None)


def flops_per_token(encoder_parameters: int, layers: int, hidden: int, effective_length: float) -> float:
    """FLOPs of forward and backward for one token: 6 N + 12 L h s_eff.

    N are the encoder's parameters without embeddings, 2 FLOPs forward and 4 backward each; attention's two products
    take 4 h s forward in each layer (PaLM, arXiv 2204.02311, appendix B), s being the tokens a token attends to.
    """
    return 6.0 * encoder_parameters + 12.0 * layers * hidden * effective_length


def _product_rate(n: int, device: torch.device, dtype: torch.dtype, seconds: float) -> float:
    left = torch.randn(n, n, device=device).to(dtype)
    right = torch.randn(n, n, device=device).to(dtype)
    out = torch.empty_like(left)
    return _best_rate(lambda: torch.mm(left, right, out=out), 2.0 * n**3, device, seconds)


def _copy_rate(device: torch.device, seconds: float) -> float:
    source = torch.ones(COPY_BYTES[device.type] // 4, dtype=torch.float32, device=device)
    target = torch.empty_like(source)
    return _best_rate(lambda: target.copy_(source), 2.0 * source.numel() * 4, device, seconds)


def _best_rate(work: Callable[[], Any], amount: float, device: torch.device, seconds: float, rounds: int = 3) -> float:
    """The best round's amount of work a second; a round lasts a third of `seconds`, at least one call."""
    took = _timed(work, 1, device)  # the first call also warms up
    took = _timed(work, 1, device)
    calls = max(1, int(seconds / rounds / max(took, 1e-9)))
    return max(amount * calls / _timed(work, calls, device) for _ in range(rounds))


def _timed(work: Callable[[], Any], calls: int, device: torch.device) -> float:
    _synchronize(device)
    began = time.perf_counter()
    for _ in range(calls):
        work()
    _synchronize(device)
    return time.perf_counter() - began


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
