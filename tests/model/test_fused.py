import copy

import pytest
import torch
from torch import nn

from tests.model.encoders import CONFIGS, tiny_encoder
from tests.model.test_attention import hidden
from trainer.model import fused
from trainer.model.attention import CPU, SDPA
from trainer.model.fused import AddNorm, PackedSelfAttention, fuse, plain_names


@pytest.mark.parametrize("kind", CONFIGS)
def test_plain_names_are_the_plain_encoders_parameters(kind):
    plain = tiny_encoder(kind, SDPA)
    other = copy.deepcopy(plain)
    fuse(other, CPU, compiled=False)
    assert any(isinstance(module, PackedSelfAttention) for module in other.modules())
    restored = plain_names(other.state_dict())
    assert restored.keys() == plain.state_dict().keys()
    assert all(torch.equal(restored[name], value) for name, value in plain.state_dict().items())


@pytest.mark.parametrize("kind", CONFIGS)
def test_hidden_dropout_drops_what_transformers_drops(kind):
    """Over many draws, fused and plain hidden states have one mean and one deviation."""
    moments = []
    for layers in ("plain", "fused"):
        encoder = tiny_encoder(
            kind, SDPA, hidden_dropout_prob=0.4, attention_probs_dropout_prob=0.2, num_hidden_layers=1
        )
        if layers == "fused":
            fuse(encoder, CPU, compiled=False)
        with torch.no_grad():
            draws = torch.stack([hidden(encoder.train(), seed) for seed in range(600)])
        moments.append((draws.mean(0), draws.std(0)))
    (plain_mean, plain_deviation), (mean, deviation) = moments
    error = plain_deviation / 600**0.5
    assert ((mean - plain_mean).abs() / error).mean() < 1.4  # two means of 600 draws: 1.13 expected
    assert torch.allclose(deviation.mean(), plain_deviation.mean(), rtol=0.02)


def test_compiled_equals_eager():
    torch.manual_seed(0)
    norm = nn.LayerNorm(32)
    nn.init.normal_(norm.weight), nn.init.normal_(norm.bias)
    update, residual = torch.randn(2, 64, 32).unbind(0)
    results = []
    for compiled in (False, True):
        module = AddNorm(norm, 0.0, compiled)
        inputs = [update.clone().requires_grad_(), residual.clone().requires_grad_()]
        out = module(*inputs)
        results.append([out, *torch.autograd.grad((out * update).sum(), [*inputs, module.weight, module.bias])])
    for eager, compiled in zip(*results, strict=True):
        assert torch.allclose(compiled, eager, atol=1e-5)


def test_one_shape_compiles_once():
    """Packs of one shape do not compile anything again, whatever they hold."""
    torch._dynamo.reset()
    fused._compiled_add_norm.cache_clear()
    torch._dynamo.utils.counters.clear()
    modules = [AddNorm(nn.LayerNorm(16), 0.1, True).train() for _ in range(3)]
    for module in modules:
        for _ in range(4):
            module(torch.randn(40, 16, requires_grad=True), torch.randn(40, 16)).sum().backward()
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


def test_without_lengths_it_refuses():
    encoder = tiny_encoder("xlm-roberta", SDPA)
    fuse(encoder, CPU, compiled=False)
    with pytest.raises(RuntimeError, match="without the lengths"):
        encoder(input_ids=torch.arange(5, 15)[None])


def test_gradient_checkpointing_changes_nothing():
    gradients = []
    for checkpointing in (False, True):
        encoder = tiny_encoder("xlm-roberta", SDPA, hidden_dropout_prob=0.2, attention_probs_dropout_prob=0.2).train()
        fuse(encoder, CPU, compiled=False)
        if checkpointing:
            encoder.gradient_checkpointing_enable({"use_reentrant": False})
        hidden(encoder).square().sum().backward()
        gradients.append([parameter.grad for parameter in encoder.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
