import pytest
import torch

from trainer.model.dropout import dropout_add, keep_mask, keep_scale


@pytest.mark.parametrize("dropout", [0.1, 0.5, 0.9])
def test_the_mask_keeps_the_share_it_should(dropout):
    torch.manual_seed(0)
    mask = keep_mask(1_000_001, dropout)
    assert mask.shape == (1_000_001,) and mask.dtype == torch.bool
    assert abs(mask.float().mean().item() - (1 - dropout)) < 5 * (dropout * (1 - dropout) / 1e6) ** 0.5
    # Each of a draw's four parts, so that no bit of it is constant.
    for part in range(4):
        assert abs(mask[part::4].float().mean().item() - (1 - dropout)) < 0.005
    pairs = (mask[1:] & mask[:-1]).float().mean().item()
    assert abs(pairs - (1 - dropout) ** 2) < 0.003


def test_the_seed_decides_the_mask():
    masks = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        masks.append(keep_mask(1000, 0.5))
    assert torch.equal(masks[0], masks[1]) and not torch.equal(masks[0], masks[2])


def test_scale_and_share_make_the_mean_exact():
    for dropout in (0.0, 0.1, 0.25, 0.333):
        kept = 1 - round(dropout * 65536) / 65536
        assert keep_scale(dropout) * kept == pytest.approx(1, abs=1e-12)


def test_dropout_add_and_its_gradients_equal_the_formula():
    update, residual = torch.randn(2, 50, 8, dtype=torch.float64).unbind(0)
    update.requires_grad_(), residual.requires_grad_()
    torch.manual_seed(3)
    found = dropout_add(update, residual, 0.3)
    torch.manual_seed(3)
    keep = keep_mask(400, 0.3).view(50, 8) * keep_scale(0.3)
    assert 0 < (keep == 0).sum() < 400
    assert torch.allclose(found, update * keep + residual, atol=1e-12)
    weights = torch.randn_like(found)
    for_update, for_residual = torch.autograd.grad((found * weights).sum(), (update, residual))
    assert torch.allclose(for_update, weights * keep, atol=1e-12) and torch.equal(for_residual, weights)


def test_no_dropout_is_a_sum():
    update, residual = torch.randn(2, 3)
    assert torch.equal(dropout_add(update, residual, 0.0), update + residual)
