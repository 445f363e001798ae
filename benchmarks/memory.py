"""Peak memory of real runs against what the planner says, part by part.

    python -m benchmarks.memory [--out FILE_OR_FOLDER] [--only NAME ...] [--model FOLDER_OR_NAME]

Every configuration is a process of its own (`benchmarks.arms`): memory before the model is built, then the peak over
some optimizer steps. On a GPU that is memory allocated by torch. On a CPU it is resident memory, measured twice: with
every freed block given back at once and no cache of compiled products (oneDNN's, for bf16), which shows what tensors
need and what the planner predicts; and as runs are, where the C library keeps freed blocks (`trainer.host`) and the
peak is higher by what fragments.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks import arms, ours, results
from benchmarks.arms import Arm
from trainer import engine, host
from trainer.config import load_recipe
from trainer.data.prepare import prepare
from trainer.distributed import World
from trainer.model.encoder import load_tokenizer
from trainer.plan import need
from trainer.tasks import load_tasks
from trainer.ui.tables import new_table

DEMO = Path(__file__).resolve().parents[1] / "launch/recipes/demo.yaml"
STEPS = 3  # the second is the first with optimizer state from the start
NO_CACHES = {"LRU_CACHE_CAPACITY": "1", "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "0"}  # torch's and oneDNN's, of products
MODEL = {  # large enough for its tensors to outweigh the noise of a process, small enough for seconds
    "model_type": "xlm-roberta", "hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 6,
    "intermediate_size": 1536, "vocab_size": 30000, "max_position_embeddings": 514, "type_vocab_size": 1,
    "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "layer_norm_eps": 1e-5,
    "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1,
}  # fmt: skip
CASES: dict[str, tuple[int, tuple[str, ...]]] = {  # name -> processes, overrides
    "stage 0": (1, ("engine.config=ds_configs/zero0.json", "train.packs_per_step=1")),
    "stage 2": (1, ("engine.config=ds_configs/zero2.json", "train.packs_per_step=2")),
    "plain layers": (
        1,
        ("engine.config=ds_configs/zero2.json", "train.packs_per_step=1",
         "kernels.layers=plain", "kernels.attention=packed_sdpa"),
    ),
    "bf16, ckpt": (
        1,
        ("engine.config=ds_configs/zero2.json", "train.packs_per_step=2", "engine.dtype=bf16",
         "model.gradient_checkpointing=true"),
    ),
    "stage 1": (1, ("engine.config=ds_configs/zero1.json", "train.packs_per_step=2")),
    "stage 3": (1, ("engine.config=ds_configs/zero3.json", "train.packs_per_step=2")),
    "2 processes": (2, ("engine.config=ds_configs/zero2.json", "train.packs_per_step=2")),
}  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print and write `memory.json`."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES), metavar="NAME")
    parser.add_argument("--model", help="encoder instead of the small one, with random weights")
    parser.add_argument("--pack-tokens", type=int, default=2048)
    options = parser.parse_args(arguments)
    rows = {}
    with tempfile.TemporaryDirectory(prefix="memory") as folder:
        common = setting(Path(folder), options.model, options.pack_tokens)
        for name in options.only:
            if CASES[name][0] == 1 or not torch.cuda.is_available() or torch.cuda.device_count() > 1:
                rows[name] = compare(common, *CASES[name])
    console = Console()
    console.print(table(rows))
    known = {"model": options.model or MODEL, "pack_tokens": options.pack_tokens, "steps": STEPS}
    worst = max(abs(row["error"]) for row in rows.values())
    path = results.write("memory", {"setting": known, "arms": rows, "ratios": {"worst_error": worst}}, options.out)
    console.print(f"wrote {path}")


def setting(folder: Path, model: str | None, pack_tokens: int) -> list[str]:
    """Overrides that all cases share, with the data prepared."""
    if model is None:
        (folder / "encoder").mkdir()
        (folder / "encoder/config.json").write_text(json.dumps(MODEL))
    common = [
        f"data.store={folder / 'store'}", f"model.encoder={model or folder / 'encoder'}", "model.tokenizer=sample",
        "model.init=random", "model.vocabulary=full", f"train.pack_tokens={pack_tokens}",
    ]  # fmt: skip
    config = load_recipe(DEMO, common)
    prepare(config, load_tasks(config), load_tokenizer(config))
    return common


def compare(common: Sequence[str], processes: int, overrides: Sequence[str]) -> dict[str, Any]:
    """One case: bytes of one process predicted by part at the peak, measured, and the error relative to measured."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    shape, predicted = need(load_recipe(DEMO, [*common, *overrides]), device, processes)
    measured = measure([*common, *overrides], processes, keep=False)
    row = {
        "parameters": shape.parameters,
        "overrides": list(overrides),
        "processes": processes,
        "predicted_parts": predicted.parts,
        "predicted_moment": predicted.peak_moment,
        "predicted_bytes": predicted.peak,
        "measured_bytes": measured,
        "error": predicted.peak / measured - 1,
    }
    if device == "cpu":
        row["measured_bytes_freed_blocks_kept"] = measure([*common, *overrides], processes, keep=True)
    return row


def measure(overrides: Sequence[str], processes: int, keep: bool) -> int:
    """Bytes at the peak of rank 0 above those before its model was built.

    Raises:
        ArmDied: the run failed; the text has its log.
    """
    spec = {"recipe": str(DEMO), "overrides": list(overrides), "keep": keep}
    arm = Arm("memory", "benchmarks.memory", spec, processes, {} if keep else NO_CACHES)
    with arms.start([arm]) as running:
        process = running[arm.name]
        turn = process.turn(STEPS, settle=0)
        return turn["peak_bytes"] - process.facts["baseline_bytes"]


def table(rows: Mapping[str, Mapping[str, Any]]) -> Table:
    """A row a case, MB."""
    shown = new_table("peak memory of one process above its start, MB")
    shown.add_column("", no_wrap=True)
    for name in ("weights", "grads", "optim", "activ", "buffers", "plan", "measured", "error", "as run"):
        shown.add_column(name, justify="right", no_wrap=True)
    for name, row in rows.items():
        parts = row["predicted_parts"]
        sizes = (
            parts["weights"] + parts["fp32 weights"], parts["gradients"], parts["optimizer state"],
            parts["activations"], parts["buffers"], row["predicted_bytes"], row["measured_bytes"],
        )  # fmt: skip
        kept = row.get("measured_bytes_freed_blocks_kept")
        cells = [f"{size / 1e6:,.0f}" for size in sizes]
        shown.add_row(name, *cells, f"{row['error']:+.1%}", f"{kept / 1e6:,.0f}" if kept else "-")
    return shown


def run_arm(arguments: Sequence[str] | None = None) -> None:
    """In the arm: a real session and the real loop, after everything that is loaded late has been loaded."""
    spec = arms.spec_of(arguments)
    channel = arms.connect()
    if not spec["keep"]:
        host.use_cpu_well = _give_back
    engine.start()
    _load_what_comes_late()
    ours.run(spec, channel)


def _give_back(processes: int) -> None:
    """Instead of host.use_cpu_well: every block above 64 kB is a mapping of its own, gone when it is freed."""
    torch.set_num_threads(max(1, host.available_cores() // processes))
    threshold = -3  # M_MMAP_THRESHOLD of malloc.h
    ctypes.CDLL(None).mallopt(threshold, 1 << 16)


def _load_what_comes_late() -> None:
    """What DeepSpeed imports when it is initialised, and the kernels' code: parts of a process, not of a model."""
    import deepspeed.runtime.bf16_optimizer
    import deepspeed.runtime.zero.muon.muon_optimizer
    import deepspeed.runtime.zero.stage3
    import deepspeed.runtime.zero.stage_1_and_2  # noqa: F401

    device = World.from_environment().device  # on a GPU the first product allocates cuBLAS's workspace, for good
    layer = torch.nn.TransformerEncoderLayer(64, 4, 128).to(device)
    optimizer = torch.optim.AdamW(layer.parameters(), fused=True)
    layer(torch.ones(8, 1, 64, device=device)).sum().backward()
    optimizer.step()


if __name__ == "__main__":
    words = [word for word in sys.argv[1:] if not word.startswith("--local_rank")]
    if len(words) == 1 and words[0].endswith("spec.json"):
        ours.leave(run_arm)
    main()
