"""Sentence vectors against plain transformers, one sentence at a time, in every way that they are asked for."""

import copy
import dataclasses

import pytest
import torch

from tests.model.encoders import CONFIGS, tiny_encoder
from trainer.config import ModelSection, RunConfig
from trainer.distributed import World
from trainer.errors import UserError
from trainer.evaluation.vectors import choose_layer, open_encoder, sentence_vectors
from trainer.model.attention import CPU, SDPA
from trainer.model.fused import fuse

ALONE = World(0, 1, 0, 1, torch.device("cpu"))
SENTENCES = [
    "the dog and the cat",
    "",
    "where is the blue house in the city to sit",
    "a man ran",
    "what? ~!",
    "a man ran",
    "the red dog sat; the blue cat ran, and what of the woman who was in the city?",
]
TOLERANCE = 1e-5


@pytest.fixture(params=list(CONFIGS))
def kind(request):
    return request.param


def encoder_of(kind: str, attention: str, tokenizer, layers: str = "plain") -> torch.nn.Module:
    encoder = tiny_encoder(kind, attention, vocab_size=len(tokenizer), num_hidden_layers=3)
    if layers == "fused":
        fuse(encoder, CPU, compiled=False)
    return encoder


@torch.no_grad()
def plain_vectors(encoder, tokenizer, sentences, pooling: str, max_length: int) -> torch.Tensor:
    """(layers + 1, n, H), as transformers documents it."""
    vectors = []
    for sentence in sentences:
        inputs = tokenizer(sentence, truncation=True, max_length=max_length, return_tensors="pt")
        states = torch.stack(encoder(input_ids=inputs["input_ids"], output_hidden_states=True).hidden_states)[:, 0]
        vectors.append(states[:, 0] if pooling == "cls" else states.mean(1))
    return torch.stack(vectors, 1)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("layers", ["plain", "fused"])
@pytest.mark.parametrize("pack_tokens", [40, 4096])
def test_every_layer_is_what_one_sentence_alone_gives(kind, layers, pooling, pack_tokens, tiny_tokenizer):
    expected = plain_vectors(encoder_of(kind, "eager", tiny_tokenizer), tiny_tokenizer, SENTENCES, pooling, 30)
    encoder = encoder_of(kind, SDPA, tiny_tokenizer, layers)
    settings = {"pooling": pooling, "pack_tokens": pack_tokens, "max_length": 30}
    found = sentence_vectors(encoder, tiny_tokenizer, SENTENCES, [0, 1, 2, 3], ALONE, **settings)
    assert found.dtype == torch.float32 and found.shape == (4, len(SENTENCES), 32)
    assert expected.std() > 0.2 and (expected[1:] - expected[:-1]).abs().amax((1, 2)).min() > 0.1
    assert torch.allclose(found, expected, rtol=0, atol=TOLERANCE)
    some = sentence_vectors(encoder, tiny_tokenizer, SENTENCES, [2, 0], ALONE, **settings)
    assert torch.equal(some, found[[2, 0]])


def test_layers_above_the_highest_are_not_run(tiny_tokenizer):
    encoder = encoder_of("xlm-roberta", SDPA, tiny_tokenizer)
    expected = sentence_vectors(encoder, tiny_tokenizer, SENTENCES, [1], ALONE)
    with torch.no_grad():
        encoder.encoder.layer[1].output.dense.weight.fill_(torch.nan)
    assert torch.equal(sentence_vectors(encoder, tiny_tokenizer, SENTENCES, [1], ALONE), expected)
    with pytest.raises(UserError, match="not all numbers"):
        sentence_vectors(encoder, tiny_tokenizer, SENTENCES, [2], ALONE)


def test_truncated_sentences_are_counted(tiny_tokenizer):
    encoder = encoder_of("xlm-roberta", SDPA, tiny_tokenizer)
    lengths = [len(tiny_tokenizer(sentence)["input_ids"]) for sentence in SENTENCES]
    counts = {}
    limit = sorted(lengths)[-2] - 1
    sentence_vectors(encoder, tiny_tokenizer, SENTENCES, [1], ALONE, max_length=limit, counts=counts)
    assert counts == {"truncated": 2}
    dogs = [" ".join(["dog"] * count) for count in (200, 66)]  # the encoder has 68 positions, two for special tokens
    found = sentence_vectors(encoder, tiny_tokenizer, dogs, [1], ALONE, counts=counts)
    assert counts == {"truncated": 3}
    assert torch.allclose(found[0, 0], found[0, 1], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("size", [2, 3, 50])
def test_ranks_share_the_packs_and_change_no_bit(size, tiny_tokenizer):
    """Without a process group each rank keeps its own share: together they are the whole, and nothing is done twice."""
    encoder = encoder_of("xlm-roberta", SDPA, tiny_tokenizer)
    whole = sentence_vectors(encoder, tiny_tokenizer, SENTENCES, [0, 3], ALONE, pack_tokens=30)
    told, shares = [], []
    for rank in range(size):
        world = dataclasses.replace(ALONE, rank=rank, size=size)
        progress = lambda done, total, rank=rank: told.append((rank, done, total))  # noqa: E731
        settings = {"pack_tokens": 30, "progress": progress}
        shares.append(sentence_vectors(encoder, tiny_tokenizer, SENTENCES, [0, 3], world, **settings))
    assert torch.equal(sum(shares), whole)
    assert all(sum(bool(share[0, i].any()) for share in shares) == 1 for i in range(len(SENTENCES)))
    packs = [total for rank, done, total in told if done == total]
    assert len(told) == sum(packs) and max(packs) - min(packs) <= 1 and len(packs) == min(size, sum(packs)) > 1


def test_no_sentences(tiny_tokenizer):
    encoder = encoder_of("bert", SDPA, tiny_tokenizer)
    assert sentence_vectors(encoder, tiny_tokenizer, [], [0, 1], ALONE).shape == (2, 0, 32)


def test_many_sentences_are_tokenised_in_parts(tiny_tokenizer, monkeypatch):
    encoder = encoder_of("bert", SDPA, tiny_tokenizer)
    expected = sentence_vectors(encoder, tiny_tokenizer, SENTENCES, [3], ALONE)
    monkeypatch.setattr("trainer.evaluation.vectors.CHUNK", 3)
    assert torch.equal(sentence_vectors(encoder, tiny_tokenizer, SENTENCES, [3], ALONE), expected)


@pytest.mark.parametrize(("depth", "default"), [(24, 14), (12, 8), (6, 4), (3, 2), (36, 21)])
def test_the_default_layer_is_the_papers_in_proportion(depth, default):
    encoder = torch.nn.Module()
    encoder.encoder = torch.nn.Module()
    encoder.encoder.layer = torch.nn.ModuleList([torch.nn.Identity() for _ in range(depth)])
    assert choose_layer(None, encoder) == default
    assert [choose_layer(layer, encoder) for layer in (0, "1", depth, -1, "last")] == [0, 1, depth, depth, depth]
    for unknown in (depth + 1, -2, "first", "1.5", ""):
        with pytest.raises(UserError, match="has no layer") as error:
            choose_layer(unknown, encoder)
        assert f"to {depth}, the last layer" in error.value.why


def test_unknown_pooling(tiny_tokenizer):
    with pytest.raises(UserError, match="unknown pooling 'max'") as error:
        sentence_vectors(encoder_of("bert", SDPA, tiny_tokenizer), tiny_tokenizer, ["a"], [0], ALONE, pooling="max")
    assert "mean, cls" in error.value.fix


@pytest.mark.parametrize("model", [{}, {"init": "random", "tokenizer": "elsewhere"}])
def test_an_encoder_is_opened_from_its_folder_whatever_the_recipe_trains(model, tiny_tokenizer, tmp_path):
    plain = encoder_of("xlm-roberta", "eager", tiny_tokenizer)
    copy.deepcopy(plain).save_pretrained(tmp_path / "model")
    tiny_tokenizer.save_pretrained(tmp_path / "model")
    config = RunConfig(model=ModelSection(encoder="another", **model))
    encoder, tokenizer = open_encoder(str(tmp_path / "model"), config, ALONE)
    assert not encoder.training and any("qkv" in name for name, _ in encoder.named_parameters())
    expected = plain_vectors(plain, tiny_tokenizer, SENTENCES, "mean", 68)
    found = sentence_vectors(encoder, tokenizer, SENTENCES, [0, 1, 2, 3], ALONE)
    assert torch.allclose(found, expected, rtol=0, atol=TOLERANCE)


def test_a_missing_encoder_is_named(tmp_path):
    with pytest.raises(UserError, match="nowhere"):
        open_encoder(str(tmp_path / "nowhere"), RunConfig(), ALONE)
