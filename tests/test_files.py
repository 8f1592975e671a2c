"""Files and folders that appear under their names only when they are complete."""

import pytest

from modeling_pjvlt.files_pjvlt import check_new_folder, remove_partial, replacing, replacing_folder, write_text


def test_a_file_keeps_its_content_until_the_new_one_is_complete(tmp_path):
    path = tmp_path / "report.json"
    path.write_text("old")
    with replacing(path) as partial:
        partial.write_text("new")
        assert path.read_text() == "old" and partial.name == path.name
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
@pytest.mark.parametrize("replace", [replacing, replacing_folder])
def test_an_error_leaves_the_old_content_and_nothing_else(tmp_path, replace, error):
    path = tmp_path / "old"
    path.mkdir() if replace is replacing_folder else path.touch()
    with pytest.raises(error), replace(path) as partial:
        (partial / "file" if replace is replacing_folder else partial).touch()
        raise error
    assert list(tmp_path.rglob("*")) == [path]


def test_two_writers_of_one_file_do_not_touch_each_other(tmp_path):
    path = tmp_path / "boxes.txt"
    with replacing(path) as first:
        first.write_text("first")
        write_text(path, "second")
        assert path.read_text() == "second"
    assert path.read_text() == "first"


def test_a_folder_is_replaced_as_a_whole(tmp_path):
    path = tmp_path / "made" / "export"
    for name in ("old", "new"):
        with replacing_folder(path) as partial:
            (partial / name).touch()
    assert [file.name for file in path.iterdir()] == ["new"] and list(path.parent.iterdir()) == [path]


def test_what_a_killed_run_left_is_removed(tmp_path):
    writers = [replacing(tmp_path / "README.md"), replacing_folder(tmp_path / "export")]
    for writer in writers:
        writer.__enter__()
    remove_partial(tmp_path, "README.md")
    assert [path.name for path in tmp_path.iterdir()] == [".export.partial"]
    with replacing_folder(tmp_path / "export") as partial:
        assert list(partial.iterdir()) == []
    (tmp_path / ".last.partial").symlink_to("export")
    remove_partial(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["export"]


def test_names_that_are_not_unicode_are_written(tmp_path):
    write_text(tmp_path / "a.txt", "dog\udce9")
    assert (tmp_path / "a.txt").read_text() == "dog\\udce9"


def test_a_new_folder_is_one_that_is_absent_or_empty(tmp_path):
    check_new_folder(tmp_path / "absent")
    (tmp_path / "used").mkdir()
    check_new_folder(tmp_path / "used")
    (tmp_path / "used" / "file").touch()
    for path in (tmp_path / "used", tmp_path / "used" / "file"):
        with pytest.raises(FileExistsError, match="choose another folder"):
            check_new_folder(path)
