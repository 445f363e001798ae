"""What is asked of `xstilts evaluate --tasks`, checked before a model is opened."""

import json

import huggingface_hub
import pytest

from tests.launching import DEMO
from tests.model.encoders import tiny_encoder
from trainer.cli import run_command
from trainer.errors import UserError
from trainer.evaluation.targets import default_out, open_for_targets


@pytest.fixture(scope="module")
def plain(tmp_path_factory, tiny_tokenizer):
    """A Hugging Face folder without heads."""
    folder = tmp_path_factory.mktemp("models") / "plain"
    tiny_encoder("xlm-roberta", "sdpa", vocab_size=len(tiny_tokenizer)).save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def tatoeba(tmp_path):
    """Overrides for Tatoeba in two languages from files of the test's own."""
    folder = tmp_path / "data" / "tatoeba"
    folder.mkdir(parents=True)
    lines = ["the cat sat", "a dog ran to the city", "who is the man", "red"]
    for iso3, texts in {"deu": lines, "fra": lines[::-1]}.items():
        (folder / f"tatoeba.{iso3}-eng.eng").write_text("".join(f"{line}\n" for line in lines))
        (folder / f"tatoeba.{iso3}-eng.{iso3}").write_text("".join(f"{line}\n" for line in texts))
    return ["data.source=files", f"data.folder={tmp_path / 'data'}", f"data.store={tmp_path / 'store'}"]


@pytest.fixture
def fails(capfd):
    def run(*arguments: object) -> str:
        capfd.readouterr()
        assert run_command(list(map(str, arguments))) == 2
        error = capfd.readouterr().err
        assert error.startswith("error: ") and "next: " in error and "Traceback" not in error
        return error

    return run


def test_test_sets_are_prepared_before_there_is_a_model(tmp_path, capfd, monkeypatch):
    """And an encoder that cannot be fetched for want of a network is told."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    own = ["tasks=[panx]", f"data.store={tmp_path}", "model.tokenizer=sample", "model.encoder=nobody/no-such-model"]
    assert run_command(["prepare", str(DEMO), "--tasks", "panx,tatoeba", *own]) == 0
    printed = capfd.readouterr().out
    assert "warning: cannot load the config of 'nobody/no-such-model'" in printed
    assert "panx: test sets are ready in de, en," in printed and "; skipped af, " in printed
    assert "tatoeba: test sets are ready in de, es," in printed
    assert list(tmp_path.glob("panx-de-test-*/manifest.json")) and not list(tmp_path.glob("panx-af-test-*"))


def test_retrieval_needs_no_heads(plain, tatoeba, tmp_path, capfd):
    out = tmp_path / "out"
    command = ["evaluate", plain, "--tasks", "tatoeba", "--layer", "0", "--out", out, *tatoeba]
    assert run_command(list(map(str, command))) == 0
    printed = capfd.readouterr().out
    assert "de=100.00" in printed and "fr=0.00" in printed and "50.00" in printed
    written = json.loads((out / "scores.json").read_text())
    assert written["retrieval"] == written["total"] == 50 and written["non_retrieval"] is None
    assert written["about"] == written["about"] | {"model": str(plain), "layer": "0", "pooling": None, "dtype": "fp32"}
    assert (out / "predictions/tatoeba/test-fr.tsv").read_text() == "2\n0\n3\n1\n", "of lines 1, 3, 0 and 2: sorted"
    assert run_command(["score", str(out / "predictions"), str(out / "labels")]) == 0
    assert "de=100.00" in capfd.readouterr().out


def test_languages_of_one_target_need_not_be_anothers(plain, tatoeba, tmp_path, capfd):
    """BUCC, which has no Turkish, must still be asked for in a language it has."""
    with pytest.raises(UserError, match="bucc2018 is not in tr"):
        open_for_targets(plain, ["tatoeba", "bucc2018"], tatoeba, ["tr"])
    assert open_for_targets(plain, ["tatoeba", "bucc2018"], tatoeba, ["tr", "fr"]).restored is None


def test_a_sweep_writes_scores_by_layer(plain, tatoeba, tmp_path, capfd):
    pytest.importorskip("matplotlib")
    out = tmp_path / "out"
    command = ["evaluate", plain, "--tasks", "tatoeba", "--layer", "all", "--out", out, *tatoeba]
    assert run_command(list(map(str, command))) == 0
    printed = capfd.readouterr().out
    assert "layer_sweep.json" in printed.replace("\n", "") and "by layer" in printed
    assert json.loads((out / "layer_sweep.json").read_text())["layers"] == [0, 1, 2]
    assert (out / "layer_sweep.png").stat().st_size > 0


def test_a_task_with_a_head_needs_a_trained_model(plain, fails):
    error = fails("evaluate", plain, "--tasks", "xnli,tatoeba,panx")
    assert "has no heads, which xnli, panx" in error and "tasks=[mnli,panx]" in error and "tatoeba" in error


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--tasks", "xnly"], "did you mean 'xnli'?"),
        (["--tasks", "mnli"], "no target"),
        (["--tasks", ","], "names no target"),
        (["--tasks", "tatoeba", "--languages", "xx"], "no language 'xx'"),
        (["--tasks", "tatoeba", "--layer", "7"], "no layer 7"),
        (["--tasks", "tatoeba", "--layer", "0", "data.folder=nowhere"], "nowhere"),
        (["--tasks", "tatoeba", "--out", "setup.cfg/below"], "cannot be written"),
        (["--languages", "de"], "--languages belongs to --tasks"),
        (["--out", "somewhere"], "--out belongs to --tasks"),
        ([], "neither a run nor an export"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_requests_are_one_clear_error(plain, tatoeba, fails, tmp_path, arguments, expected):
    out = [] if "--out" in arguments or "--tasks" not in arguments else ["--out", tmp_path / "out"]
    overrides = [
        text for text in tatoeba if not any(a.startswith("data.folder") for a in arguments) or "folder" not in text
    ]
    assert expected in fails("evaluate", plain, *arguments, *out, *(overrides if "--tasks" in arguments else ()))


FILE_FAULTS = {  # of the French files of Tatoeba: texts of English and French, None: no file; what the error says
    "missing language": (["a"], None, "a file of tatoeba-fr (test) is missing", "tatoeba.fra-eng.fra"),
    "unaligned": (["a", "b"], ["c"], "are not aligned", "tatoeba.fra-eng.eng has 2 lines, tatoeba.fra-eng.fra 1"),
    "empty line": (["a", "b"], ["c", ""], "tatoeba.fra-eng.fra:2: an empty line", ""),
}


@pytest.mark.parametrize("fault", FILE_FAULTS)
def test_bad_files_are_one_clear_error(fault, plain, tatoeba, fails, tmp_path):
    *texts, said, also = FILE_FAULTS[fault]
    for side, lines in zip(("eng", "fra"), texts, strict=True):
        path = tmp_path / "data" / "tatoeba" / f"tatoeba.fra-eng.{side}"
        path.write_text("".join(f"{line}\n" for line in lines or ()))
        if lines is None:
            path.unlink()
    error = fails("evaluate", plain, "--tasks", "tatoeba", "--languages", "de,fr", "--out", tmp_path / "out", *tatoeba)
    assert said in error and also in error and not (tmp_path / "out" / "scores.json").exists()


def test_a_malformed_treebank_is_one_clear_error(plain, fails, tmp_path):
    path = tmp_path / "data" / "udpos" / "en_x-ud-train.conllu"
    path.parent.mkdir(parents=True)
    path.write_text("1\tthe\t_\tDET" + "\t_" * 6 + "\n2\tcat\tNOUN\n")
    overrides = [f"data.folder={tmp_path / 'data'}", f"data.store={tmp_path / 'store'}", "data.source=files"]
    error = fails("prepare", DEMO, *overrides, f"model.encoder={plain}", "tasks=[udpos]")
    assert "en_x-ud-train.conllu:2: malformed CoNLL-U: 3 columns" in error


def test_a_missing_model_is_named(fails):
    assert "no-such-export" in fails("evaluate", "no-such-export", "--tasks", "panx")


def test_results_go_into_the_models_folder_or_below_the_working_one(tmp_path):
    assert default_out(tmp_path) == tmp_path / "evaluation"
    assert (
        str(default_out(type(tmp_path)("FacebookAI/xlm-roberta-large"))) == "evaluation/FacebookAI--xlm-roberta-large"
    )
