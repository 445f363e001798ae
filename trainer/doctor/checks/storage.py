"""The run folder can be written by every host, fast enough, and all see the same files."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from trainer.config import RunSection
from trainer.doctor.cluster import Cluster
from trainer.doctor.registry import Finding, check, failure, passed, question, warning
from trainer.errors import UserError

WRITTEN = 64 << 20  # bytes, at most
WRITE_SECONDS = 5.0
SLOW = 50e6  # bytes/s
LITTLE = 10e9  # free bytes: one checkpoint of XLM-R Large
SEEN_WARN, SEEN_FAIL = 2.0, 10.0  # seconds until another host's file is there
ELSEWHERE = "run.folder=FOLDER elsewhere"


def _folder(cluster: Cluster) -> str:
    """The run folder on the first host, or what is there of it.

    Raises:
        UserError: the first host does not answer.
    """
    wanted = RunSection().folder if cluster.config is None else str(cluster.config.run_folder)
    answers = cluster.ask(nearest_folder, of=[cluster.first], folder=wanted)
    for error in answers.errors.values():
        raise error
    return answers[cluster.first]


@question
def nearest_folder(folder: str) -> str:
    """The absolute path of a folder, or of the nearest one above it that exists."""
    path = Path(folder).absolute()
    return str(next(p for p in (path, *path.parents) if p.is_dir()))


@check("disk")
def disk(cluster: Cluster) -> Iterator[Finding]:
    """every host can write the run folder, and there is room"""
    folder = _folder(cluster)
    answers = cluster.ask(write_speed, timeout=WRITE_SECONDS + 25, folder=folder, token=cluster.token)
    yield from answers.failures(ELSEWHERE)
    problems = []
    for host, answer in answers.items():
        if answer["rate"] < SLOW:
            says = f"{host} writes {answer['rate'] / 1e6:.0f} MB/s to {folder}: checkpoints will be slow"
            problems.append(warning(says, ELSEWHERE, write_mb_per_second=answer["rate"] / 1e6))
        if answer["free"] < LITTLE:
            says = f"{host} sees {answer['free'] / 1e9:.1f} GB free in {folder}; a checkpoint of XLM-R Large takes 9"
            problems.append(warning(says, f"free some space, or {ELSEWHERE}", free_gb=answer["free"] / 1e9))
    yield from problems
    if answers and not (problems or answers.errors):
        free = min(answer["free"] for answer in answers.values()) / 1e9
        rate = min(answer["rate"] for answer in answers.values()) / 1e6
        slowest = " by the slowest host" if len(answers) > 1 else ""
        yield passed(f"{folder}: {free:,.0f} GB free, written at {rate:,.0f} MB/s{slowest}", free_gb=free,
                     write_mb_per_second={host: answer["rate"] / 1e6 for host, answer in answers.items()})  # fmt: skip


@question
def write_speed(folder: str, token: str) -> dict[str, float]:
    """Free bytes of a folder, and bytes/s at which a file is written there and flushed to the disk."""
    path = Path(folder) / f".xstilts-doctor-{token}-{os.uname().nodename}-{os.getpid()}"
    block = os.urandom(4 << 20)  # a disk that compresses must not look fast
    written, began = 0, time.perf_counter()
    try:
        with open(path, "wb") as file:
            while written < WRITTEN and time.perf_counter() - began < WRITE_SECONDS:
                written += file.write(block)
                file.flush()
                os.fsync(file.fileno())
        rate = written / (time.perf_counter() - began)
    except OSError as error:
        raise UserError(f"{folder} cannot be written", why=error.strerror or str(error)) from None
    finally:
        with contextlib.suppress(OSError):  # it may never have been there
            path.unlink()
    return {"rate": rate, "free": float(shutil.disk_usage(folder).free)}


@check("shared files", needs_hosts=True)
def shared_files(cluster: Cluster) -> Iterator[Finding]:
    """a file in the run folder is seen by all hosts"""
    folder, first = _folder(cluster), cluster.first
    paths = {host: str(Path(folder) / f".xstilts-doctor-{cluster.token}-{host}") for host in cluster.names}
    written = cluster.ask(write_file, each={host: {"path": path, "text": host} for host, path in paths.items()})
    problems = [failure(f"{host} cannot write {folder}", ELSEWHERE) for host in written.errors]
    # The others look for the first one's file, and it for theirs, all at the same time.
    wanted = {host: [first] if host != first else cluster.others for host in cluster.names}
    each = {host: {"texts": {paths[w]: w for w in writers if w in written}} for host, writers in wanted.items()}
    try:
        seen = cluster.ask(await_files, timeout=SEEN_FAIL + 20, each=each)
    finally:
        cluster.ask(remove_file, each={host: {"path": path} for host, path in paths.items()})
    problems += seen.failures()
    waits = [(host, each[host]["texts"][path], took) for host, found in seen.items() for path, took in found.items()]
    for reader, writer, took in waits:
        if took is None:
            fix = f"mount one file system at {folder} on all hosts, or run.folder=FOLDER on one"
            problems.append(failure(f"{reader} does not see the file that {writer} wrote to {folder}", fix))
        elif took > SEEN_WARN:
            says = f"{reader} sees a file of {writer} in {folder} only after {took:.1f} s"
            problems.append(warning(says, "mount it with shorter attribute caching, e.g. actimeo=1", seconds=took))
    yield from problems
    if not problems:
        longest = max(took for _, _, took in waits)
        yield passed(f"{folder}: every host sees the first one's file, and the first one theirs", seconds=longest)


@question
def write_file(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


@question
def await_files(texts: dict[str, str]) -> dict[str, float | None]:
    """For each path: seconds until its file has the text; None if it does not in time."""
    began = time.monotonic()
    seen: dict[str, float | None] = dict.fromkeys(texts)
    while None in seen.values() and time.monotonic() - began < SEEN_FAIL:
        for path, text in texts.items():
            with contextlib.suppress(OSError):
                if seen[path] is None and Path(path).read_text() == text:
                    seen[path] = time.monotonic() - began
        time.sleep(0.05)
    return seen


@question
def remove_file(path: str) -> None:
    Path(path).unlink(missing_ok=True)
