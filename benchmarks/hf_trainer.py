"""The Hugging Face arm: transformers' Trainer on DeepSpeed, as its documentation has it, on the same prepared data.

The Trainer's own loop trains a multi-head model, one task a batch; a callback reports each optimizer step. Run by
`benchmarks.arms`; the spec is that of `benchmarks.ours` and, under `hf`, the fields of `hf_settings.Setting`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback, TrainingArguments

from benchmarks import arms, workload
from benchmarks.hf_data import COUNTS, PaddedCollator, TaskBatches, UnitDataset, longest_sequences
from benchmarks.hf_model import build_model
from benchmarks.hf_settings import Setting
from benchmarks.ours import leave
from trainer import distributed, engine, host
from trainer.config import RunConfig
from trainer.data.prepare import tasks_of
from trainer.distributed import World
from trainer.session import resolve_mixture

STEPS = 1_000_000  # more than any comparison runs: the parent ends it
COMPILING_STEPS = 3  # of a compiled arm, before it is ready


class OneTaskTrainer(Trainer):
    """The Trainer with batches of one task, and what they held counted on the way.

    Attributes:
        counts: of this process, by the names in COUNTS, since they were last taken.
    """

    def __init__(self, *, batches: TaskBatches, **options: Any):
        self.batches, self.counts = batches, dict.fromkeys(COUNTS, 0)
        super().__init__(**options)

    def get_train_dataloader(self) -> DataLoader:
        workers = self.args.dataloader_num_workers
        loader = DataLoader(
            self.train_dataset,
            batch_sampler=self.batches,
            collate_fn=self.data_collator,
            num_workers=workers,
            pin_memory=self.args.dataloader_pin_memory,
            persistent_workers=workers > 0,
        )
        return self.accelerator.prepare(loader)

    def training_step(self, model, inputs, num_items_in_batch=None) -> torch.Tensor:
        for name in COUNTS:
            self.counts[name] += inputs.pop(name)
        return super().training_step(model, inputs, num_items_in_batch)

    def take_counts(self) -> list[int]:
        taken, self.counts = list(self.counts.values()), dict.fromkeys(COUNTS, 0)
        return taken


class Reporter(TrainerCallback):
    """Tells the parent of every step, and lets it stop the Trainer.

    Args:
        first_steps: steps before the arm is ready: what is compiled in them costs no turn.
        facts: what the parent is told when it is.
    """

    def __init__(self, channel: arms.Channel, world: World, first_steps: int, facts: dict[str, Any]):
        self.channel, self.world, self.first_steps, self.facts = channel, world, first_steps, facts
        self.trainer: OneTaskTrainer | None = None

    def on_train_begin(self, args, state, control, **_):
        if not self.first_steps:
            self._ready()

    def on_step_end(self, args, state, control, **_):
        counts = self.trainer.take_counts()
        if self.world.size > 1:
            counts = distributed.sum_over_ranks(torch.tensor(counts, device=self.world.device)).tolist()
        if self.world.device.type == "cpu" and state.global_step % engine.TRIM_EVERY == 0:
            host.release_free_memory()
        if state.global_step == self.first_steps:
            self._ready()
        elif state.global_step > self.first_steps and self.world.first:
            self.channel.step(*counts)

    def _ready(self) -> None:
        if self.world.first:
            self.channel.ready(threads=torch.get_num_threads(), **self.facts)


def training_arguments(config: RunConfig, setting: Setting, world: World, folder: Path) -> TrainingArguments:
    """The recipe's optimizer, precision and DeepSpeed file; nothing is logged, saved or evaluated on the way."""
    train, on_gpu = config.train, world.device.type == "cuda"
    workers = setting.workers if setting.workers is not None else 4 if on_gpu else 0
    bf16 = engine.choose_dtype(config, world.device) == "bf16"
    deepspeed = {
        **engine.read_config(config.engine.config),
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "train_batch_size": "auto",
        "gradient_clipping": "auto",
        "bf16": {"enabled": "auto"},
        "zero_allow_untested_optimizer": True,
    }
    return TrainingArguments(
        output_dir=str(folder),
        deepspeed=deepspeed,
        # On a CPU accelerate refuses to start DeepSpeed, but takes it up once the process group stands.
        use_cpu=not on_gpu,
        ddp_backend=None if on_gpu else "gloo",
        bf16=bf16,
        per_device_train_batch_size=setting.micro_batch,
        gradient_accumulation_steps=setting.accumulation,
        max_steps=STEPS,
        optim="adamw_torch_fused",
        learning_rate=train.learning_rate,
        weight_decay=train.weight_decay,
        adam_beta1=train.betas[0],
        adam_beta2=train.betas[1],
        adam_epsilon=train.epsilon,
        max_grad_norm=train.clip,
        lr_scheduler_type="constant",
        seed=config.seed,
        dataloader_num_workers=workers,
        dataloader_pin_memory=on_gpu,
        accelerator_config={"even_batches": False, "non_blocking": on_gpu},  # batches of batch_rebalance vary in size
        remove_unused_columns=False,
        logging_strategy="no",
        logging_nan_inf_filter=False,  # it would wait for the device at every micro-batch
        save_strategy="no",
        eval_strategy="no",
        report_to="none",
        disable_tqdm=True,
        log_level="warning",
    )


def main(arguments: list[str] | None = None) -> None:
    """The process of the arm."""
    spec = arms.spec_of(arguments)
    channel = arms.connect()
    # As our own arm starts: process group, cores and, on CPUs, the allocator. With glibc's defaults the baseline would
    # spend much of its time in page faults, which is not what is compared here.
    world = engine.start()
    config, tokenizer, prepared = workload.open_workload(spec)
    setting, tasks = Setting(**spec["hf"]), tasks_of(prepared)
    baseline = arms.used_bytes()
    model = build_model(config, tasks, setting.micro_batch)
    if setting.compile:
        # Layer by layer, as accelerate's regional compilation does: one graph serves all of them. The Trainer's
        # `torch_compile` takes the whole model, a graph for each of more tasks than torch keeps graphs of a function.
        for layer in model.encoder.encoder.layer:
            layer.compile(dynamic=True)
    options = training_arguments(config, setting, world, Path(spec["folder"]) / "trainer")
    if world.device.type == "cpu":
        host.use_cpu_well(world.local_size)  # again: accelerate has set the threads to its own guess
    rates, _ = resolve_mixture(config, prepared)
    sizes = (setting.micro_batch, setting.accumulation, world.size, STEPS)
    batches = TaskBatches(longest_sequences(prepared), rates, setting.sampling, *sizes, config.seed)
    multiple = 8 if world.device.type == "cuda" else 1
    facts = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "baseline_bytes": baseline,
        "examples_per_step": batches.per_step,
        "workers": options.dataloader_num_workers,
        "pad_to_multiple_of": multiple,
    }
    reporter = Reporter(channel, world, COMPILING_STEPS if setting.compile else 0, facts)
    reporter.trainer = OneTaskTrainer(
        model=model,
        args=options,
        batches=batches,
        train_dataset=UnitDataset([item.train for item in prepared.values()]),
        data_collator=PaddedCollator(tasks, tokenizer.pad_token_id, multiple),
        callbacks=[reporter],
    )
    reporter.trainer.train()


if __name__ == "__main__":
    leave(main)
