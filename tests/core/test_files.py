"""Files and folders are whole or absent."""

import pytest

from prune_core.files import replacing, write_text


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_new_file_in_a_new_folder(tmp_path):
    write_text(tmp_path / "run" / "recipe.yaml", "é: 1\n")
    assert (tmp_path / "run" / "recipe.yaml").read_bytes() == "é: 1\n".encode()
    assert names(tmp_path / "run") == ["recipe.yaml"]


def test_a_file_is_replaced_only_once_the_new_one_is_whole(tmp_path):
    path = tmp_path / "masks"
    path.write_text("old")
    with replacing(path) as draft:
        draft.write_text("new")
        assert path.read_text() == "old"
        assert draft.parent == path.parent  # a rename, not a copy
    assert path.read_text() == "new"
    assert names(tmp_path) == ["masks"]


def test_a_folder_is_replaced_and_keeps_nothing_of_the_old_one(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "old.bin").write_text("old")
    with replacing(folder) as draft:
        (draft / "deep").mkdir(parents=True)
        (draft / "deep" / "new.bin").write_text("new")
        assert names(folder) == ["old.bin"]
    assert names(folder) == ["deep"]
    assert names(tmp_path) == ["model"]


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_failure_leaves_what_was_there(tmp_path, kind):
    path = tmp_path / "thing"
    if kind == "folder":
        path.mkdir()
    target = path / "inner" if kind == "folder" else path
    target.write_text("old")
    with pytest.raises(KeyboardInterrupt), replacing(path) as draft:  # noqa: PT012
        if kind == "folder":
            draft.mkdir()
            (draft / "inner").write_text("half")
        else:
            draft.write_text("half")
        raise KeyboardInterrupt
    assert target.read_text() == "old"
    assert names(tmp_path) == ["thing"]


def test_a_failure_leaves_nothing_where_nothing_was(tmp_path):
    with pytest.raises(OSError), replacing(tmp_path / "thing") as draft:  # noqa: PT012
        draft.write_text("half")
        raise OSError
    assert names(tmp_path) == []


def test_the_draft_of_a_killed_process_is_in_nobodys_way(tmp_path):
    with replacing(tmp_path / "thing") as draft:
        name = draft.name
        draft.write_text("new")
    (tmp_path / name).mkdir()  # as if a process of the same number had died here
    with replacing(tmp_path / "thing") as draft:
        draft.write_text("newer")
    assert (tmp_path / "thing").read_text() == "newer"
    assert names(tmp_path) == ["thing"]
