import json
import sys

import pytest
import torch

from tests.model.encoders import tiny_encoder
from trainer.config import DataSection, RunConfig
from trainer.data.retrieval_files import ParallelText
from trainer.distributed import World
from trainer.errors import UserError
from trainer.evaluation import retrieval
from trainer.evaluation.layer_sweep import sweep_layers, write_sweep
from trainer.model.attention import SDPA
from trainer.tasks.xtreme import TARGETS

ALONE = World(0, 1, 0, 1, torch.device("cpu"))


@pytest.fixture
def config(tmp_path, monkeypatch):
    """Two languages whose vectors turn by layer; an encoder of two layers has three hidden states."""
    folder = tmp_path / "data" / "tatoeba"
    folder.mkdir(parents=True)
    for iso3, lines in (("deu", "1 0\n0 1\n"), ("fra", "0 1\n0 1\n"), ("rus", "")):
        (folder / f"tatoeba.{iso3}-eng.eng").write_text("1 0\n0 1\n" if lines else "")
        (folder / f"tatoeba.{iso3}-eng.{iso3}").write_text(lines)
    calls = []

    def vectors(encoder, tokenizer, sentences, layers, **_):
        calls.append(list(layers))
        numbers = torch.tensor([[float(n) for n in sentence.split()] for sentence in sentences])
        noise = torch.tensor([[0.0, 3.0]])  # from layer 1 on all are nearly alike, in layer 2 nothing is left
        return torch.stack([numbers * (layer < 2) + noise * min(layer, 1) for layer in layers])

    monkeypatch.setattr(retrieval, "sentence_vectors", vectors)
    return RunConfig(data=DataSection(source="files", folder=str(tmp_path / "data"))), calls


def test_all_layers_come_from_one_pass(config, tmp_path):
    config, calls = config
    tasks = {"tatoeba": TARGETS["tatoeba"]}
    sweep = sweep_layers(tiny_encoder("bert", SDPA), None, config, ALONE, tasks, ["de", "fr", "ru"])
    assert calls == [[0, 1, 2]]
    found = sweep["tasks"]["tatoeba"]
    assert sweep["layers"] == [0, 1, 2] and sweep["default_layer"] == 1 and sweep["pooling"] == "mean"
    assert found["languages"] == {"de": [100.0, 100.0, 50.0], "fr": [50.0, 50.0, 50.0]}
    assert found["average"] == [75.0, 75.0, 50.0] and found["best_layer"] == 0 and found["metric"] == "accuracy"
    assert found["skipped"] == {"ru": "no test examples"} and "no rows" in found["skipped_details"]["ru"]
    assert not any("hidden_states" in note for note in found["notes"])

    path, picture = write_sweep(tmp_path / "out", sweep)
    assert json.loads(path.read_text()) == sweep
    assert picture.read_bytes().startswith(b"\x89PNG") and {path.name, picture.name} == {
        "layer_sweep.json", "layer_sweep.png",
    }  # fmt: skip


def test_layers_run_in_groups_where_memory_is_short(config, monkeypatch):
    """Eight sentences of width 32 take 1,024 bytes a layer, of half of what is free."""
    config, calls = config
    arguments = tiny_encoder("bert", SDPA), None, config, ALONE, {"tatoeba": TARGETS["tatoeba"]}, ["de", "fr", "ru"]
    whole = sweep_layers(*arguments)
    for free, groups in ((4 * 1024, [[0, 1], [2]]), (2 * 1024, [[0], [1], [2]]), (1024, [[0], [1], [2]])):
        calls.clear()
        monkeypatch.setattr(retrieval, "available_memory", lambda free=free: free)
        assert sweep_layers(*arguments) == whole
        assert calls == groups
    calls.clear()
    monkeypatch.setattr(retrieval, "available_memory", lambda: 1023)
    with pytest.raises(UserError, match="the vectors of 8 sentences need 0.0 GB, of which 0.0 GB are free"):
        sweep_layers(*arguments)
    assert not calls


def test_memory_is_shared_by_the_processes_of_a_host(monkeypatch):
    monkeypatch.setattr(retrieval, "available_memory", lambda: 12_000)
    sizes = [[len(group) for group in retrieval.layer_groups(range(5), 10, 25, World(0, n, 0, n, ALONE.device))]
             for n in (1, 2, 4)]  # fmt: skip
    assert sizes == [[5], [3, 2], [1] * 5]


def test_bucc_holds_one_split_of_one_language_at_a_time():
    text = ParallelText(["a"] * 3, ["b"] * 4, [], [], [])
    longer = ParallelText(["a"] * 30, ["b"] * 4, [], [], [])
    assert retrieval.sentences_at_once(TARGETS["bucc2018"], {"de": (text, longer), "fr": (text, text)}) == 34
    assert retrieval.sentences_at_once(TARGETS["lareqa"], {"de": (text,), "fr": (longer,)}) == 41
    assert retrieval.sentences_at_once(TARGETS["bucc2018"], {}) == 0


def test_three_tasks_have_a_panel_each(tmp_path):
    task = {"metric": "f1", "average": [1.0, 2.0], "best_layer": 1, "languages": {"de": [1.0, 2.0]}}
    sweep = {"pooling": "cls", "layers": [0, 1], "default_layer": 1, "tasks": dict.fromkeys("abc", task)}
    assert write_sweep(tmp_path, sweep)[1].stat().st_size > 10_000


def test_nothing_to_plot(config, tmp_path):
    config, _ = config
    tasks = {"tatoeba": TARGETS["tatoeba"]}
    sweep = sweep_layers(tiny_encoder("bert", SDPA), None, config, ALONE, tasks, ["ru"])
    assert sweep["tasks"] == {}
    with pytest.raises(UserError, match="no score to plot"):
        write_sweep(tmp_path, sweep)


def test_without_matplotlib_it_says_so_before_any_work(config, monkeypatch):
    config, calls = config
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(UserError, match="needs matplotlib") as error:
        sweep_layers(tiny_encoder("bert", SDPA), None, config, ALONE, {"tatoeba": TARGETS["tatoeba"]})
    assert "xstilts[bench]" in error.value.fix and not calls
