import pytest
import torch
import torch.nn.functional as F

from trainer.model.linear_cross_entropy import linear_cross_entropy


def tensors(rows=70, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(shape, generator=generator).to(dtype) for shape in ((rows, 16), (300, 16), (300,))]
    return [x.requires_grad_() for x in inputs], torch.randint(0, 300, (rows,), generator=generator)


@pytest.mark.parametrize("rows, chunk", [(70, 16), (70, 100), (64, 16), (1, 16)])
def test_loss_and_gradients_equal_those_of_all_logits(rows, chunk):
    found, target = tensors(rows)
    exact, _ = tensors(rows)
    loss = linear_cross_entropy(*found, target, chunk)
    expected = F.cross_entropy(exact[0] @ exact[1].T + exact[2], target, reduction="sum")
    assert torch.allclose(loss, expected, rtol=1e-5)
    (3 * loss).backward()
    (3 * expected).backward()
    for tensor, reference in zip(found, exact, strict=True):
        assert torch.allclose(tensor.grad, reference.grad, atol=1e-5)


def test_no_rows_cost_nothing_and_have_gradients():
    found, target = tensors(0)
    loss = linear_cross_entropy(*found, target)
    loss.backward()
    assert loss.item() == 0 and all(tensor.grad.abs().sum() == 0 for tensor in found)


def test_bf16_gradients_add_up_in_fp32():
    found, target = tensors(dtype=torch.bfloat16)
    exact, _ = tensors()
    linear_cross_entropy(*found, target, 8).backward()
    F.cross_entropy(exact[0] @ exact[1].T + exact[2], target, reduction="sum").backward()
    assert found[1].grad.dtype == torch.bfloat16
    cosine = F.cosine_similarity(found[1].grad.float().flatten(), exact[1].grad.flatten(), dim=0)
    assert cosine > 0.999


def test_all_logits_never_exist():
    """The largest tensor is (chunk, V), seen from the profiler's allocations."""
    found, target = tensors(2000)
    with torch.profiler.profile(profile_memory=True) as profile:
        linear_cross_entropy(*found, target, 50).backward()
    largest = max(event.cpu_memory_usage for event in profile.events())
    assert 50 * 300 * 4 <= largest < 2000 * 300 * 4 / 2
