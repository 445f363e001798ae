"""The parity gate: our packed model and the padded Hugging Face model give one loss and one gradient.

Same examples, same weights, no dropout; our model as it trains (fused layers, trimmed vocabulary), theirs as the
baseline trains. Run as an arm that never takes a turn: its facts are the figures.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from benchmarks import arms, workload
from benchmarks.hf_data import COUNTS, PaddedCollator, UnitDataset
from benchmarks.hf_model import MultiHeadModel
from benchmarks.hf_model import build_model as build_padded
from benchmarks.ours import leave
from benchmarks.parity import LIMITS, SLACK, Outcome, ParityFailed, check, compare, run
from trainer import engine, host
from trainer.config import RunConfig
from trainer.data.loader import Collator, PackedBatch
from trainer.data.prepare import Prepared, tasks_of
from trainer.distributed import World
from trainer.model.build import build_model
from trainer.session import replace_section

UNITS = 4  # of each task
# In lower precision, besides SLACK times how far the padded model itself is from its fp32 figures. The gradient's is
# wide for the sake of CPUs, where torch sums the gradient of an embedding row in bf16: that of the one token type, a
# term for every token of the batch, loses most of its digits, and a pack holds more tokens than one task's batch.
LOW = {"loss": 1e-3, "hidden": 1e-2, "gradient": 2e-2}


def parity(
    config: RunConfig, prepared: Mapping[str, Prepared], tokenizer, device: torch.device, dtype: str
) -> dict[str, Any]:
    """Both models on the first UNITS training units of each task, against the padded model in fp32.

    Returns:
        `ours` and, in lower precision, `theirs`: the figures of `benchmarks.parity.compare`; `limits` of ours, in fp32
        LIMITS (1e-4 for the loss, relative, and for 1 - cosine of the gradients); `loss`: the reference's, summed over
        the units; `examples`, `tokens`; `failed`: why, or None.
    """
    config = replace_section(config, "model", dropout=0.0)
    if dtype == "fp32":
        config = replace_section(config, "kernels", attention="auto")  # flash attention has no fp32
    pack, batches = same_units(prepared, tokenizer.pad_token_id, device)
    tasks, figures = tasks_of(prepared), {}
    kind = engine.DTYPES[dtype]
    reference = run_padded(build_padded(config, tasks, 1).to(device), batches)
    if dtype != "fp32":
        figures["theirs"] = compare(run_padded(build_padded(config, tasks, 1).to(device, kind), batches), reference)
    model, *_ = build_model(config, prepared, tokenizer, device, dtype)
    figures["ours"] = compare(run(model.to(device, kind), pack, dict.fromkeys(tasks, 1.0)), reference)
    result = {"examples": sum(pack.units.values()), "tokens": pack.tokens, "loss": reference.loss, **figures}
    result |= {"limits": limits(figures.get("theirs")), "failed": None}
    try:
        check({"dtype": dtype, "fast": result["ours"], "limits": result["limits"]})
    except ParityFailed as error:
        result["failed"] = str(error)
    return result


def limits(theirs: Mapping[str, Any] | None) -> dict[str, float]:
    """What the figures of ours may be; `theirs` is None in fp32."""
    return dict(LIMITS) if theirs is None else {key: LOW[key] + SLACK * theirs[key] for key in LOW}


def same_units(
    prepared: Mapping[str, Prepared], pad_token: int, device: torch.device
) -> tuple[PackedBatch, list[dict[str, Any]]]:
    """The units as one pack, and as one padded batch a task; both in the order of the tasks."""
    tasks, stores = tasks_of(prepared), {name: item.train for name, item in prepared.items()}
    counts = [min(UNITS, len(store)) for store in stores.values()]
    units = np.concatenate([np.arange(count) for count in counts])
    pack = Collator(tasks, stores, pad_token, None)(np.repeat(np.arange(len(counts)), counts), units)
    data, collate = UnitDataset(list(stores.values())), PaddedCollator(tasks, pad_token)
    firsts = np.cumsum([0, *map(len, stores.values())])
    batches = [
        collate([data[first + unit] for unit in range(count)])
        for first, count in zip(firsts[:-1].tolist(), counts, strict=True)
    ]
    return pack.to(device), [_to(batch, device) for batch in batches]


def run_padded(model: MultiHeadModel, batches: list[dict[str, Any]]) -> Outcome:
    """Forward and backward of padded batches, their losses summed; hidden states without padding."""
    model.train()
    loss, hidden = 0.0, []
    hook = model.encoder.register_forward_hook(lambda *arguments: hidden.append(arguments[-1].last_hidden_state))
    for batch in batches:
        batch_loss = model.loss_sum(**{name: value for name, value in batch.items() if name not in COUNTS})
        batch_loss.backward()
        loss += float(batch_loss.detach())
        hidden[-1] = hidden[-1].detach()[batch["attention_mask"].bool()].float().cpu()
    hook.remove()
    gradients = {name: parameter.grad.float().cpu() for name, parameter in model.named_parameters()}
    return Outcome(loss, torch.cat(hidden), gradients, None)


def _to(value, device):
    if isinstance(value, dict):
        return {name: _to(below, device) for name, below in value.items()}
    return value.to(device) if torch.is_tensor(value) else value


def main(arguments: list[str] | None = None) -> None:
    """Tell the parent the figures, in fp32 and in the dtype of the comparison."""
    spec = arms.spec_of(arguments)
    channel = arms.connect()
    config, tokenizer, prepared = workload.open_workload(spec)
    device = World.from_environment().device
    if device.type == "cpu":
        host.use_cpu_well(1)
    dtypes = dict.fromkeys(("fp32", engine.choose_dtype(config, device)))
    figures = {dtype: parity(config, prepared, tokenizer, device, dtype) for dtype in dtypes}
    if device.type == "cuda":
        torch.cuda.empty_cache()  # this process may stay while others are timed
    channel.ready(**figures)


if __name__ == "__main__":
    leave(main)
