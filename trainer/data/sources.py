"""Where labelled rows come from: the Hugging Face hub, local files, or the built-in sample."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import xxhash

from trainer.config import DataSection
from trainer.data.readers import labels_beside, read_rows
from trainer.errors import NoExamples, UserError
from trainer.tasks.languages import fill_in, has_placeholder, language_of
from trainer.tasks.spec import HubPart, Task

File = tuple[str, Path]  # (name that does not depend on the machine, path)


def iter_examples(
    task: Task, split: str, data: DataSection, counts: Counter[str] | None = None
) -> Iterator[tuple[str, dict]]:
    """(place, row whose columns carry role names) of every row of a split, always in the same order.

    `data.files` decides where it speaks of the split; then `data.source`. A task that is not on the hub is read from
    files under any source, which lets a recipe mix its own files with the nine tasks.

    Args:
        counts: gets `other_language`, the rows that the task's `keep` leaves out.

    Raises:
        NoExamples: the only file of the split has no rows.
        UserError: the hub cannot be reached, a file is missing or malformed, a column is missing.
    """
    for place, row in raw_rows(task, split, data):
        if task.keep is None or task.keep(row, task.language):
            yield _with_roles(place, row, task)
        elif counts is not None:
            counts["other_language"] += 1


def raw_rows(task: Task, split: str, data: DataSection) -> Iterator[tuple[str, dict]]:
    """(place, columns) of every row of a split, as they are in the source; raises as `iter_examples` does."""
    if on_hub(task, split, data):
        for part in task.hub_parts(split):
            for i, row in enumerate(_hub_rows(part)):
                yield f"{_name(part)}[{i}]", row
        return
    files = find_files(task, split, data)
    for _, path in files:
        try:
            yield from read_rows(path, task)
        except NoExamples as error:
            if len(files) > 1:  # the others have examples, so the split is not empty but damaged
                raise UserError(error.what, why=f"one of {len(files)} files", fix=error.fix) from None
            raise NoExamples(f"{task.name} ({split}) is empty: {error.what}", fix=error.fix) from None


def source_fingerprint(task: Task, split: str, data: DataSection) -> str:
    """128-bit hash of what `iter_examples` reads: names and bytes of files, or the hub's names and revisions.

    Raises:
        UserError: a file is missing.
    """
    digest = xxhash.xxh3_128()
    if on_hub(task, split, data):
        for part in task.hub_parts(split):
            digest.update(json.dumps([part.dataset, part.config, part.split, part.revision]).encode())
    else:
        files = find_files(task, split, data)
        beside = [labels_beside(path, task) for _, path in files]
        files += [(path.name, path) for path in dict.fromkeys(beside) if path]
        hashes = _file_hashes([path for _, path in files], Path(data.store) / "file_hashes.json")
        for (name, _), file_hash in zip(files, hashes, strict=True):
            digest.update(json.dumps([name, file_hash]).encode())
    return digest.hexdigest()


def find_files(task: Task, split: str, data: DataSection) -> list[File]:
    """The files of a split in the order they are read.

    Raises:
        UserError: one is missing; lists what was looked for.
    """
    named = _named_files(task, split, data)
    if named is not None:
        parts, folder = tuple((path,) for path in named), Path()
    else:
        parts = task.files.get(split, ())
        root = sample_folder(data) if data.source == "sample" else Path(data.folder) if data.folder else None
        elsewhere = not all(Path(name).is_absolute() for alternatives in parts for name in alternatives)
        if not parts or root is None and elsewhere:
            raise _no_source(task, split, data)
        folder = (root or Path()) / (task.folder or task.name)
    files: list[File] = []
    for alternatives in parts:
        alternatives = [fill_in(name, task.language) for name in alternatives]
        found = next(filter(None, (_matching(folder, name) for name in alternatives)), None)
        if found is None:
            looked = ", ".join(str(folder / name) for name in alternatives)
            raise UserError(
                f"a file of {task.name} ({split}) is missing",
                why=f"looked for {looked}, each also with .gz",
                fix=f"put it there, or name it: data.files.{task.name}.{split}=[PATH]",
            )
        files += [(_stable_name(path, folder), path) for path in found]
    return files


def on_hub(task: Task, split: str, data: DataSection) -> bool:
    """Whether a split is read from the hub."""
    return data.source == "hub" and split in task.hub and _named_files(task, split, data) is None


def _named_files(task: Task, split: str, data: DataSection) -> tuple[str, ...] | None:
    """Paths that the recipe names for a task or, where they tell languages apart, for the one it is a variant of."""
    own = data.files.get(task.name, {}).get(split)
    if own is not None or task.language == "en":
        return own
    base = data.files.get(task.name.removesuffix(f"-{task.language}"), {}).get(split)
    return base if base and (task.keep or all(map(has_placeholder, base))) else None


def _no_source(task: Task, split: str, data: DataSection) -> UserError:
    why = "data.folder is not set"
    if split not in task.files:
        why = "the task names no files"
        if task.language != "en":
            why += f" in {language_of(task.language).name}: their names do not tell languages apart"
    if split not in task.hub:
        why += ", and it is not on the hub"
    fix = f"data.files.{task.name}.{split}=[PATH]"
    if split in task.hub:
        fix += ", or data.source=hub"
    elif split in task.files:
        first = fill_in(task.files[split][0][0], task.language)
        fix += f", or data.folder=FOLDER with FOLDER/{task.folder or task.name}/{first}"
    return UserError(f"nothing to read {task.name} ({split}) from", why=why, fix=fix)


def _matching(folder: Path, pattern: str) -> list[Path]:
    """Sorted files below a folder: a name, one with `*`, or with a range like {02..21}; with or without .gz.

    Empty if nothing matches, or not every number of the range does.
    """
    span = re.search(r"\{(\d+)\.\.(\d+)\}", pattern)
    if span:
        low, high = span.groups()
        numbers = (str(n).zfill(len(low)) for n in range(int(low), int(high) + 1))
        found = [_matching(folder, pattern.replace(span.group(), n)) for n in numbers]
        return [path for paths in found for path in paths] if all(found) else []
    plain, zipped = folder / pattern, folder / f"{pattern}.gz"
    if "*" in pattern:
        anchor = Path(plain.anchor)
        paths = [path for name in (zipped, plain) for path in anchor.glob(str(name.relative_to(anchor)))]
        by_name = {str(path).removesuffix(".gz"): path for path in paths if path.is_file()}  # plain ones win
        return [by_name[name] for name in sorted(by_name)]
    return [path for path in (plain, zipped) if path.is_file()][:1]


def _stable_name(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix() if folder != Path() and path.is_relative_to(folder) else path.name


def sample_folder(data: DataSection) -> Path:
    """The folder of the built-in sample, written once: into a folder of its own, then renamed."""
    folder = Path(data.store) / "sample"
    if folder.is_dir():
        return folder
    from trainer.sample import write_sample  # only this source needs it

    temporary = folder.with_name(f".sample.{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        write_sample(temporary)
        os.replace(temporary, folder)
    except OSError:
        if not folder.is_dir():  # else another process was faster, with the same files
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _file_hashes(paths: list[Path], cache_file: Path) -> list[str]:
    """xxh3_128 of each file's bytes; known ones, by path, size and time, come from the cache."""
    try:
        cache = json.loads(cache_file.read_text())
    except (OSError, ValueError):
        cache = {}
    hashes, before = [], dict(cache)
    for path in paths:
        stat = path.stat()
        key = f"{path.resolve()}|{stat.st_size}|{stat.st_mtime_ns}"
        if key not in cache:
            with open(path, "rb") as file:
                digest = xxhash.xxh3_128()
                while block := file.read(1 << 20):
                    digest.update(block)
            cache[key] = digest.hexdigest()
        hashes.append(cache[key])
    if cache != before:
        cache_file.parent.mkdir(parents=True, exist_ok=True)
        temporary = cache_file.with_name(f".{cache_file.name}.{os.getpid()}")
        temporary.write_text(json.dumps(cache, indent=1))
        os.replace(temporary, cache_file)
    return hashes


def _name(part: HubPart) -> str:
    return "/".join(filter(None, (part.dataset, part.config, part.split)))


def _hub_rows(part: HubPart) -> Iterator[dict]:
    import datasets  # slow to import, and only this source needs it

    try:
        dataset = datasets.load_dataset(part.dataset, part.config, split=part.split, revision=part.revision)
    except Exception as error:  # the hub fails in many ways, none of which the user can tell from the others
        raise UserError(
            f"cannot read {_name(part)} from the Hugging Face hub",
            why=f"{type(error).__name__}: {' '.join(str(error).split())[:300]}",
            fix="check the network; with a filled cache set HF_HUB_OFFLINE=1; with local files data.source=files",
        ) from error
    named = {column: _names_of(feature) for column, feature in dataset.features.items()}
    named = {column: names for column, names in named.items() if names}
    for row in dataset:
        yield row | {column: names(row[column]) for column, names in named.items()}


def _names_of(feature: Any) -> Callable[[Any], Any] | None:
    """What turns a column's class ids into names; -1, the hub's "no label", stays. None for other columns."""
    if hasattr(feature, "int2str"):
        return lambda i: feature.int2str(i) if i is not None and i >= 0 else str(i)
    inner = _names_of(feature.feature) if hasattr(feature, "feature") else None
    return (lambda ids: [inner(i) for i in ids]) if inner else None


def _with_roles(place: str, row: dict, task: Task) -> tuple[str, dict]:
    """The row under role names; its `id` is its own, or its place without folders."""
    if task.adapt:
        try:
            adapted = task.adapt(row)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            why = f"{type(error).__name__}: {error}; its columns are {', '.join(map(str, row))}"
            raise UserError(f"{place}: not a row of {task.name}", why=why) from None
    else:
        adapted = {role: _column(place, row, role, task) for role in task.columns if role != "id"}
        adapted["id"] = next((row[name] for name in task.columns.get("id", ("id",)) if name in row), "")
    if adapted.get("id") in ("", None):
        adapted["id"] = place.rsplit("/", 1)[-1]
    return place, adapted


def _column(place: str, row: dict, role: str, task: Task) -> Any:
    present = [name for name in task.columns[role] if name in row]
    if not present:
        names = f"{role} ({' or '.join(task.columns[role])})"
        fix = f"correct the columns of {task.name}; a delimited file without a header line needs the task's `header`"
        raise UserError(f"{place}: no column for {names}", why=f"the columns are {', '.join(map(str, row))}", fix=fix)
    if role == "choices" and len(present) > 1:  # a column an option
        return [row[name] for name in present]
    return row[present[0]]
