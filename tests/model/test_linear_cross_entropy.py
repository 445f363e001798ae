import pytest
import torch
import torch.nn.functional as F

from trainer.model.linear_cross_entropy import linear_cross_entropy, linear_scores


def tensors(rows=70, dtype=torch.float32):
    """(rows, weight, bias), their targets, and how much each row's loss counts."""
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(shape, generator=generator).to(dtype) for shape in ((rows, 16), (300, 16), (300,))]
    target = torch.randint(0, 300, (rows,), generator=generator)
    return [x.requires_grad_() for x in inputs], target, torch.rand(rows, generator=generator)


def plain(inputs, target) -> torch.Tensor:
    return F.cross_entropy(inputs[0] @ inputs[1].T + inputs[2], target, reduction="none")


@pytest.mark.parametrize("rows, chunk", [(70, 16), (70, 100), (64, 16), (1, 16)])
def test_loss_and_gradients_equal_those_of_all_logits(rows, chunk):
    found, target, weights = tensors(rows)
    exact, *_ = tensors(rows)
    loss, losses = linear_cross_entropy(*found, target, weights, chunk)
    expected = plain(exact, target)
    assert torch.allclose(losses, expected, rtol=1e-5) and not losses.requires_grad
    expected = (expected * weights).sum()
    assert torch.allclose(loss, expected, rtol=1e-5)
    (3 * loss).backward()
    (3 * expected).backward()
    for tensor, reference in zip(found, exact, strict=True):
        assert torch.allclose(tensor.grad, reference.grad, atol=1e-5)


def test_no_rows_cost_nothing_and_have_gradients():
    found, target, weights = tensors(0)
    loss, losses = linear_cross_entropy(*found, target, weights)
    loss.backward()
    assert loss.item() == 0 and losses.shape == (0,)
    assert all(tensor.grad.abs().sum() == 0 for tensor in found)


def test_bf16_gradients_add_up_in_fp32():
    found, target, weights = tensors(dtype=torch.bfloat16)
    exact, *_ = tensors()
    linear_cross_entropy(*found, target, weights, 8)[0].backward()
    (plain(exact, target) * weights).sum().backward()
    assert found[1].grad.dtype == torch.bfloat16
    cosine = F.cosine_similarity(found[1].grad.float().flatten(), exact[1].grad.flatten(), dim=0)
    assert cosine > 0.999


def test_all_logits_never_exist():
    """The largest tensor is (chunk, V), seen from the profiler's allocations."""
    found, target, weights = tensors(2000)
    for run in (lambda: linear_cross_entropy(*found, target, weights, 50)[0].backward(), scores_without_gradients):
        with torch.profiler.profile(profile_memory=True) as profile:
            run()
        largest = max(event.cpu_memory_usage for event in profile.events())
        assert 50 * 300 * 4 <= largest < 2000 * 300 * 4 / 2


def scores_without_gradients():
    found, target, _ = tensors(2000)
    with torch.no_grad():
        return linear_scores(*found, target, 50)


@pytest.mark.parametrize("rows, chunk", [(70, 16), (70, 100), (0, 16)])
def test_scores_are_losses_and_first_guesses(rows, chunk):
    found, target, _ = tensors(rows)
    with torch.no_grad():
        best = (found[0] @ found[1].T + found[2]).argmax(-1) if rows else target
        target[: rows // 2] = best[: rows // 2]
        scores = linear_scores(*found, target, chunk)
        assert scores.shape == (rows, 2) and scores.dtype == torch.float32
        assert torch.allclose(scores[:, 0], plain(found, target), rtol=1e-5)
        assert torch.equal(scores[:, 1], (best == target).float())
