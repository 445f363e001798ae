"""The recipe's prepared data is there, and the same, on every host."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trainer.doctor.checks.recipe import read
from trainer.doctor.cluster import Cluster
from trainer.doctor.registry import Finding, check, failure, passed, question, warning
from trainer.errors import UserError

ENDS = 1 << 20  # bytes at the beginning and the end of a file that are compared; the whole would take minutes


@check("data", needs_recipe=True)
def data(cluster: Cluster) -> Iterator[Finding]:
    """the prepared data is there, and the same, on every host"""
    answers = cluster.ask_recipe(stores)
    yield from answers.failures()
    there = {host: answer["splits"] for host, answer in answers.items() if not answer["missing"]}
    missing = {host: answer["missing"] for host, answer in answers.items() if answer["missing"]}
    store = cluster.config.data.store
    if missing and not there and cluster.config.data.prepare == "auto":
        says = "not prepared yet; the first process will do it at the start, while the others wait"
        yield warning(says, f"prepare it now: xstilts prepare {cluster.recipe[0]}")
        return
    for host, error in missing.items():
        what, why, fix = error
        says = f"{host}: {what} ({why})" if why else f"{host}: {what}"
        if there:
            fix = f"mount the file system that {next(iter(there))} has {store} on, or rsync -a {store}/ {host}:{store}/"
        yield failure(says, fix)
    if not there:
        return
    first, expected = next(iter(there.items()))
    differing = False
    for host, splits in there.items():
        for split in sorted(expected.keys() | splits.keys()):
            if splits.get(split) != expected.get(split):
                differing = True
                says = (
                    f"{split} on {host} is not what {first} has: {_said(splits, split)}, not {_said(expected, split)}"
                )
                yield failure(says, f"rsync -a {store}/ {host}:{store}/ from {first}, or prepare it again on both")
                break
    if not (missing or differing or answers.errors):
        size = sum(split["bytes"] for split in expected.values())
        yield passed(f"{len(expected)} splits, {size / 1e6:,.1f} MB, the same on {_hosts(there)}")


def _hosts(there) -> str:
    return "every host" if len(there) > 1 else "this host"


def _said(splits: dict[str, Any], split: str) -> str:
    found = splits.get(split)
    return f"{found['folder']}, {found['bytes']:,} bytes, {found['hash']}" if found else "nothing"


@question
def stores(recipe: str, overrides: list[str]) -> dict[str, Any]:
    """Of each split: its store's folder (whose name has the fingerprint), bytes, and a hash of its ends; or what is
    `missing` (what, why, fix)."""
    from trainer.data.prepare import open_prepared
    from trainer.model.encoder import load_tokenizer
    from trainer.tasks import load_tasks

    config = read(recipe, tuple(overrides))
    tasks, tokenizer = load_tasks(config), load_tokenizer(config)
    try:
        prepared = open_prepared(config, tasks, tokenizer)
    except UserError as error:
        return {"splits": {}, "missing": [error.what, error.why, error.fix]}
    splits = {f"{name} ({kind})": getattr(item, kind) for name, item in prepared.items() for kind in ("train", "dev")}
    return {"splits": {name: _fingerprint(store.folder) for name, store in splits.items()}, "missing": None}


def _fingerprint(folder: Path) -> dict[str, Any]:
    digest, size = hashlib.blake2b(digest_size=6), 0
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        length = path.stat().st_size
        size += length
        with open(path, "rb") as file:
            digest.update(f"{path.name} {length}".encode() + file.read(ENDS))
            if length > 2 * ENDS:
                file.seek(-ENDS, os.SEEK_END)
            digest.update(file.read(ENDS))
    return {"folder": folder.name, "bytes": size, "hash": digest.hexdigest()}
