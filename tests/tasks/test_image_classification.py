"""Image classification: stored images, file paths, channels and faults."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from datasets import ClassLabel, Dataset, Features, Image, Value
from PIL import Image as Pictures

from prune_core.errors import DataError, ModelError
from prune_core.runs.configuring import validated
from prune_core.tasks.config import ImageClassificationConfig
from prune_core.tasks.image_classification import ImageClassification


def picture(shade: int, mode: str = "L") -> Pictures.Image:
    return Pictures.fromarray(np.full((8, 8), shade, np.uint8)).convert(mode)


def stored(path: Path) -> Path:
    features = Features({"image": Image(), "label": ClassLabel(names=["dark", "light"])})
    rows = {"image": [picture(0), picture(255), picture(255, "RGBA")], "label": [0, 1, 1]}
    Dataset.from_dict(rows, features=features).to_parquet(path)
    return path


def listed(folder: Path, names: list[str]) -> Path:
    (folder / "pictures").mkdir()
    for index, name in enumerate(names[:2]):
        picture(255 * index).save(folder / "pictures" / name)
    table = pd.DataFrame({"file": [f"pictures/{name}" for name in names], "kind": ["dark", "light", "light"]})
    table.to_csv(folder / "list.csv", index=False)
    return folder / "list.csv"


@pytest.mark.parametrize("channels", [1, 3])
def test_stored_images(tmp_path, image_model, channels):
    file = stored(tmp_path / "train.parquet")
    task = ImageClassification(
        ImageClassificationConfig(train_file=file, validation_file=file), image_model(channels=channels)
    )
    batch = task.collate(list(task.train()))
    assert batch["pixel_values"].shape == (3, channels, 8, 8)
    assert batch["pixel_values"][:, 0, 0, 0].tolist() == [-1, 1, 1]
    assert batch["labels"].tolist() == [0, 1, 1]
    model = task.load_model(task.source)
    assert model(**batch).loss.isfinite()
    assert task.has_trained_head(task.source)


def test_another_number_of_labels_makes_a_new_head(tmp_path, image_model):
    file = stored(tmp_path / "train.parquet")
    task = ImageClassification(ImageClassificationConfig(train_file=file, validation_file=file), image_model(labels=5))
    assert not task.has_trained_head(task.source)
    assert task.load_model(task.source).config.id2label == {0: "dark", 1: "light"}


def test_paths_are_relative_to_their_file(tmp_path, image_model):
    file = listed(tmp_path, ["a.png", "b.png", "b.png"])
    section = ImageClassificationConfig(train_file=file, validation_file=file, columns={"label": "kind"})
    task = ImageClassification(section, image_model())
    assert task.collate(list(task.validation()))["pixel_values"][:, 0, 0, 0].tolist() == [-1, 1, 1]


def test_an_image_stands_as_the_camera_was_held(tmp_path, image_model):
    pixels = np.zeros((8, 8), np.uint8)
    pixels[:2] = 255  # light above, once it is turned as EXIF says: a quarter to the left
    turned = Pictures.fromarray(np.rot90(pixels, -1).copy())
    exif = Pictures.Exif()
    exif[0x0112] = 8
    turned.save(tmp_path / "turned.png", exif=exif)
    (tmp_path / "list.csv").write_text("image,label\nturned.png,dark\nturned.png,light\n")
    section = ImageClassificationConfig(train_file=tmp_path / "list.csv", validation_file=tmp_path / "list.csv")
    task = ImageClassification(section, image_model())
    seen = task.collate(list(task.train()))["pixel_values"][0, 0]
    assert (seen.numpy() > 0).tolist() == (pixels > 0).tolist()


def test_the_first_images_of_a_folder_are_of_all_labels(tmp_path, image_model):
    for label in ("dark", "light"):
        (tmp_path / "images" / label).mkdir(parents=True)
        for number in range(20):
            picture(number).save(tmp_path / "images" / label / f"{number}.png")
    limits = {"max_train_samples": 10, "max_validation_samples": 10}
    files = {f"{part}_file": tmp_path / "images" for part in ("train", "validation")}
    task = ImageClassification(ImageClassificationConfig(**files, **limits), image_model())
    assert sorted(set(task.train()["labels"])) == sorted(set(task.validation()["labels"])) == [0, 1]


def sorted_in(folder: Path, shades: dict[str, int]) -> Path:
    for label, shade in shades.items():
        (folder / label).mkdir(parents=True)
        picture(shade).save(folder / label / f"{shade}.png")
    return folder


def test_a_folder_for_each_label(tmp_path, image_model):
    """One of validation need not have all labels; the numbers are those of training."""
    train = sorted_in(tmp_path / "set [1]" / "train", {"light": 255, "dark": 0})
    validation = sorted_in(tmp_path / "validation", {"light": 200})
    (train / "light" / "notes.txt").write_text("no picture")
    section = {"name": "image-classification", "train_file": train, "validation_file": validation}
    recipe = validated({"model": image_model(labels=3), "task": section})
    task = ImageClassification(recipe.task, recipe.model)
    batch = task.collate(sorted(task.train(), key=lambda row: row["labels"]))
    assert task.load_model(task.source).config.id2label == {0: "dark", 1: "light"}
    assert batch["labels"].tolist() == [0, 1]
    assert batch["pixel_values"][:, 0, 0, 0].tolist() == [-1, 1]
    assert task.collate(list(task.validation()))["labels"].tolist() == [1]


def test_a_folder_without_images_for_labels(tmp_path, image_model):
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match=r"none: a folder of data holds a folder of images for each label, found none"):
        ImageClassification(ImageClassificationConfig(train_file=tmp_path / "none"), image_model())
    (tmp_path / "empty" / "dark").mkdir(parents=True)
    with pytest.raises(DataError, match=r"empty: it holds no rows"):
        ImageClassification(ImageClassificationConfig(train_file=tmp_path / "empty"), image_model())


def test_a_picture_that_is_missing_is_named_with_its_row(tmp_path, image_model):
    file = listed(tmp_path, ["a.png", "b.png", "c.png"])
    with pytest.raises(DataError, match=r"list.csv: no image at .*c.png, named in row 3 \(column 'file'\)"):
        ImageClassification(ImageClassificationConfig(train_file=file, columns={"label": "kind"}), image_model())


def test_a_picture_that_is_broken_is_named(tmp_path, image_model):
    file = listed(tmp_path, ["a.png", "b.png", "b.png"])
    (tmp_path / "pictures/a.png").write_bytes(b"no picture")
    section = ImageClassificationConfig(train_file=file, validation_file=file, columns={"label": "kind"})
    task = ImageClassification(section, image_model())
    with pytest.raises(DataError, match=r"the image in row 1 \(.*a.png\) cannot be read"):
        task.collate(list(task.train()))


def test_columns_that_hold_no_images(tmp_path, image_model):
    table = pd.DataFrame({"pixels": [1, 2], "label": [0, 1]})
    table.to_csv(tmp_path / "t.csv", index=False)
    model = image_model()
    with pytest.raises(DataError, match=r"which column holds the images is unclear; found pixels, label"):
        ImageClassification(ImageClassificationConfig(train_file=tmp_path / "t.csv"), model)
    with pytest.raises(DataError, match=r"column 'pixels' holds .*int64.*; images or file paths were expected"):
        ImageClassification(
            ImageClassificationConfig(train_file=tmp_path / "t.csv", columns={"image": "pixels"}), model
        )
    with pytest.raises(DataError, match=r"no column 'pixel' for image; did you mean 'pixels'\?"):
        ImageClassification(ImageClassificationConfig(train_file=tmp_path / "t.csv", columns={"image": "pixel"}), model)


def test_a_model_without_image_processor(tmp_path, text_model):
    with pytest.raises(ModelError, match="holds no image processor"):
        ImageClassification(ImageClassificationConfig(train_file=stored(tmp_path / "t.parquet")), text_model())


DATA = Path(os.environ.get("PRUNE_DATA", Path(__file__).parents[2] / "../shared/data"))


@pytest.mark.skipif(not DATA.is_dir(), reason="the real data sets are not here (PRUNE_DATA)")
def test_real_data(image_model):
    section = ImageClassificationConfig(
        train_file=DATA / "cifar10-train.parquet",
        validation_file=DATA / "cifar10-validation.parquet",
        max_train_samples=9,
    )
    task = ImageClassification(section, image_model(labels=10))
    assert len(task.train()) == 9
    assert task.collate(list(task.validation().select(range(2))))["pixel_values"].shape == (2, 3, 32, 32)


@pytest.mark.skipif(not DATA.is_dir(), reason="the real data sets are not here (PRUNE_DATA)")
def test_cifar10_by_name_with_the_local_validation_as_its_test_split(image_model, monkeypatch):
    monkeypatch.setenv("PRUNE_DATA", str(DATA))
    recipe = validated({"model": image_model(labels=10), "task": {"name": "cifar10", "max_validation_samples": 3}})
    task = ImageClassification(recipe.task, recipe.model)
    assert len(task.validation()) == 3
    assert recipe.task.validation_split == "test"


def test_a_test_split_has_the_file_of_validation_only_where_nothing_else_is_evaluated(
    tmp_path, image_model, monkeypatch
):
    for name in ("train", "validation"):
        stored(tmp_path / f"shades-{name}.parquet")
    monkeypatch.setenv("PRUNE_DATA", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    section = {"dataset": "nobody/shades", "validation_split": "test"}
    assert len(ImageClassification(ImageClassificationConfig(**section), image_model()).validation()) == 3
    section = {"dataset": "nobody/shades", "further_validation": {"more": "test"}}
    with pytest.raises(DataError, match=r"nobody/shades, split test cannot be read"):
        ImageClassification(ImageClassificationConfig(**section), image_model())


def test_the_images_of_a_hub_data_set_are_found_by_their_type(tmp_path, image_model):
    features = Features({"id": Value("string"), "img": Image(), "label": ClassLabel(names=["dark", "light"])})
    rows = {"id": ["a", "b"], "img": [picture(0), picture(255)], "label": [0, 1]}
    Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "t.parquet")
    section = ImageClassificationConfig(train_file=tmp_path / "t.parquet", validation_file=tmp_path / "t.parquet")
    task = ImageClassification(section, image_model())
    assert task.collate(list(task.train()))["pixel_values"][:, 0, 0, 0].tolist() == [-1, 1]
