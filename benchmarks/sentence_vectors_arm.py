"""An arm of `benchmarks.sentence_vectors`: vectors of the same sentences again and again, in one of three ways.

    packed    xstilts: packs without padding
    padded    a plain script: batches of sentences, padded, in their order or by length
    single    a plain script: one sentence after the other

The spec: `way`, `model`, `sentences` (a file, one a line), `layer`, `cores`, and for padded batches `batch`,
`by_length`, and `keep_memory` (freed memory is kept, as xstilts does on CPUs).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModel, AutoTokenizer

from benchmarks import arms
from trainer import engine, host
from trainer.config import RunConfig
from trainer.evaluation.retrieval import pack_tokens_for
from trainer.evaluation.vectors import MAX_LENGTH, open_encoder, sentence_vectors
from trainer.model.encoder import quiet_transformers

Encode = Callable[[Sequence[str]], tuple[torch.Tensor, int]]  # vectors (n, H), and tokens with padding if there is any


def packed(model: str, layer: int, **_: Any) -> Encode:
    """What `xstilts evaluate` does."""
    config, world = RunConfig(), engine.start()
    encoder, tokenizer = open_encoder(model, config, world)
    pack_tokens = pack_tokens_for(config, world.device)

    def encode(sentences: Sequence[str]) -> tuple[torch.Tensor, int]:
        vectors = sentence_vectors(encoder, tokenizer, sentences, [layer], world, pack_tokens=pack_tokens)[0]
        return vectors, 0

    return encode


class Plain:
    """A plain script with transformers' own model, in float32 on the CPU or the first GPU."""

    def __init__(self, model: str, layer: int):
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        with quiet_transformers():
            self.tokenizer = AutoTokenizer.from_pretrained(model)
            self.encoder = AutoModel.from_pretrained(model, dtype=torch.float32, add_pooling_layer=False)
        self.encoder.to(self.device).eval()
        self.layer, self.last = layer, layer == self.encoder.config.num_hidden_layers

    @torch.no_grad()
    def batch(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """(B, H): means over the tokens that are no padding."""
        inputs = {name: value.to(self.device) for name, value in inputs.items()}
        outputs = self.encoder(**inputs, output_hidden_states=not self.last)
        hidden = outputs.last_hidden_state if self.last else outputs.hidden_states[self.layer]
        mask = inputs["attention_mask"][..., None].to(hidden.dtype)
        return ((hidden * mask).sum(1) / mask.sum(1)).cpu()

    def single(self, sentences: Sequence[str]) -> tuple[torch.Tensor, int]:
        vectors, tokens = [], 0
        for sentence in sentences:
            inputs = self.tokenizer(sentence, truncation=True, max_length=MAX_LENGTH, return_tensors="pt")
            tokens += inputs["input_ids"].numel()
            vectors.append(self.batch(inputs))
        return torch.cat(vectors), tokens

    def padded(self, sentences: Sequence[str], size: int, by_length: bool) -> tuple[torch.Tensor, int]:
        """In batches of `size` sentences, in their order or sorted by length in tokens."""
        ids = self.tokenizer(list(sentences), truncation=True, max_length=MAX_LENGTH)["input_ids"]
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]) if by_length else i)
        vectors, tokens = torch.empty(len(ids), self.encoder.config.hidden_size), 0
        for at in range(0, len(order), size):
            places = order[at : at + size]
            inputs = self.tokenizer.pad({"input_ids": [ids[i] for i in places]}, return_tensors="pt")
            tokens += inputs["input_ids"].numel()
            vectors[places] = self.batch(inputs)
        return vectors, tokens


def single(model: str, layer: int, **_: Any) -> Encode:
    return Plain(model, layer).single


def padded(model: str, layer: int, batch: int, by_length: bool, keep_memory: bool = False, **_: Any) -> Encode:
    if keep_memory:
        host.use_cpu_well(1)
    plain = Plain(model, layer)
    return lambda sentences: plain.padded(sentences, batch, by_length)


WAYS: dict[str, Callable[..., Encode]] = {"packed": packed, "padded": padded, "single": single}


def main() -> None:
    spec = arms.spec_of()
    channel = arms.connect()
    arms.use_cores(spec["cores"])
    torch.set_num_threads(spec["cores"])
    sentences = Path(spec["sentences"]).read_text(encoding="utf-8").splitlines()
    encode = WAYS[spec["way"]](**spec)
    tokenizer = AutoTokenizer.from_pretrained(spec["model"])
    useful = sum(map(len, tokenizer(sentences, truncation=True, max_length=MAX_LENGTH)["input_ids"]))
    channel.ready(threads=torch.get_num_threads())
    while True:
        _, tokens = encode(sentences)
        channel.step(useful, tokens or useful, len(sentences))


if __name__ == "__main__":
    sys.exit(main())
