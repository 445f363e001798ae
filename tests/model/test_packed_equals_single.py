"""Packing changes nothing: against one sequence at a time, with plain attention and heads written anew."""

import numpy as np
import pytest
import torch

from tests.model.encoders import CONFIGS, tiny_encoder
from tests.stores import TASKS, mixed_prepared
from trainer.data.loader import Collator
from trainer.model.attention import CPU, SDPA
from trainer.model.fused import fuse, plain_names
from trainer.model.heads import HeadBank
from trainer.model.multitask import MultiTaskModel

TOLERANCE = 1e-5
NAMES = list(TASKS)
FACTORS = {"nli": 0.5, "choice": 0.25, "spans": 2.0, "tags": 1.0}
PAIRS = [(1, 4), (0, 2), (2, 0), (3, 7), (2, 5), (0, 9), (1, 0), (3, 1), (2, 1), (0, 0)]  # (task, unit), interleaved


@pytest.fixture(scope="module", params=["bert with types", *CONFIGS])
def case(request, tmp_path_factory):
    """(kind of encoder, prepared, units), BERT also with token type ids."""
    kind, _, typed = request.param.partition(" with ")
    return kind, *mixed_prepared(tmp_path_factory.mktemp("data"), types=2 if typed else 0)


@pytest.fixture(params=["plain", "fused"])
def layers(request):
    return request.param


def pack_of(prepared, constant_tokens=None, pairs=PAIRS):
    tasks = {name: item.task for name, item in prepared.items()}
    collator = Collator(tasks, {name: item.train for name, item in prepared.items()}, 1, constant_tokens)
    return collator(np.array([task for task, _ in pairs]), np.array([unit for _, unit in pairs]))


def model_of(kind: str, layers: str, **changes) -> MultiTaskModel:
    encoder = tiny_encoder(kind, SDPA, **changes)
    if layers == "fused":
        fuse(encoder, CPU, compiled=False)
    heads = HeadBank(TASKS, encoder.config.hidden_size, 0.0, share=False, seed=3)
    with torch.no_grad():
        for parameter in heads.parameters():
            parameter.copy_(0.3 * torch.randn_like(parameter))
    return MultiTaskModel(encoder, heads).eval()


def single(encoder, tokens: list[int], types: list[int] | None) -> torch.Tensor:
    """Hidden states (n, H) of one sequence, the way transformers documents it: neither positions nor a mask."""
    types = None if types is None else torch.tensor([types])
    return encoder(input_ids=torch.tensor([tokens]), token_type_ids=types).last_hidden_state[0]


def hidden_of(encoder, unit) -> list[torch.Tensor]:
    return [single(encoder, s, unit.types[i] if unit.types else None) for i, s in enumerate(unit.sequences)]


def sequence_head(head, row: torch.Tensor) -> torch.Tensor:
    return head.out.weight @ torch.tanh(head.dense.weight @ row + head.dense.bias) + head.out.bias


def negative_log_probability(scores: torch.Tensor, gold: int) -> torch.Tensor:
    return torch.log(torch.exp(scores).sum()) - scores[gold]


def reference(name: str, unit, hidden: list[torch.Tensor], head) -> tuple[torch.Tensor, torch.Tensor]:
    """(logits as the head gives them for this unit, its loss), each format in plain words."""
    if name == "nli":  # the first token of the sequence, a class
        logits = sequence_head(head, hidden[0][0])[None]
        return logits, negative_log_probability(logits[0], unit.target[0])
    if name == "choice":  # the first token of each option, the options compete
        logits = torch.stack([sequence_head(head, option[0]) for option in hidden])
        return logits, negative_log_probability(logits[:, 0], unit.target[0])
    rows = hidden[0]
    if name == "spans":  # no answer (the first token) and each context token compete, as start and as end
        candidates = [0, *range(unit.rows[0], unit.rows[1])]
        logits = torch.stack([head.out.weight @ rows[i] + head.out.bias for i in candidates])
        start, end = unit.target
        return logits, (negative_log_probability(logits[:, 0], start) + negative_log_probability(logits[:, 1], end)) / 2
    # tags: a class for the first piece of each word, averaged over the sentence's words
    logits = torch.stack([head.out.weight @ rows[i] + head.out.bias for i in unit.rows])
    losses = [negative_log_probability(word, tag) for word, tag in zip(logits, unit.target, strict=True)]
    return logits, sum(losses) / len(losses)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("constant_tokens", [None, 900])
def test_hidden_states(case, layers, attention, constant_tokens):
    kind, prepared, units = case
    batch = pack_of(prepared, constant_tokens)
    with torch.no_grad():
        packed = model_of(kind, layers)(batch, hidden_only=True)
        plain = tiny_encoder(kind, attention)
        singles = [state for task, unit in PAIRS for state in hidden_of(plain, units[NAMES[task]][unit])]
    expected = torch.cat(singles)
    assert expected.std() > 0.3
    assert torch.allclose(packed[: batch.tokens], expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("constant_tokens", [None, 900])
def test_logits_losses_and_gradients(case, layers, constant_tokens):
    kind, prepared, units = case
    batch, model = pack_of(prepared, constant_tokens), model_of(kind, layers)
    logits = model(batch)
    loss, sums = model(batch, FACTORS)
    loss.backward()
    found = plain_names({name: parameter.grad for name, parameter in model.named_parameters()})

    plain = tiny_encoder(kind, "eager")
    model.heads.zero_grad()
    expected_logits, expected_sums = {name: [] for name in NAMES}, dict.fromkeys(NAMES, 0.0)
    for task, number in PAIRS:
        name = NAMES[task]
        unit = units[name][number]
        unit_logits, unit_loss = reference(name, unit, hidden_of(plain, unit), model.heads.heads[name])
        expected_logits[name].append(unit_logits)
        expected_sums[name] += unit_loss
    for name in NAMES:
        assert torch.allclose(logits[name], torch.cat(expected_logits[name]), rtol=0, atol=TOLERANCE), name
    assert torch.allclose(sums, torch.stack(list(expected_sums.values())), rtol=0, atol=TOLERANCE)
    expected_loss = sum(FACTORS[name] * expected_sums[name] for name in NAMES)
    assert torch.allclose(loss, expected_loss, rtol=0, atol=TOLERANCE)

    expected_loss.backward()
    expected = {f"encoder.{name}": parameter.grad for name, parameter in plain.named_parameters()}
    expected |= {f"heads.{name}": parameter.grad for name, parameter in model.heads.named_parameters()}
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        scale = max(1.0, expected[name].abs().max().item())
        assert torch.allclose(gradient, expected[name], rtol=0, atol=TOLERANCE * scale), name
        shifts_all_scores = name.endswith("key.bias") or name == "heads.heads.choice.out.bias"  # ignored by softmax
        assert shifts_all_scores or gradient.abs().max() > 0, name


def test_sequences_do_not_see_each_other(case, layers):
    """Other tokens in one sequence change its own hidden states, and not one bit of any other's."""
    kind, prepared, _ = case
    batch, model = pack_of(prepared, 900), model_of(kind, layers)
    bounds = batch.cu_seqlens.tolist()
    with torch.no_grad():
        before = model(batch, hidden_only=True)
        for begin, end in list(zip(bounds, bounds[1:], strict=False))[::3]:
            kept = batch.input_ids.clone()
            batch.input_ids[begin:end] = 5 + (kept[begin:end] + 7) % 50
            after = model(batch, hidden_only=True)
            batch.input_ids = kept
            assert torch.equal(after[:begin], before[:begin]) and torch.equal(after[end:], before[end:])
            assert not torch.isclose(after[begin:end], before[begin:end]).all(-1).any()


def test_order_and_splitting_change_nothing(case):
    """Losses are sums over units: backwards, or in two packs, whichever tasks they lack, gives what one pack gave."""
    kind, prepared, _ = case
    model = model_of(kind, "fused")

    def loss(pairs):
        return model(pack_of(prepared, pairs=pairs), FACTORS)[0]

    with torch.no_grad():
        whole = loss(PAIRS)
        assert torch.allclose(loss(PAIRS[::-1]), whole, rtol=0, atol=TOLERANCE)
        assert torch.allclose(loss(PAIRS[:2]) + loss(PAIRS[2:]), whole, rtol=0, atol=TOLERANCE)
