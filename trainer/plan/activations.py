"""What the forward pass keeps for the backward pass, from the layers as they are written.

Checked by tests against the tensors that autograd really saves (torch.autograd.graph.saved_tensors_hooks).
"""

from __future__ import annotations

from dataclasses import dataclass

from trainer.model.attention import CPU, FLASH, SDPA
from trainer.model.linear_cross_entropy import CHUNK
from trainer.plan.shapes import Data, Shape
from trainer.tasks.masked_lm import SHARE


@dataclass(frozen=True)
class Kernels:
    """How layers are computed: `fused` or plain ones, the attention backend, bytes of a number (2 or 4), cuda or cpu,
    and whether each layer is computed again in the backward pass (gradient checkpointing)."""

    fused: bool
    attention: str
    bytes: int
    device: str
    checkpointing: bool

    @property
    def mask(self) -> int:
        """Bytes of one element's dropout mask: a bool, but torch's CPU dropout keeps the noise it multiplied with."""
        return 1 if self.fused else self.torch_mask

    @property
    def torch_mask(self) -> int:
        """The same for torch's own dropout, which embeddings and heads use in fused models too."""
        return 1 if self.device == "cuda" else self.bytes


@dataclass(frozen=True)
class Activations:
    """Bytes on one device.

    Attributes:
        saved: what is kept when the backward pass begins.
        working: what its largest operation adds at that moment.
        last: what is left when it reaches the embeddings, with the gradient that arrives there.
    """

    saved: float
    working: float
    last: float


def choose_attention(device: str, size: int, asked: str) -> str:
    """The backend `trainer.model.attention.choose_attention` takes there, for a number's bytes."""
    if asked != "auto":
        return asked
    return CPU if device == "cpu" else FLASH if size == 2 else SDPA


def layer_bytes(shape: Shape, kernels: Kernels, length: float) -> float:
    """Bytes one layer keeps per token.

    In units of H numbers: the input of query, key and value (1), these (3), the attention's output, which is the input
    of its dense layer (1), the inputs of both LayerNorms (2) and the output of one of them, which is the input of the
    feed-forward part (1): 8, for layers that normalise after (XLM-R) as before (XLM-R XL), where the layer's input is
    the input of a LayerNorm and its output that of query, key and value. Then the feed-forward part before and after
    GELU (2 F), the dropout masks (two, or one in XLM-R XL), and per LayerNorm a mean and a deviation in fp32.

    Args:
        length: sum(s^2) / sum(s) over the sequences, the number of keys a token attends to.
    """
    number, masks = kernels.bytes, 1 if shape.pre_norm else 2
    kept = (8 * shape.hidden + 2 * shape.inner) * number + 16
    if shape.dropout:
        kept += masks * shape.hidden * kernels.mask
    return kept + attention_bytes(shape, kernels, length)


def attention_bytes(shape: Shape, kernels: Kernels, length: float) -> float:
    """Bytes attention keeps per token besides queries, keys, values and its output (`layer_bytes` has those).

    Fused kernels (flash, memory-efficient) keep the log-sum-exp of each row. With dropout there is none on a CPU:
    `packed_cpu` keeps probabilities and a mask of bools; torch's SDPA keeps the probabilities, the noise and their
    product, in fp32 also for bf16 inputs, and scaled copies of queries and keys (beside the originals where these
    are parts of one tensor; fp32 copies of all three for bf16).
    """
    number, hidden, pairs = kernels.bytes, shape.hidden, shape.heads * length
    if kernels.device == "cuda" or not shape.attention_dropout:
        copy = 0 if kernels.attention == FLASH else hidden * number  # the output again, put together from sequences
        return 4 * shape.heads + copy
    if kernels.attention == CPU:
        return pairs * (number + 1)
    if number == 2:
        return pairs * 12 + 3 * hidden * 4 - 3 * hidden * number
    return pairs * 12 + (2 * hidden * number if kernels.fused else 0)


def head_bytes(shape: Shape, kernels: Kernels, data: Data, tokens: int) -> float:
    """Bytes the heads keep and need in the backward pass.

    A head that reads every token (spans, tags) keeps its rows after dropout, the mask, and its logits, whose
    cross-entropy is in fp32: the log-probabilities, and as much again in the backward pass. How much of a pack is
    its task's varies: the mean share and three deviations, for units drawn independently. The gradient of the rows
    comes back as a whole (T, H) tensor, of which three exist while two heads' are added.

    Of a masked language model, what is kept is gradients: those of its rows, and in fp32 that of the word embeddings,
    which there is a scaled copy of in the backward pass, and a part of which was added to the rest in the forward pass,
    beside the logits of one chunk of rows and their log-probabilities. Tasks that share the head share all but rows.
    """
    total = 3 * tokens * shape.hidden * kernels.bytes
    if any(load.tied for load in data.loads):
        total += shape.vocabulary * (shape.hidden * (8 + kernels.bytes) + CHUNK * (8 + kernels.bytes))
    for load in data.loads:
        share = min(1.0, load.share + 3 * (load.share * load.unit_tokens / tokens) ** 0.5)
        rows = tokens * share if load.every_token else tokens * share / data.mean
        if load.tied:  # hidden states, and what the dense layer, GELU and LayerNorm keep; the gradient of their output
            total += rows * SHARE * 5 * shape.hidden * kernels.bytes
            continue
        total += rows * (shape.hidden * (kernels.bytes + kernels.torch_mask) + load.outputs * (8 + kernels.bytes))
    return total


def activations(shape: Shape, kernels: Kernels, data: Data, tokens: int) -> Activations:
    """For one pack of `tokens` tokens.

    The backward pass needs most when it begins, in the topmost layer: the gradient of the residual (H), and of the
    feed-forward part (F), while everything below is still kept. With checkpointing each layer keeps its input alone,
    and one layer is there as a whole.
    """
    number, hidden = kernels.bytes, shape.hidden
    layer = layer_bytes(shape, kernels, data.effective)
    embeddings = hidden * number + 32  # input of a LayerNorm, its two numbers, and three indices
    embeddings += hidden * kernels.torch_mask if shape.dropout else 0
    if kernels.checkpointing:
        layers = shape.layers * hidden * number + layer
    else:
        layers = shape.layers * layer
    heads = head_bytes(shape, kernels, data, tokens)
    working = max(heads, tokens * (hidden + shape.inner) * number)
    return Activations(tokens * (layers + embeddings), working, tokens * (embeddings + 2 * hidden * number))
