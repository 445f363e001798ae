"""From a recipe to the model, and from its weights back."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from tests.model.encoders import CONFIGS
from tests.model.test_packed_equals_single import FACTORS, pack_of
from tests.stores import mixed_prepared
from trainer.config import KernelsSection, ModelSection, RunConfig
from trainer.model import vocabulary
from trainer.model.build import build_model, first_rows, plain_state
from trainer.model.fused import PostNormLayer
from trainer.model.vocabulary import NAME, kept_rows

TOKENIZER = SimpleNamespace(all_special_ids=[0, 1, 2])


@pytest.fixture
def recipe(tmp_path):
    """Of an encoder with random weights and far more embedding rows than the data uses."""
    encoder = tmp_path / "encoder"
    config = CONFIGS["xlm-roberta"].__class__(**{**CONFIGS["xlm-roberta"].to_dict(), "vocab_size": 500})
    config.save_pretrained(encoder)
    return RunConfig(model=ModelSection(encoder=str(encoder), init="random"))


def build(recipe, prepared, **model):
    recipe = replace(recipe, model=replace(recipe.model, **model))
    return build_model(recipe, prepared, TOKENIZER, torch.device("cpu"), "fp32")


def test_a_vocabulary_is_trimmed_where_that_is_worth_it(recipe, tmp_path, monkeypatch):
    prepared, _ = mixed_prepared(tmp_path)
    model, _, notes = build(recipe, prepared)
    rows = kept_rows(model.encoder)
    assert len(rows) == model.encoder.get_input_embeddings().weight.shape[0] < 70
    assert any(f"{len(rows):,} of 500 rows are trained" in note for note in notes)
    assert kept_rows(build(recipe, prepared, vocabulary="full")[0].encoder) is None
    monkeypatch.setattr(vocabulary, "WORTH_IT", 0.99)
    assert kept_rows(build(recipe, prepared)[0].encoder) is None
    assert kept_rows(build(recipe, prepared, vocabulary="trimmed")[0].encoder) is not None


def test_plain_state_undoes_all_of_it(recipe, tmp_path):
    prepared, _ = mixed_prepared(tmp_path)
    fused = build(recipe, prepared)[0]
    assert isinstance(fused.encoder.encoder.layer[0], PostNormLayer)
    plain_recipe = replace(recipe, kernels=KernelsSection(layers="plain"))
    plain = build(plain_recipe, prepared, vocabulary="full")[0].state_dict()
    restored = plain_state(fused.state_dict(), kept_rows(fused.encoder), 1.0, first_rows(recipe))
    assert restored.keys() == plain.keys()
    assert all(torch.equal(restored[name], value) for name, value in plain.items())
    decayed = plain_state(fused.state_dict(), kept_rows(fused.encoder), 0.5, first_rows(recipe))[NAME]
    left_out = [row for row in range(500) if row not in kept_rows(fused.encoder).tolist()]
    assert torch.equal(decayed[left_out], plain[NAME][left_out] * 0.5)
    assert torch.equal(decayed[kept_rows(fused.encoder)], plain[NAME][kept_rows(fused.encoder)])


@pytest.mark.parametrize("layers", ["plain", "fused"])
@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_gradient_checkpointing_changes_memory_only(recipe, tmp_path, layers, dropout):
    prepared, _ = mixed_prepared(tmp_path)
    recipe = replace(recipe, kernels=KernelsSection(layers=layers))
    gradients, runs = [], []
    for checkpointing in (False, True):
        model = build(recipe, prepared, gradient_checkpointing=checkpointing, dropout=dropout)[0].train()
        dense = model.encoder.encoder.layer[0].intermediate.dense
        dense.register_forward_hook(lambda *_, at=checkpointing: runs.append(at))
        torch.manual_seed(7)
        batch = pack_of(prepared)
        model(batch, FACTORS)[0].backward()
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in model.parameters()]))
    assert runs == [False, True, True]  # with checkpointing, the forward pass runs again in the backward pass
    assert gradients[0].abs().max() > 0 and torch.equal(*gradients)


def test_notes_say_what_was_chosen(recipe, tmp_path):
    prepared, _ = mixed_prepared(tmp_path)
    notes = build(recipe, prepared)[2]
    assert "attention: a sequence at a time, because there is no GPU" in notes and "layers: fused" in notes
    compiled = replace(recipe, kernels=KernelsSection(compile="on"))
    assert "layers: fused, elementwise parts compiled" in build(compiled, prepared)[2]
