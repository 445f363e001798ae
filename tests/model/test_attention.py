import pytest
import torch

from tests.model.encoders import CONFIGS, tiny_encoder
from trainer.errors import UserError
from trainer.model.attention import BACKENDS, CPU, FLASH, SDPA, choose_attention, packed_cpu, packed_sdpa, packed_varlen
from trainer.model.dropout import keep_mask, keep_scale

LENGTHS = (5, 1, 17, 9)
OFFSETS = torch.tensor([0, 5, 6, 23, 32], dtype=torch.int32)
ON_CPUS = [packed_sdpa, packed_cpu]


def queries_keys_values(dtype=torch.float32, device="cpu"):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(32, 2, 16, generator=generator).to(device, dtype) for _ in range(3)]


def attention_by_mask(query, key, value, scaling, keep=None):
    """One softmax over the whole pack, everything outside a token's own sequence forbidden; `keep` (heads, T, T) what
    kept probabilities are multiplied by."""
    owner = torch.repeat_interleave(torch.arange(len(LENGTHS)), torch.tensor(LENGTHS))
    query, key, value = (x.transpose(0, 1) for x in (query, key, value))
    scores = query @ key.transpose(-1, -2) * scaling
    scores = scores.masked_fill(owner[:, None] != owner[None, :], float("-inf"))
    probabilities = scores.softmax(-1) if keep is None else scores.softmax(-1) * keep
    return (probabilities @ value).transpose(0, 1)


@pytest.mark.parametrize("attend", ON_CPUS)
@pytest.mark.parametrize("scaling", [None, 0.7])
def test_a_pack_is_a_block_diagonal_mask(attend, scaling):
    query, key, value = queries_keys_values()
    found = attend(query, key, value, lengths=LENGTHS, scaling=scaling)
    assert found.shape == (32, 2, 16)
    assert torch.allclose(found, attention_by_mask(query, key, value, scaling or 16**-0.5), atol=1e-6)


def test_dropped_attention_and_its_gradients_equal_the_formula():
    """packed_cpu against plain autograd over the same dropout mask, in double precision."""
    dropout, scaling = 0.3, 0.4
    torch.manual_seed(7)
    flat = keep_mask(2 * sum(n * n for n in LENGTHS), dropout)
    keep, start, at = torch.zeros(2, 32, 32, dtype=torch.float64), 0, 0
    for length in LENGTHS:
        rows, size = slice(start, start + length), 2 * length * length
        keep[:, rows, rows] = flat[at : at + size].view(2, length, length).double() * keep_scale(dropout)
        start, at = start + length, at + size
    found = [x.requires_grad_() for x in queries_keys_values(torch.float64)]
    exact = [x.requires_grad_() for x in queries_keys_values(torch.float64)]
    torch.manual_seed(7)
    attended = packed_cpu(*found, lengths=LENGTHS, dropout=dropout, scaling=scaling)
    expected = attention_by_mask(*exact, scaling, keep)
    assert torch.allclose(attended, expected, atol=1e-12)
    weights = torch.randn_like(expected)
    (attended * weights).sum().backward()
    (expected * weights).sum().backward()
    for tensor, reference in zip(found, exact, strict=True):
        assert torch.allclose(tensor.grad, reference.grad, atol=1e-12)


@pytest.mark.parametrize("kind", CONFIGS)
def test_an_encoder_without_lengths_refuses(kind):
    with pytest.raises(RuntimeError, match="without the lengths"):
        tiny_encoder(kind, SDPA)(input_ids=torch.arange(5, 15)[None])


def hidden(encoder, seed=0):
    torch.manual_seed(seed)
    positions = torch.cat([torch.arange(length) for length in LENGTHS])[None] + 2
    tokens = 5 + torch.arange(32)[None]
    offsets = {"cu_seqlens": OFFSETS, "max_seqlen": 17, "lengths": LENGTHS}
    return encoder(input_ids=tokens, position_ids=positions, **offsets).last_hidden_state


@pytest.mark.parametrize("backend", [SDPA, CPU])
@pytest.mark.parametrize("kind", CONFIGS)
def test_attention_dropout_is_active_in_training_only(kind, backend):
    encoder = tiny_encoder(kind, backend, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.5)
    with torch.no_grad():
        assert torch.equal(hidden(encoder, 0), hidden(encoder, 1))
        encoder.train()
        assert torch.equal(hidden(encoder, 0), hidden(encoder, 0))
        assert not torch.isclose(hidden(encoder, 0), hidden(encoder, 1)).all(-1).any()


@pytest.mark.parametrize("attend", ON_CPUS)
def test_dropped_attention_has_the_right_mean(attend):
    query, key, value = queries_keys_values()
    torch.manual_seed(0)
    draws = [attend(query, key, value, lengths=LENGTHS, dropout=0.3) for _ in range(3000)]
    assert torch.allclose(torch.stack(draws).mean(0), attend(query, key, value, lengths=LENGTHS), atol=0.1)


@pytest.mark.parametrize(
    "device, dtype, backend, why",
    [
        ("cuda", torch.bfloat16, FLASH, "flash"),
        ("cuda", torch.float16, FLASH, "flash"),
        ("cuda", torch.float32, SDPA, "bf16 or fp16"),
        ("cpu", torch.float32, CPU, "no GPU"),
        ("cpu", torch.bfloat16, CPU, "no GPU"),
    ],
)
def test_the_choice_says_why(device, dtype, backend, why):
    chosen, reason = choose_attention("auto", torch.device(device), dtype)
    assert chosen == backend and why in reason


def test_a_backend_can_be_asked_for():
    assert choose_attention(SDPA, torch.device("cpu"), torch.float32)[0] == SDPA
    with pytest.raises(UserError, match="does not run on cpu"):
        choose_attention(FLASH, torch.device("cpu"), torch.float32)
    with pytest.raises(UserError, match="does not run on cuda"):
        choose_attention(CPU, torch.device("cuda"), torch.bfloat16)
    assert set(BACKENDS) == {FLASH, CPU, SDPA}


@pytest.mark.gpu
def test_flash_equals_sdpa():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    tensors = [tensor.requires_grad_() for tensor in queries_keys_values(torch.bfloat16, "cuda")]
    found = packed_varlen(*tensors, cu_seqlens=OFFSETS.cuda(), max_seqlen=17)
    exact = [tensor.detach().float().requires_grad_() for tensor in tensors]
    expected = packed_sdpa(*exact, lengths=LENGTHS)
    assert torch.allclose(found.float(), expected, atol=0.02)
    weights = torch.randn_like(expected)
    (found.float() * weights).sum().backward()
    (expected * weights).sum().backward()
    for tensor, reference in zip(tensors, exact, strict=True):
        assert torch.allclose(tensor.grad.float(), reference.grad, atol=0.05)
