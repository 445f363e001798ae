import dataclasses
import math

import numpy as np
import pytest
import torch

from tests.stores import TASKS, random_units
from tests.tasks.formats import place
from trainer.errors import UserError
from trainer.model.heads import HEADS, HeadBank
from trainer.tasks import FORMATS
from trainer.tasks.spec import Task

HIDDEN = 16


def bank(tasks=TASKS, share=False, seed=0, dropout=0.0) -> HeadBank:
    return HeadBank(tasks, HIDDEN, dropout, share, seed)


def arrays_of(task: Task, units) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(value) for name, value in FORMATS[task.format].collate(place(units), task).items()}


def family(*names: str, **changes) -> dict[str, Task]:
    return {name: dataclasses.replace(TASKS["nli"], name=name, **changes) for name in names}


def test_there_is_a_head_for_every_format():
    assert HEADS.keys() == FORMATS.keys()


@pytest.mark.parametrize("name", TASKS)
def test_no_rows_give_no_loss_and_zero_gradients(name):
    """ZeRO reduces gradients of all parameters on all ranks: each must have one, whatever the pack holds."""
    heads = bank({name: TASKS[name]})
    hidden = torch.randn(7, HIDDEN, requires_grad=True)
    arrays = {name: arrays_of(TASKS[name], [])}
    logits = heads(hidden, arrays)
    loss = heads.loss_sum(name, logits[name], arrays[name])
    assert loss.item() == 0.0
    loss.backward()
    for parameter in (hidden, *heads.parameters()):
        assert parameter.grad is not None and not parameter.grad.any()


@pytest.mark.parametrize("name", TASKS)
def test_indifferent_logits_give_the_entropy_of_a_guess(name):
    task, units = TASKS[name], random_units(TASKS[name], 5)
    arrays = arrays_of(task, units)
    logits = torch.zeros(len(arrays["rows"]), FORMATS[task.format].outputs(task))
    candidates = [1 + unit.rows[-1] - unit.rows[0] for unit in units if unit.rows]
    options = {"nli": 5 * [3], "choice": 5 * [4], "tags": 5 * [5], "spans": candidates}
    expected = sum(math.log(n) for n in options[name])
    assert bank().loss_sum(name, logits, arrays).item() == pytest.approx(expected, rel=1e-5)


def test_windows_whose_answer_was_not_found_give_no_loss():
    units = random_units(TASKS["spans"], 2)
    units[0].target = [-100, -100]
    arrays = arrays_of(TASKS["spans"], units)
    logits = torch.randn(len(arrays["rows"]), 2, requires_grad=True)
    loss = bank().loss_sum("spans", logits, arrays)
    first = 1 + units[0].rows[1] - units[0].rows[0]
    alone = arrays_of(TASKS["spans"], units[1:])
    assert torch.isclose(loss, bank().loss_sum("spans", logits[first:], alone))
    loss.backward()
    assert not logits.grad[:first].any() and logits.grad[first:].all()


def test_candidates_of_other_windows_do_not_compete():
    """Windows of unequal size: neither padding nor a neighbour's logits enter a window's softmax."""
    units = random_units(TASKS["spans"], 3)
    arrays = arrays_of(TASKS["spans"], units)
    logits = torch.randn(len(arrays["rows"]), 2)
    sizes = [1 + unit.rows[1] - unit.rows[0] for unit in units]
    assert len(set(sizes)) > 1
    expected = 0.0
    for unit, part in zip(units, logits.split(sizes), strict=True):
        expected -= sum(part.log_softmax(0)[unit.target[i], i] for i in (0, 1)) / 2
    assert torch.isclose(bank().loss_sum("spans", logits, arrays), expected)


def test_the_loss_of_spans_has_a_deterministic_kernel_on_gpus():
    """torch's for a third dimension (nll_loss2d) has none, and `train.deterministic` would end the run."""
    units = random_units(TASKS["spans"], 3)
    arrays = arrays_of(TASKS["spans"], units)
    logits = torch.randn(len(arrays["rows"]), 2, requires_grad=True)
    waiting, names = [bank().loss_sum("spans", logits, arrays).grad_fn], set()
    while waiting:
        if node := waiting.pop():
            names.add(node.name())
            waiting += [below for below, _ in node.next_functions]
    assert "NllLossBackward0" in names and "NllLoss2DBackward0" not in names


def test_sentences_count_equally_whatever_their_words():
    units = random_units(TASKS["tags"], 4)
    arrays = arrays_of(TASKS["tags"], units)
    logits = torch.randn(len(arrays["rows"]), 5)
    parts = logits.split([len(unit.rows) for unit in units])
    means = [-p.log_softmax(-1)[range(len(p)), u.target].mean() for u, p in zip(units, parts, strict=True)]
    assert len({len(part) for part in parts}) > 1
    assert torch.isclose(bank().loss_sum("tags", logits, arrays), sum(means))


def test_half_precision_logits_are_summed_in_full():
    arrays = arrays_of(TASKS["nli"], random_units(TASKS["nli"], 50))
    assert bank().loss_sum("nli", torch.randn(50, 3).bfloat16(), arrays).dtype == torch.float32


def test_tasks_of_a_family_share_a_head_on_request():
    tasks = {**family("mnli", "anli"), "choice": TASKS["choice"]}
    assert list(bank(tasks).heads) == ["mnli", "anli", "choice"]
    shared = bank(tasks, share=True)
    assert list(shared.heads) == ["nli_family", "choice"]
    hidden = torch.randn(40, HIDDEN)
    units = random_units(TASKS["nli"], 3)
    arrays = {"mnli": arrays_of(TASKS["nli"], units[:1]), "anli": arrays_of(TASKS["nli"], units[1:])}
    arrays["choice"] = arrays_of(TASKS["choice"], [])
    logits = shared(hidden, arrays)
    assert list(logits) == ["mnli", "anli", "choice"]
    for name in ("mnli", "anli"):
        assert torch.allclose(logits[name], shared.heads["nli_family"](hidden[arrays[name]["rows"]]))
    apart = bank(tasks)(hidden, arrays)
    assert not torch.allclose(apart["mnli"], apart["anli"][:1])


@pytest.mark.parametrize("changes", [{"labels": ("yes", "no")}, {"labels": ("no", "maybe", "yes")}])
def test_a_family_with_different_labels_cannot_share(changes):
    tasks = {**family("mnli"), **family("rte", **changes)}
    with pytest.raises(UserError, match="mnli and rte cannot share a head") as caught:
        bank(tasks, share=True)
    assert "model.heads=task" in caught.value.fix
    bank(tasks)


def weights(heads: HeadBank, name: str) -> np.ndarray:
    return torch.cat([parameter.flatten() for parameter in heads.heads[name].parameters()]).detach().numpy()


def test_a_heads_first_weights_are_its_own():
    """Another task in the mixture, their order, or torch's global generator change no head's start."""
    alone = weights(bank({"tags": TASKS["tags"]}), "tags")
    torch.manual_seed(99)
    among = bank(dict(reversed(TASKS.items())))
    assert np.array_equal(weights(among, "tags"), alone)
    two = bank(family("mnli", "anli"))
    assert not np.array_equal(weights(two, "mnli"), weights(two, "anli"))
    assert not np.array_equal(weights(bank({"tags": TASKS["tags"]}, seed=1), "tags"), alone)


def test_first_weights_are_small_and_biases_zero():
    for name, parameter in bank().named_parameters():
        if name.endswith("bias"):
            assert not parameter.any()
        else:
            assert parameter.abs().max() < 0.1 and 0.01 < parameter.std() < 0.03


@pytest.mark.parametrize("name", TASKS)
def test_dropout_is_active_in_training_only(name):
    heads, hidden = bank(dropout=0.5), torch.randn(500, HIDDEN)
    arrays = {other: arrays_of(task, random_units(task, 4 * (other == name))) for other, task in TASKS.items()}
    heads.eval()
    assert torch.equal(heads(hidden, arrays)[name], heads(hidden, arrays)[name])
    heads.train()
    assert not torch.equal(heads(hidden, arrays)[name], heads(hidden, arrays)[name])


def test_language_variants_of_a_task_share_its_head_under_any_setting():
    nli = dataclasses.replace(TASKS["nli"], family="")
    tasks = {task.name: task for task in (nli, nli.in_language("de"), nli.in_language("fr"))}
    assert list(bank(tasks).heads) == ["nli"] and bank(tasks).members == {"nli": ["nli", "nli-de", "nli-fr"]}
    assert list(bank({name: tasks[name] for name in ("nli-de", "nli-fr")}).heads) == ["nli"]
    assert np.array_equal(weights(bank(tasks), "nli"), weights(bank({"nli": nli}), "nli"))
    other = dataclasses.replace(nli, name="xnli", head="nli")
    assert bank({"nli": nli, "xnli": other}).members == {"nli": ["nli", "xnli"]}
    tasks["nli-de"] = dataclasses.replace(tasks["nli-de"], labels=("yes", "no"))
    with pytest.raises(UserError, match="nli and nli-de cannot share a head") as caught:
        bank(tasks)
    assert "labels" in caught.value.fix
