import pytest
import torch

from tests.model.encoders import CONFIGS, tiny_encoder
from trainer.model.attention import FLASH, SDPA, choose_attention, packed_flash, packed_sdpa

LENGTHS = [5, 1, 17, 9]
OFFSETS = torch.tensor([0, 5, 6, 23, 32], dtype=torch.int32)


def queries_keys_values(dtype=torch.float32, device="cpu"):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(1, 2, 32, 16, generator=generator).to(device, dtype) for _ in range(3)]


def attention_by_mask(query, key, value, scaling):
    """One softmax over the whole pack, everything outside a token's own sequence forbidden."""
    owner = torch.repeat_interleave(torch.arange(len(LENGTHS)), torch.tensor(LENGTHS))
    scores = query @ key.transpose(-1, -2) * scaling
    scores = scores.masked_fill(owner[:, None] != owner[None, :], float("-inf"))
    return (scores.softmax(-1) @ value).transpose(1, 2)


@pytest.mark.parametrize("scaling", [None, 0.7])
def test_a_pack_is_a_block_diagonal_mask(scaling):
    query, key, value = queries_keys_values()
    found, weights = packed_sdpa(None, query, key, value, None, scaling=scaling, cu_seqlens=OFFSETS)
    assert found.shape == (1, 32, 2, 16) and weights is None
    assert torch.allclose(found, attention_by_mask(query, key, value, scaling or 16**-0.5), atol=1e-6)


@pytest.mark.parametrize("attention", [packed_sdpa, packed_flash])
def test_without_offsets_it_refuses(attention):
    with pytest.raises(RuntimeError, match="without cu_seqlens"):
        attention(None, *queries_keys_values(), None)


@pytest.mark.parametrize("kind", CONFIGS)
def test_an_encoder_without_offsets_refuses(kind):
    with pytest.raises(RuntimeError, match="without cu_seqlens"):
        tiny_encoder(kind, SDPA)(input_ids=torch.arange(5, 15)[None])


def hidden(encoder, seed=0):
    torch.manual_seed(seed)
    positions = torch.cat([torch.arange(length) for length in LENGTHS])[None] + 2
    tokens = 5 + torch.arange(32)[None]
    return encoder(input_ids=tokens, position_ids=positions, cu_seqlens=OFFSETS, max_seqlen=17).last_hidden_state


@pytest.mark.parametrize("kind", CONFIGS)
def test_attention_dropout_is_active_in_training_only(kind):
    encoder = tiny_encoder(kind, SDPA, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.5)
    with torch.no_grad():
        assert torch.equal(hidden(encoder, 0), hidden(encoder, 1))
        encoder.train()
        assert torch.equal(hidden(encoder, 0), hidden(encoder, 0))
        assert not torch.isclose(hidden(encoder, 0), hidden(encoder, 1)).all(-1).any()


def test_dropped_attention_has_the_right_mean():
    query, key, value = queries_keys_values()
    torch.manual_seed(0)
    many = [tensor.expand(3000, -1, -1, -1) for tensor in (query, key, value)]
    draws = packed_sdpa(None, *many, None, dropout=0.3, cu_seqlens=OFFSETS)[0]
    expected = packed_sdpa(None, query, key, value, None, cu_seqlens=OFFSETS)[0]
    assert torch.allclose(draws.mean(0), expected[0], atol=0.1)


@pytest.mark.parametrize(
    "device, dtype, backend, why",
    [
        ("cuda", torch.bfloat16, FLASH, "flash"),
        ("cuda", torch.float16, FLASH, "flash"),
        ("cuda", torch.float32, SDPA, "bf16 or fp16"),
        ("cpu", torch.float32, SDPA, "no GPU"),
        ("cpu", torch.bfloat16, SDPA, "no GPU"),
    ],
)
def test_the_choice_says_why(device, dtype, backend, why):
    chosen, reason = choose_attention(torch.device(device), dtype)
    assert chosen == backend and why in reason


@pytest.mark.gpu
def test_flash_equals_sdpa():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    tensors = [tensor.requires_grad_() for tensor in queries_keys_values(torch.bfloat16, "cuda")]
    offsets = OFFSETS.cuda()
    found = packed_flash(None, *tensors, None, cu_seqlens=offsets, max_seqlen=17)[0]
    exact = [tensor.detach().float().requires_grad_() for tensor in tensors]
    expected = packed_sdpa(None, *exact, None, cu_seqlens=offsets)[0]
    assert torch.allclose(found.float(), expected, atol=0.02)
    weights = torch.randn_like(expected)
    (found.float() * weights).sum().backward()
    (expected * weights).sum().backward()
    for tensor, reference in zip(tensors, exact, strict=True):
        assert torch.allclose(tensor.grad.float(), reference.grad, atol=0.05)
