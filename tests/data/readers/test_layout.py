"""Layouts as people bring them, from paths alone."""

import pytest

from imprint import DataError
from imprint.data.readers.layout import find_parts, infer_layout


def paths(*patterns, count=4):
    return [pattern.replace("*", str(i)) for pattern in patterns for i in range(count)]


def classes(found):
    return sorted(set(found.labels))


def two(part, names=("cat", "dog"), count=4):
    return paths(*(f"{part}/{name}/*.jpg" for name in names), count=count)


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("training_set", "test_set"),
        ("train_images", "test_images"),
        ("seg_train", "seg_test"),
        ("Training", "Testing"),
        ("train", "test1"),
        ("TRAIN", "Test"),
        ("TrainSet", "TestSet"),
        ("Final_Training", "Final_Test"),
        ("trainset", "testset"),
        ("train2017", "test2017"),
        ("dataset/train", "dataset/test"),
        ("a/b/Training", "a/b/Testing"),
    ],
)
def test_parts_by_words(train, test):
    everything = two(train) + two(test, count=2)
    assert tuple(find_parts(everything, "data")[1]) == ("train", "test")
    assert len(infer_layout(everything).paths) == 8
    found = infer_layout(everything, part="test")
    assert (classes(found), len(found.paths)) == (["cat", "dog"], 4)


@pytest.mark.parametrize("name", ["val", "valid", "Validation", "validation_images", "dev", "valid_set"])
def test_validation_by_words(name):
    train = "train" if "_" not in name else "train_images"
    found = infer_layout(two(train) + two(name), part="validation")
    assert all(path.startswith(f"{name}/") for path in found.paths)


def test_doubled_folders_and_a_flat_part_to_predict():
    everything = two("seg_train/seg_train") + two("seg_test/seg_test") + paths("seg_pred/seg_pred/*.jpg")
    assert classes(infer_layout(everything)) == ["cat", "dog"]
    flat = infer_layout(everything, part="prediction")
    assert (flat.labels, len(flat.paths)) == (None, 4)


def test_a_copy_of_everything_inside_is_passed_by_and_counted():
    everything = two("xray/train") + two("xray/test") + two("xray/xray/train") + two("xray/xray/test")
    found = infer_layout(everything)
    assert len(found.paths) == 8
    assert found.skipped == (("xray/xray", "16 images lie beside train and test, in none of them"),)
    assert found.left_out == ()


def test_notes_beside_a_lone_folder_are_no_obstacle():
    everything = [*two("flower_photos"), "readme", "LICENSE", "preview.jpg"]
    found = infer_layout([*everything[:-1]])
    assert (classes(found), found.left_out) == (["cat", "dog"], ())
    assert infer_layout(everything[:-1], ["notes", "flower_photos"]).skipped == ()
    many = infer_layout([*two("flower_photos", count=50), "preview.jpg"])
    assert (classes(many), many.skipped) == (["cat", "dog"], (("preview.jpg", "it lies beside flower_photos"),))


@pytest.mark.parametrize(
    "names",
    [
        ("test", "control"),
        ("train", "bus", "car"),  # flat: a vehicle
        ("bullet_train", "bus"),
        ("crash_test", "road_test"),
        ("test", "cat", "val"),
        ("train_a", "train_b"),
    ],
)
def test_classes_that_are_called_like_parts(names):
    everything = paths(*(f"{name}/*.jpg" for name in names))
    assert find_parts(everything, "data")[1] == {}
    assert classes(infer_layout(everything)) == sorted(names)


def test_an_empty_folder_called_train_divides_nothing():
    found = infer_layout(paths("*.jpg"), ["train"])
    assert (len(found.paths), found.labels, found.skipped) == (4, None, ())


def test_a_folder_for_each_class_that_holds_one_for_images():
    found = infer_layout(paths("train/n01/images/*.JPEG", "train/n02/images/*.JPEG") + paths("val/images/*.JPEG"))
    assert classes(found) == ["n01", "n02"]
    validation = infer_layout(paths("train/n01/images/*.JPEG", "val/images/*.JPEG"), part="validation")
    assert (validation.labels, validation.homes) == (None, ("val/images/", "val/", ""))


def test_either_folder_may_be_the_classes():
    nested = paths("siteA/cat/*.jpg", "siteA/dog/*.jpg", "siteB/cat/*.jpg", "siteB/dog/*.jpg")
    with pytest.raises(DataError, match="siteA, siteB hold no image themselves, and each has the folders cat, dog"):
        infer_layout(nested)
    assert classes(infer_layout(nested, label=r"([^/]+)/[^/]+$")) == ["cat", "dog"]
    assert classes(infer_layout(nested, label=r"^([^/]+)/")) == ["siteA", "siteB"]
    with pytest.raises(DataError, match="siteA"):
        infer_layout(two("a/siteA") + two("a/siteB") + paths("b/1.txt"))


def test_a_class_may_have_folders_of_its_own():
    assert classes(infer_layout(paths("cat/day/*.jpg", "cat/night/*.jpg", "dog/*.jpg"))) == ["cat", "dog"]
    assert classes(infer_layout(paths("cat/lucy/*.jpg", "cat/tom/*.jpg", "dog/rex/*.jpg", "dog/max/*.jpg"))) == [
        "cat",
        "dog",
    ]


def test_a_class_and_a_part_in_one_name_are_refused():
    everything = paths("cats_train/*.jpg", "cats_test/*.jpg", "dogs_train/*.jpg", "dogs_test/*.jpg")
    with pytest.raises(DataError, match="name a class and a part at once"):
        infer_layout(everything)


def test_one_class_alone_stays_a_class():
    found = infer_layout(paths("cat/*.jpg"))
    assert (classes(found), len(found.paths)) == (["cat"], 4)
    assert infer_layout(paths("images/*.jpg")).labels is None


def test_labels_by_a_regular_expression():
    found = infer_layout(
        [*paths("train/cat.*.jpg", "train/dog.*.jpg"), "train/x.jpg", "test1/1.jpg"], label=r"(\w+)\.\d+\."
    )
    assert classes(found) == ["cat", "dog"]
    assert found.left_out == (("train/x.jpg", "--label matches nothing in its path"),)
    with pytest.raises(DataError, match="no regular expression"):
        infer_layout(paths("*.jpg"), label="(")
    with pytest.raises(DataError, match=r"it matches no path \(the first is 0.jpg\)"):
        infer_layout(paths("*.jpg"), label="cat")


def test_initials_around_classes_are_none():
    """Places365: pytorch/vision#2605."""
    found = infer_layout(paths("a/airfield/*.jpg", "a/alley/*.jpg", "b/bakery/*.jpg"))
    assert classes(found) == ["airfield", "alley", "bakery"]


def test_folders_in_classes_are_said(caplog):
    caplog.set_level("INFO", logger="imprint")
    found = infer_layout(paths("fruit/apple/*.jpg", "fruit/pear/*.jpg", "veg/leek/*.jpg", "veg/kale/*.jpg"))
    assert classes(found) == ["fruit", "veg"]
    assert "classes are fruit, veg, not the folders in them" in caplog.text


@pytest.mark.parametrize(
    "everything",
    [
        two("ILSVRC/Data/CLS-LOC/train") + paths("ILSVRC/Data/CLS-LOC/val/*.JPEG"),  # wimmerth/anyup#10
        [*two("Images"), *paths("Annotation/cat/n0_*", "Annotation/dog/n0_*")],  # Stanford dogs: boxes without endings
        [*two("food-101/images"), "food-101/README"],
        [*two("101_ObjectCategories"), "101_ObjectCategories/cat/.keep"],
        two("PetImages/train_images") + two("PetImages/val_images"),
    ],
)
def test_layouts_of_known_sets(everything):
    assert classes(infer_layout(everything)) == ["cat", "dog"]


def test_a_copy_of_the_classes_among_them_is_passed_by():
    """Kaggle's PlantVillage."""
    everything = two("PlantVillage") + two("PlantVillage/PlantVillage")
    found = infer_layout(everything)
    assert (classes(found), len(found.paths)) == (["cat", "dog"], 8)
    assert found.skipped[0][0] == "PlantVillage/PlantVillage"
    assert "8 images" in found.skipped[0][1]


@pytest.mark.parametrize(
    "everything",
    [
        two("data/train") + two("data/test") + paths("src/*.png"),
        paths("cat/train/*.jpg", "cat/test/*.jpg", "dog/train/*.jpg", "dog/test/*.jpg"),
    ],
)
def test_parts_inside_what_would_be_classes_are_refused(everything):
    with pytest.raises(DataError, match=r"would be a class, but holds the parts train and test"):
        infer_layout(everything)


def test_a_part_named_after_the_set_beside_a_plain_one():
    everything = two("train") + two("validation-horse-or-human") + paths("test-multiple_fruits/*.jpg")
    assert find_parts(everything, "data")[1] == {"train": "train", "validation": "validation-horse-or-human"}
