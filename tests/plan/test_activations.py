"""The activation formulas against the tensors autograd really saves."""

import pytest
import torch
from transformers import AutoConfig, AutoModel

import trainer.model.attention  # noqa: F401 - registers the backends
from trainer.model.fused import fuse
from trainer.plan.activations import Kernels, activations, head_bytes, layer_bytes
from trainer.plan.shapes import Data, HeadLoad, Shape

TOKENS, LENGTH, HIDDEN, HEADS, INNER = 192, 32, 64, 4, 160


def encoder_of(kind, dtype, dropout, layers, attention, fused):
    config = AutoConfig.for_model(
        kind, hidden_size=HIDDEN, num_hidden_layers=layers, num_attention_heads=HEADS, intermediate_size=INNER,
        vocab_size=100, max_position_embeddings=80, type_vocab_size=1, pad_token_id=1,
        hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout,
    )  # fmt: skip
    encoder = AutoModel.from_config(config, add_pooling_layer=False, attn_implementation=attention).to(dtype)
    if fused:
        fuse(encoder, attention, compiled=False)
    return encoder.train()


def saved_bytes(encoder):
    """Of the storages kept for the backward pass, parameters left out."""
    own = {parameter.untyped_storage().data_ptr() for parameter in encoder.parameters()}
    storages, alive = {}, []

    def pack(tensor):
        alive.append(tensor)  # so that no address is used twice
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    ids = torch.randint(5, 100, (1, TOKENS))
    positions = (torch.arange(TOKENS) % LENGTH + 2)[None]
    lengths = (LENGTH,) * (TOKENS // LENGTH)
    offsets = torch.arange(0, TOKENS + 1, LENGTH, dtype=torch.int32)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        encoder(
            input_ids=ids, position_ids=positions, token_type_ids=torch.zeros_like(ids), cu_seqlens=offsets,
            max_seqlen=LENGTH, lengths=lengths,
        )  # fmt: skip
    return sum(size for address, size in storages.items() if address not in own)


def shape_of(kind, dropout, layers):
    return Shape("tiny", layers, HIDDEN, HEADS, INNER, kind == "xlm-roberta-xl", dropout, dropout, 100, 100, 0, 0, 0)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("attention", ["packed_sdpa", "packed_cpu"])
@pytest.mark.parametrize("dropout", [0.1, 0.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["xlm-roberta", "xlm-roberta-xl"])
def test_a_layer_keeps_what_the_formula_says(kind, dtype, dropout, attention, fused):
    two, three = (saved_bytes(encoder_of(kind, dtype, dropout, layers, attention, fused)) for layers in (2, 3))
    kernels = Kernels(fused, attention, dtype.itemsize, "cpu", checkpointing=False)
    predicted = TOKENS * layer_bytes(shape_of(kind, dropout, 2), kernels, LENGTH)
    assert predicted == pytest.approx(three - two, rel=0.01)


@pytest.mark.parametrize("kind", ["xlm-roberta", "xlm-roberta-xl"])
def test_a_whole_encoder_keeps_what_the_formula_says(kind):
    data = Data(LENGTH, LENGTH, LENGTH, None, None, (), "test")
    kernels = Kernels(True, "packed_cpu", 4, "cpu", checkpointing=False)
    predicted = activations(shape_of(kind, 0.1, 3), kernels, data, TOKENS)
    assert predicted.saved == pytest.approx(
        saved_bytes(encoder_of(kind, torch.float32, 0.1, 3, "packed_cpu", True)), rel=0.01
    )


def test_checkpointing_keeps_inputs_and_one_layer():
    data = Data(LENGTH, LENGTH, LENGTH, None, None, (), "test")
    kernels = Kernels(True, "packed_varlen", 2, "cuda", checkpointing=True)
    few, many = (activations(shape_of("xlm-roberta", 0.1, layers), kernels, data, TOKENS).saved for layers in (2, 10))
    assert many - few == 8 * TOKENS * HIDDEN * 2


def test_a_masked_language_model_keeps_the_gradient_of_its_vocabulary():
    """In fp32, with a scaled copy; and logits of some rows, however many tokens a pack has."""
    shape, kernels = shape_of("xlm-roberta", 0.1, 2), Kernels(True, "packed_varlen", 2, "cuda", checkpointing=False)
    load = HeadLoad(True, shape.vocabulary, 0.5, LENGTH, tied=True)

    def added(*loads, tokens=TOKENS):
        totals = (head_bytes(shape, kernels, Data(LENGTH, LENGTH, LENGTH, None, None, own, "test"), tokens) for own in
                  (loads, ()))  # fmt: skip
        return next(totals) - next(totals)

    assert added(load) > 8 * shape.vocabulary * HIDDEN
    assert added(load, load) - added(load) < added(load) / 2, "languages share what is large"
    assert added(load, tokens=50 * TOKENS) < 50 * added(load)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("fused", [False, True])
def test_a_layer_on_a_gpu_keeps_what_the_formula_says(fused):
    square = torch.ones(64, 64, dtype=torch.bfloat16, device="cuda")
    torch.mm(square, square)  # the first product allocates cuBLAS's workspace, for good

    def allocated(layers):
        encoder = encoder_of("xlm-roberta", torch.bfloat16, 0.1, layers, "packed_varlen", fused).cuda()
        ids = torch.randint(5, 100, (1, 4096), device="cuda")
        positions = (torch.arange(4096, device="cuda") % LENGTH + 2)[None]
        offsets = torch.arange(0, 4097, LENGTH, dtype=torch.int32, device="cuda")
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        out = encoder(
            input_ids=ids, position_ids=positions, token_type_ids=torch.zeros_like(ids), cu_seqlens=offsets,
            max_seqlen=LENGTH, lengths=(LENGTH,) * (4096 // LENGTH),
        )  # fmt: skip
        torch.cuda.synchronize()
        after = torch.cuda.memory_allocated()
        del out
        return after - before

    kernels = Kernels(fused, "packed_varlen", 2, "cuda", checkpointing=False)
    predicted = 4096 * layer_bytes(shape_of("xlm-roberta", 0.1, 2), kernels, LENGTH)
    assert predicted == pytest.approx(allocated(3) - allocated(2), rel=0.03)
