"""An export takes the place of the one before whole, or not at all."""

import pytest

from trainer import export


def test_the_export_before_stays_where_a_new_one_cannot_take_its_place(tmp_path, monkeypatch):
    new, out, before = (tmp_path / name for name in (".out.partial", "out", ".out.before"))
    for folder in (new, out, before):  # the last of an export that was killed
        folder.mkdir()
        (folder / "which").write_text(folder.name)
    replace = export.os.replace

    def fails(source, target):
        if source == new:
            raise OSError("Input/output error")
        replace(source, target)

    monkeypatch.setattr(export.os, "replace", fails)
    with pytest.raises(OSError):
        export._swap(new, out, before)
    assert (out / "which").read_text() == "out" and not before.exists()
    monkeypatch.undo()
    export._swap(new, out, before)
    assert (out / "which").read_text() == ".out.partial"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
