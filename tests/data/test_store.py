import json
import os

import numpy as np
import pyarrow as pa
import pytest

from tests.stores import TASKS, random_units, store_of
from trainer.data import store as store_module
from trainer.data.store import LISTS, Store, columns_of, write_store
from trainer.errors import UserError

MANIFEST = {"fingerprint": {}, "labels": ["a"], "examples": 2, "counts": {"truncated": 1}}


def flat(unit) -> dict[str, list[int]]:
    return {
        "tokens": sum(unit.sequences, []),
        "types": sum(unit.types or [], []),
        "lengths": [len(sequence) for sequence in unit.sequences],
        "target": unit.target,
        "rows": unit.rows,
        "offsets": unit.offsets,
    }


@pytest.mark.parametrize("types", [0, 2])
@pytest.mark.parametrize("name", TASKS)
def test_round_trip(tmp_path, name, types):
    units = random_units(TASKS[name], 9, types=types)
    store = store_of(tmp_path, units)
    assert len(store) == 9
    for i, unit in enumerate(units):
        assert {column: store.column(column, i).tolist() for column in LISTS} == flat(unit)
        assert store.tokens[i] == sum(map(len, unit.sequences))
        assert store.example[i] == unit.example
    assert store.sequence_lengths.tolist() == [len(s) for unit in units for s in unit.sequences]
    assert store.used_vocabulary().tolist() == sorted({t for unit in units for s in unit.sequences for t in s})


def test_chunks_are_joined_in_order(tmp_path):
    units = random_units(TASKS["spans"], 10)
    chunks = [columns_of(units[:3]), columns_of([]), columns_of(units[3:])]
    write_store(tmp_path / "s", chunks, [{"id": "Käse"}, {"id": "b"}], MANIFEST)
    store = Store(tmp_path / "s")
    assert [store.column("tokens", i).tolist() for i in range(10)] == [unit.sequences[0] for unit in units]
    assert store.references() == [{"id": "Käse"}, {"id": "b"}]
    assert store.manifest == MANIFEST


def test_no_units(tmp_path):
    store = store_of(tmp_path, [])
    assert len(store) == 0
    assert store.used_vocabulary().tolist() == []


def test_placed_gives_starts_behind_the_offset(tmp_path):
    unit = random_units(TASKS["choice"], 1)[0]
    placed = store_of(tmp_path, [unit]).placed(0, 1000)
    ends = np.cumsum([len(sequence) for sequence in unit.sequences])
    assert placed.starts.tolist() == [1000, *(1000 + ends[:-1])]
    assert placed.starts.dtype == np.int64
    assert placed.lengths.tolist() == [len(sequence) for sequence in unit.sequences]
    assert placed.target.tolist() == unit.target


def test_columns_are_views_of_the_mapped_file(tmp_path):
    """Nothing is read until it is needed: no column, and no unit of it, has memory of its own."""
    store = store_of(tmp_path, random_units(TASKS["spans"], 50))
    before = pa.total_allocated_bytes()
    again = Store(store.folder)
    assert pa.total_allocated_bytes() == before
    for name in LISTS:
        part = again.column(name, 7)
        assert not part.flags.owndata and not part.flags.writeable
        assert np.shares_memory(part, again._values[name]) or not len(part)
    assert not again.sequence_lengths.flags.owndata


@pytest.mark.parametrize("name", ["units.arrow", "manifest.json"])
@pytest.mark.parametrize("damage", ["truncated", "missing", "overwritten"])
def test_damage_is_named(tmp_path, name, damage):
    folder = store_of(tmp_path, random_units(TASKS["nli"], 50)).folder
    path = folder / name
    content = path.read_bytes()
    path.unlink()  # a store that is still mapped elsewhere stays whole
    if damage == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "overwritten":
        path.write_bytes(b"\0" * len(content))
    with pytest.raises(UserError, match="damaged") as caught:
        Store(folder)
    assert str(folder) in caught.value.what
    assert "xstilts prepare" in caught.value.fix


def left_in(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store_module.pa, "OSFile", full)
    with pytest.raises(UserError, match="cannot write the store") as caught:
        store_of(tmp_path, random_units(TASKS["nli"], 3))
    assert "No space left" in caught.value.why
    assert left_in(tmp_path) == []


def test_a_fault_in_the_middle_leaves_nothing(tmp_path):
    def references():
        yield {"id": "1"}
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_store(tmp_path / "s", [columns_of(random_units(TASKS["nli"], 3))], references(), MANIFEST)
    assert left_in(tmp_path) == []


def test_the_folder_appears_complete(tmp_path, monkeypatch):
    """At the moment of renaming, every file is there."""
    rename, seen = os.replace, []
    monkeypatch.setattr(store_module.os, "replace", lambda a, b: (seen.extend(left_in(a)), rename(a, b)))
    store_of(tmp_path, random_units(TASKS["nli"], 3))
    assert seen == ["manifest.json", "references.jsonl", "units.arrow"]
    assert left_in(tmp_path) == ["store"]


def test_an_unfinished_folder_is_replaced(tmp_path):
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "units.arrow").write_text("half")
    assert len(store_of(tmp_path, random_units(TASKS["nli"], 3))) == 3


def test_the_manifest_is_readable_text(tmp_path):
    folder = store_of(tmp_path, random_units(TASKS["nli"], 2)).folder
    assert json.loads((folder / "manifest.json").read_text())["examples"] == 2
