"""The store: units of one split as Arrow columns, memory-mapped and read without copies."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa

from trainer.errors import UserError
from trainer.tasks.spec import PlacedUnit, Unit

LISTS = {
    "tokens": np.int32,
    "types": np.int8,
    "lengths": np.int32,
    "target": np.int32,
    "rows": np.int32,
    "offsets": np.int32,
}


def columns_of(units: Iterable[Unit]) -> dict[str, np.ndarray]:
    """Units as flat columns: for each list column its values and `<name>_sizes`, and `example`."""
    lists: dict[str, list] = {name: [] for name in LISTS}
    sizes: dict[str, list] = {name: [] for name in LISTS}
    examples = []
    for unit in units:
        values = {
            "tokens": [token for sequence in unit.sequences for token in sequence],
            "types": [kind for sequence in unit.types or () for kind in sequence],
            "lengths": [len(sequence) for sequence in unit.sequences],
            "target": unit.target,
            "rows": unit.rows,
            "offsets": unit.offsets,
        }
        for name, value in values.items():
            lists[name] += value
            sizes[name].append(len(value))
        examples.append(unit.example)
    flat = {name: np.array(lists[name], kind) for name, kind in LISTS.items()}
    flat |= {f"{name}_sizes": np.array(sizes[name], np.int64) for name in LISTS}
    return flat | {"example": np.array(examples, np.int64)}


def write_store(folder: Path, chunks: list[dict[str, np.ndarray]], references: Iterable[dict], manifest: dict) -> None:
    """Write a store atomically: a temporary folder, flushed to disk, renamed into place.

    Args:
        chunks: what `columns_of` gave for consecutive units.
        references: one JSON object an example, for scoring.
    """
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        batch = pa.record_batch(_arrays(chunks))  # a single one: columns stay contiguous
        with pa.OSFile(str(temporary / "units.arrow"), "wb") as file, pa.ipc.new_file(file, batch.schema) as writer:
            writer.write_batch(batch)
        with open(temporary / "references.jsonl", "w") as file:
            file.writelines(json.dumps(reference, ensure_ascii=False) + "\n" for reference in references)
        (temporary / "manifest.json").write_text(json.dumps(manifest, indent=1, ensure_ascii=False))
        for path in temporary.iterdir():
            with open(path, "rb") as file:
                os.fsync(file)
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(temporary, folder)
    except OSError as error:
        raise UserError(
            f"cannot write the store {folder}",
            why=str(error),
            fix="free some space, or set data.store to a folder elsewhere",
        ) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _arrays(chunks: list[dict[str, np.ndarray]]) -> dict[str, pa.Array]:
    arrays: dict[str, pa.Array] = {}
    for name, kind in LISTS.items():
        values = np.concatenate([chunk[name] for chunk in chunks] or [np.empty(0, kind)])
        sizes = np.concatenate([chunk[f"{name}_sizes"] for chunk in chunks] or [np.empty(0, np.int64)])
        offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        arrays[name] = pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(values))
    arrays["example"] = pa.array(np.concatenate([chunk["example"] for chunk in chunks] or [np.empty(0, np.int64)]))
    return arrays


class Store:
    """One prepared split, mapped into memory.

    Attributes:
        manifest: what was prepared, from what; see `trainer.data.prepare`.
        tokens: int (units,): tokens of each unit, all its sequences together.
        example: int64 (units,): the example each unit belongs to.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        try:
            self.manifest = json.loads((folder / "manifest.json").read_text())
            batch = pa.ipc.open_file(pa.memory_map(str(folder / "units.arrow"))).get_batch(0)
            self._values, self._offsets = {}, {}
            for name in LISTS:
                column = batch.column(name)
                self._values[name] = column.values.to_numpy()
                self._offsets[name] = column.offsets.to_numpy()
            self.example = batch.column("example").to_numpy()
        except (OSError, ValueError, KeyError, pa.ArrowException) as error:
            raise UserError(
                f"the store {folder} is damaged", why=str(error), fix=f"rm -r {folder}, then `xstilts prepare` again"
            ) from None
        self.tokens = np.diff(self._offsets["tokens"])

    def __len__(self) -> int:
        return len(self.tokens)

    def column(self, name: str, unit: int) -> np.ndarray:
        offsets = self._offsets[name]
        return self._values[name][offsets[unit] : offsets[unit + 1]]

    def used_vocabulary(self) -> np.ndarray:
        """Sorted distinct token ids of the split."""
        return np.flatnonzero(np.bincount(self._values["tokens"], minlength=1)).astype(np.int32)

    @property
    def sequence_lengths(self) -> np.ndarray:
        """int32 (sequences,): tokens of every sequence of the split."""
        return self._values["lengths"]

    def placed(self, unit: int, start: int) -> PlacedUnit:
        """The unit's head-side columns, its first token lying at `start` of a pack."""
        lengths = self.column("lengths", unit)
        starts = start + np.concatenate([[0], np.cumsum(lengths[:-1], dtype=np.int64)])
        return PlacedUnit(starts, lengths, self.column("target", unit), self.column("rows", unit))

    def references(self) -> list[dict]:
        with open(self.folder / "references.jsonl") as file:
            return [json.loads(line) for line in file]
