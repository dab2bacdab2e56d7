import pytest

from spade_keras.files import complete_folder

MARKER = "marker"


def fill(folder, text):
    folder.joinpath(MARKER).write_text(text)
    folder.joinpath("sub").mkdir()
    folder.joinpath("sub", "data").write_text(text)


def test_a_folder_appears_when_it_is_complete(tmp_path):
    target = tmp_path / "deep" / "model"
    with complete_folder(target, MARKER) as fresh:
        fill(fresh, "one")
        assert not target.exists()
        number = fresh.stat().st_ino
    assert target.stat().st_ino == number  # renamed as a whole, not copied file by file
    assert target.joinpath("sub", "data").read_text() == "one"
    assert list(target.parent.iterdir()) == [target]


def test_an_earlier_export_is_replaced_whole(tmp_path):
    target = tmp_path / "model"
    target.mkdir()
    fill(target, "one")
    target.joinpath("stale").touch()
    with complete_folder(target, MARKER) as fresh:
        fill(fresh, "two")
    assert target.joinpath("sub", "data").read_text() == "two"
    assert not target.joinpath("stale").exists()
    assert list(tmp_path.iterdir()) == [target]


def test_a_failure_leaves_the_earlier_export_and_nothing_else(tmp_path):
    target = tmp_path / "model"
    target.mkdir()
    fill(target, "one")
    with pytest.raises(RuntimeError, match="disk full"), complete_folder(target, MARKER) as fresh:
        fill(fresh, "two")
        raise RuntimeError("disk full")
    assert target.joinpath("sub", "data").read_text() == "one"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("name", ["folder", "file"])
def test_what_is_no_export_is_not_replaced(tmp_path, name):
    target = tmp_path / name
    if name == "folder":
        target.mkdir()
        target.joinpath("thesis.tex").write_text("years of work")
    else:
        target.write_text("years of work")
    refused = pytest.raises(ValueError, match="`folder` must be new, empty or an earlier export")
    with refused, complete_folder(target, MARKER):
        pytest.fail("the block must not be entered")
    assert "years" in (target / "thesis.tex" if name == "folder" else target).read_text()


def test_an_empty_folder_may_be_filled(tmp_path):
    target = tmp_path / "model"
    target.mkdir()
    with complete_folder(target, MARKER) as fresh:
        fill(fresh, "one")
    assert target.joinpath(MARKER).exists()
