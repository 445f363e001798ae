import json

import numpy as np
import pytest

from benchmarks import lengths, workload
from tests.stores import mixed_prepared
from trainer.data.prepare import tasks_of
from trainer.errors import UserError
from trainer.model.encoder import load_encoder, load_tokenizer
from trainer.session import make_planner, resolve_mixture
from trainer.tasks.intermediate import TASKS


def test_statistics_are_those_of_the_stores(tmp_path):
    prepared, units = mixed_prepared(tmp_path, train=30)
    found = lengths.describe(prepared)
    stores = [item.train for item in prepared.values()]
    used = set(np.concatenate([store.used_vocabulary() for store in stores]).tolist())
    assert found["used_vocabulary"] == len(used)
    choice = found["tasks"]["choice"]
    sizes = [len(sequence) for unit in units["choice"] for sequence in unit.sequences]
    assert choice["lengths"] == {str(n): sizes.count(n) for n in sorted(set(sizes))}
    assert (choice["choices"], choice["units"], choice["tokens"]) == (4, 30, sum(sizes))
    shapes = sorted([len(sequence) for sequence in unit.sequences] for unit in units["choice"])
    assert sorted(choice["shapes"]) == shapes and len(choice["shapes"][0]) == 4
    spans = {(len(unit.sequences[0]), *unit.rows) for unit in units["spans"]}
    assert {tuple(shape) for shape in found["tasks"]["spans"]["shapes"]} == spans
    tags = {(len(unit.sequences[0]), len(unit.rows)) for unit in units["tags"]}
    assert {tuple(shape) for shape in found["tasks"]["tags"]["shapes"]} == tags
    assert found["tasks"]["tags"]["labels"] == 5


def test_many_units_are_represented_evenly(tmp_path, monkeypatch):
    prepared, units = mixed_prepared(tmp_path, train=101)
    monkeypatch.setattr(lengths, "SHAPES", 11)
    totals = sorted(sum(map(len, unit.sequences)) for unit in units["choice"])
    shapes = lengths.describe(prepared)["tasks"]["choice"]["shapes"]
    assert [sum(shape) for shape in shapes] == totals[::10]


def test_the_committed_statistics_are_of_all_nine_tasks_and_name_no_path():
    text = lengths.PATH.read_text()
    found = json.loads(text)
    assert "/" not in text
    assert list(found["tasks"]) == list(TASKS) == list(lengths.PUBLISHED)
    for name, entry in found["tasks"].items():
        assert entry["format"] == TASKS[name].format and entry["published_examples"] == lengths.PUBLISHED[name]
        assert sum(int(n) * count for n, count in entry["lengths"].items()) == entry["tokens"]
        options = max(1, TASKS[name].choices)
        mean = np.mean([sum(shape[:options]) for shape in entry["shapes"]])
        assert mean == pytest.approx(entry["tokens"] / entry["units"], rel=0.02)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return workload.choose(tmp_path_factory.mktemp("tiny"), "tiny", units_per_task=300)


def test_synthetic_units_have_the_recorded_shapes(tiny):
    _, _, prepared = workload.open_workload(tiny.spec())
    statistics = lengths.load()["tasks"]
    for name, item in prepared.items():
        store, shapes = item.train, {tuple(shape) for shape in statistics[name]["shapes"]}
        assert len(store) == 300
        for unit in range(0, 300, 7):
            assert tuple(lengths._shape(item.task, store, unit)) in shapes
            target = store.column("target", unit)
            if item.task.format == "span_extraction":
                begin, end = store.column("rows", unit)
                assert 0 <= target[0] <= target[1] <= end - begin
            else:
                assert 0 <= target.min() and target.max() < (item.task.choices or len(item.task.labels))
        expected = np.mean([sum(shape[: max(1, item.task.choices)]) for shape in statistics[name]["shapes"]])
        assert store.tokens.mean() == pytest.approx(expected, rel=0.2)


def test_synthetic_words_are_as_many_as_in_real_tasks(tmp_path):
    statistics = lengths.load()
    workload.synthetic(tmp_path, 0, 400, 250002)
    prepared = workload.open_synthetic(tmp_path)
    used = {name: len(item.train.used_vocabulary()) for name, item in prepared.items()}
    for name in ("anli_plus", "squad_v2", "hellaswag"):  # with tokens enough to show all their words
        expected = statistics["tasks"][name]["used_vocabulary"]
        assert used[name] == pytest.approx(expected, rel=0.06)  # <s> and </s> take the place of some
    union = np.unique(np.concatenate([item.train.used_vocabulary() for item in prepared.values()]))
    assert 0.6 * statistics["used_vocabulary"] < len(union) <= statistics["used_vocabulary"] + 5
    counts = np.sort(np.bincount(prepared["squad_v2"].train._values["tokens"]))[::-1]
    assert counts[2:12].sum() > 20 * counts[1000:1010].sum() > 0  # Zipf's, behind <s> and </s>


def test_synthetic_data_depends_on_the_seed_alone(tmp_path):
    folders = [tmp_path / name for name in ("a", "b", "c")]
    stores = [
        workload.synthetic(folder, seed, 20, 2000)["qqp"].train for folder, seed in zip(folders, (0, 0, 1), strict=True)
    ]
    tokens = [store._values["tokens"].tolist() for store in stores]
    assert tokens[0] == tokens[1] != tokens[2]


def test_synthetic_data_is_planned_at_the_published_rates(tiny):
    config, _, prepared = workload.open_workload(tiny.spec("train.steps=3", "train.packs_per_step=2"))
    rates, steps = resolve_mixture(config, prepared)
    assert steps == 3 and rates["mnli"] == pytest.approx(rates["anli_plus"])  # both are beyond the cap
    sizes = lengths.PUBLISHED
    assert rates["commonsense_qa"] / rates["mnli"] == pytest.approx(sizes["commonsense_qa"] / 2**17)
    assert make_planner(config, prepared, rates).next_step().tokens > 0


def test_a_recipe_keeps_its_own_data(tmp_path):
    with pytest.raises(UserError, match="not prepared"):
        workload.choose(tmp_path, "tiny", "launch/recipes/demo.yaml", ("data.prepare=refuse", f"data.store={tmp_path}"))


def test_models_load_with_random_weights(tiny):
    config, tokenizer, prepared = workload.open_workload(tiny.spec("kernels.layers=plain"))
    encoder, _ = load_encoder(config, "packed_sdpa")
    assert encoder.config.vocab_size == 2000 and encoder.config.hidden_size == 64
    assert (tokenizer.pad_token_id, tokenizer.bos_token_id) == (1, 0) and load_tokenizer(config).is_fast
    assert tasks_of(prepared)["ccg"].labels[0] == "tag0000"
    with pytest.raises(UserError, match="unknown benchmark model"):
        workload.model_folder("huge", tiny.spec())


def test_effective_length_weighs_sequences_by_their_tokens(tmp_path):
    prepared, units = mixed_prepared(tmp_path, train=20)
    rates = {"nli": 0.5, "choice": 0.5, "spans": 0.0, "tags": 0.0}
    drawn = [len(sequence) for name in ("nli", "choice") for unit in units[name] for sequence in unit.sequences]
    expected = sum(n * n for n in drawn) / sum(drawn)  # equally many units of both
    assert workload.effective_length(prepared, rates) == pytest.approx(expected)
