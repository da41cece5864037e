"""Files and folders are whole or absent."""

import signal
import subprocess
import sys

import pytest

from prune_core.files import remove_drafts, replacing, write_text


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


def test_what_cannot_be_written_is_named_by_its_own_name(tmp_path):
    with pytest.raises(FileNotFoundError) as caught, replacing(tmp_path / "file") as draft:
        (draft / "part").touch()
    assert caught.value.filename == str(tmp_path / "file")


def test_the_draft_of_a_killed_process_is_in_nobodys_way(tmp_path):
    with replacing(tmp_path / "thing") as draft:
        name = draft.name
        draft.write_text("new")
    (tmp_path / name).mkdir()  # as if a process of the same number had died here
    with replacing(tmp_path / "thing") as draft:
        draft.write_text("newer")
    assert (tmp_path / "thing").read_text() == "newer"
    assert names(tmp_path) == ["thing"]


KILLED_BETWEEN = """
import os, signal, sys
from pathlib import Path
from prune_core.files import replacing

rename, folder = Path.rename, Path(sys.argv[1])

def fatal(path, target):
    if Path(target) == folder:
        os.kill(os.getpid(), signal.SIGKILL)
    return rename(path, target)

Path.rename = fatal
with replacing(folder) as draft:
    draft.mkdir()
    (draft / "inner").write_text("new")
"""


@pytest.fixture
def killed(tmp_path):
    """A folder whose writer was killed when the old one had stepped aside and the new one was not there yet."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "inner").write_text("old")
    done = subprocess.run([sys.executable, "-c", KILLED_BETWEEN, str(folder)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert not folder.exists()
    return folder


def test_a_kill_between_two_folders_costs_neither(killed):
    remove_drafts(killed.parent)
    assert (killed / "inner").read_text() == "old"
    assert names(killed.parent) == ["model"]


def test_the_next_writer_puts_back_what_a_kill_set_aside(killed):
    with pytest.raises(OSError), replacing(killed):
        raise OSError
    assert (killed / "inner").read_text() == "old"
    with replacing(killed) as draft:
        draft.mkdir()
    assert names(killed) == []
    assert [name for name in names(killed.parent) if name.endswith(".old")] == []


def test_a_new_folder_that_cannot_take_its_place_leaves_the_old_one(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "inner").write_text("old")
    with pytest.raises(FileNotFoundError), replacing(folder):
        pass  # nothing was written: there is nothing to rename
    assert (folder / "inner").read_text() == "old"
    assert names(tmp_path) == ["model"]


def test_drafts_and_old_folders_of_the_dead_are_removed(tmp_path):
    for name in ("model", ".model.12.old", ".model.bin.12.old", ".model.7.draft", ".masks.7.draft"):
        (tmp_path / name).mkdir()
    remove_drafts(tmp_path)
    assert names(tmp_path) == ["model", "model.bin"]  # the one had no successor
