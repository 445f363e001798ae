"""Real labelled data for checks on real input, laid out as `data.folder` wants it: FOLDER/<task>/{train,dev}.*

The data lies beside the repository, in ../shared/data, where it is there at all. Most of the intermediate tasks' are
validation sets, cut here into train and dev by paragraph, context or activity, so that nothing of a dev question is
seen in training. The targets' are linked; with them, paragraphs of XQuAD are left out of the SQuAD tasks.

    python tests/real_data.py OUT [--targets]
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

REAL_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
DEV_SHARE = 0.15


def _open(path: str):
    return io.TextIOWrapper(gzip.open(REAL_DATA / path), encoding="utf-8-sig", newline="")


def _is_dev(group: str) -> bool:
    return int(hashlib.md5(group.encode()).hexdigest()[:8], 16) < DEV_SHARE * 16**8


def _write(
    folder: Path, suffix: str, items: Iterable, group: Callable[[object], str], lines: Callable[[list], str]
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    items = list(items)
    for split, wanted in (("train", False), ("dev", True)):
        (folder / f"{split}.{suffix}").write_text(lines([i for i in items if _is_dev(group(i)) == wanted]))


def _jsonl(rows: list[dict]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _squad(name: str, path: str, out: Path, targets: bool) -> None:
    paragraphs = [p for article in json.load(_open(path))["data"] for p in article["paragraphs"]]
    if targets:
        allowed = set((REAL_DATA / "squad2/ids_not_in_xquad.txt").read_text().split())
        paragraphs = [p for p in paragraphs if all(question["id"] in allowed for question in p["qas"])]
    _write(
        out / name,
        "json",
        paragraphs,
        lambda p: p["context"],
        lambda ps: json.dumps({"data": [{"title": "", "paragraphs": ps}]}),
    )


def _tsv(rows: list[list[str]], header: list[str]) -> str:
    return "".join("\t".join(row) + "\n" for row in [header, *rows])


def build(out: Path, targets: bool = False) -> None:
    """Write every task that has real data: anli_plus (SNLI), mnli (XNLI dev, English), qqp, squad_v1, squad_v2,
    hellaswag, ccg (Brown corpus tags), cosmos_qa, commonsense_qa; and the targets, see `link_targets`."""
    if targets:
        link_targets(out)
    names = {"0": "entailment", "1": "neutral", "2": "contradiction"}
    snli = [line.rstrip("\r\n").split("\t") for part in ("dev", "test") for line in _open(f"nli/snli/{part}.txt.gz")]
    rows = [{"premise": a, "hypothesis": b, "label": names[label]} for a, b, label in snli]
    # All of ANLI+'s parts are required; one file under a name of its own stands for them (see `files` below).
    _write(out / "anli_plus", "jsonl", rows, lambda r: r["premise"], _jsonl)
    xnli = [line.rstrip("\r\n").split("\t") for line in _open("xnli/dev-en.tsv.gz")]
    pairs = [{"premise": a, "hypothesis": b, "label": label} for a, b, label in xnli]
    _write(out / "mnli", "jsonl", pairs, lambda r: r["premise"], _jsonl)
    quora = [
        line.rstrip("\r\n").split("\t") for part in ("dev", "test") for line in _open(f"paraphrase/quora/{part}.txt.gz")
    ]
    header = ["question1", "question2", "is_duplicate"]
    _write(out / "qqp", "tsv", quora, lambda r: r[0], lambda rows: _tsv(rows, header))
    _squad("squad_v1", "squad1/dev-v1.1-answerable-half.json.gz", out, targets)
    _squad("squad_v2", "squad2/dev-v2.0.json.gz", out, targets)
    hellaswag = [json.loads(line) for line in _open("hellaswag/hellaswag_val.jsonl.gz")]
    _write(out / "hellaswag", "jsonl", hellaswag, lambda r: r["activity_label"], _jsonl)
    cosmos = list(csv.DictReader(_open("cosmosqa/valid.csv.gz")))
    _write(out / "cosmos_qa", "jsonl", cosmos, lambda r: r["context"], _jsonl)
    commonsense = [json.loads(line) for line in _open("commonsenseqa/dev_rand_split.jsonl.gz")]
    _write(out / "commonsense_qa", "jsonl", commonsense, lambda r: r["question"]["stem"], _jsonl)
    (out / "ccg").mkdir(parents=True, exist_ok=True)
    for split in ("train", "dev"):
        (out / "ccg" / f"{split}.tsv").write_text(_open(f"brown/{split}.tsv.gz").read())


def link_targets(out: Path) -> None:
    """Targets, as far as there is labelled data: dev sets stand for the tests of PAN-X, PAWS-X and MLQA, whose tests
    have no labels there; part-of-speech tags are in XTREME's form; XNLI's tests get their labels."""
    for task, folder in (
        ("udpos", "udpos_xtreme"), ("xquad", "xquad"), ("tydiqa", "tydiqa"), ("xcopa", "xcopa"), ("siqa", "siqa"),
        ("tatoeba", "tatoeba"), ("bucc2018", "bucc2018"), ("lareqa", "lareqa"),
    ):  # fmt: skip
        out.mkdir(parents=True, exist_ok=True)
        (out / task).symlink_to(REAL_DATA / folder)
    for task in ("panx", "pawsx"):
        (out / task).mkdir(parents=True)
        for path in (REAL_DATA / task).glob("*-*.tsv*"):
            split, name = path.name.split("-", 1)
            for own in {"train": ("train",), "dev": ("dev", "test")}.get(split, ()):
                (out / task / f"{own}-{name}").symlink_to(path)
    (out / "mlqa/test").mkdir(parents=True)
    for path in (REAL_DATA / "mlqa/dev").glob("*.json*"):
        (out / "mlqa/test" / path.name.replace("dev-", "test-", 1)).symlink_to(path)
    (out / "xnli").mkdir(parents=True)
    labels = (REAL_DATA / "xnli/test.labels.txt").read_text().split()
    for path in (REAL_DATA / "xnli").glob("test-*.tsv.gz"):
        lines = [line.rstrip("\r\n") for line in _open(f"xnli/{path.name}")]
        rows = "".join(f"{line}\t{label}\n" for line, label in zip(lines, labels, strict=True))
        (out / "xnli" / path.name.removesuffix(".gz")).write_text(rows)


def files(out: Path) -> dict[str, dict[str, list[str]]]:
    """What `data.files` must say besides `data.folder`: ANLI+ from one file instead of its five parts."""
    return {"anli_plus": {split: [str(out / "anli_plus" / f"{split}.jsonl")] for split in ("train", "dev")}}


if __name__ == "__main__":
    build(Path(sys.argv[1]), targets="--targets" in sys.argv[2:])
