from pathlib import Path

import pytest

from pruneonce.errors import UsageError
from pruneonce.recipe import STAGES, load_recipe, parse_recipe, stage_of

RECIPES_FOLDER = Path(__file__).parents[1] / "recipes"
RECIPES = sorted(set(RECIPES_FOLDER.rglob("*.toml")) - set((RECIPES_FOLDER / "studies").iterdir()))
MINIMAL = {"model": "m", "corpus": "c", "training": {"steps": 10, "learning_rate": 1e-4}}


def recipe_file(tmp_path, text):
    file = tmp_path / "r.toml"
    file.write_text(text)
    return file


def test_misspelt_key_is_an_error_that_names_the_nearest_one():
    with pytest.raises(
        UsageError, match=r"unknown key 'pruning\.frequency_step': did you mean 'pruning\.frequency_steps'"
    ):
        parse_recipe(MINIMAL | {"pruning": {"frequency_step": 3}}, "prune")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"training": {"steps": "many", "learning_rate": 1e-4}}, "'training.steps' must be of type int, got 'many'"),
        ({"training": {"steps": True, "learning_rate": 1e-4}}, "'training.steps' must be of type int"),
        ({"training": {"learning_rate": 1e-4}}, "either steps or epochs"),
        ({"training": {"steps": 1, "epochs": 1, "learning_rate": 1e-4}}, "either steps or epochs"),
        ({"training": {"steps": 1, "learning_rate": -1.0}}, "learning_rate must be above 0"),
        ({"training": {"steps": 1}}, "'training.learning_rate' is missing"),
        ({"training": 3}, r"must be a section \[training\]"),
        ({"pruning": {"sparsity": 90}}, "0.9 for 90 %"),
        ({"pruning": {"rewind": "yes"}}, "must be one of 'exact', 'original', 'off'"),
        ({"distillation": {"kd_tokens": 0.0}}, "kd_tokens must be above 0"),
        ({"distillation": {"hard_weight": 0.0, "kd_weight": 0.0}}, "nor both 0"),
        ({"stage": "finetune"}, "is a recipe for `pruneonce finetune`"),
    ],
)
def test_values_that_do_not_fit_are_one_line_errors(values, message):
    with pytest.raises(UsageError, match=message) as caught:
        parse_recipe(MINIMAL | values, "prune")
    assert "\n" not in str(caught.value)


def test_overrides_reach_into_sections_and_take_bare_words(tmp_path):
    file = recipe_file(
        tmp_path, 'stage = "prune"\nmodel = "a"\ncorpus = "c"\n[training]\nsteps = 5\nlearning_rate = 1e-4'
    )
    recipe = load_recipe(file, "prune", ["training.steps=7", "model=runs/teacher", "distillation.kd_tokens=0.25"])
    assert (recipe.training.steps, recipe.model, recipe.distillation.kd_tokens) == (7, "runs/teacher", 0.25)


def test_optional_sections_can_be_switched_off():
    assert parse_recipe(MINIMAL, "prune", ["distillation=false"]).distillation is None


@pytest.mark.parametrize("override", ["steps", "=3", "model.steps=3"])
def test_malformed_override_is_refused(override):
    with pytest.raises(UsageError, match="--set"):
        parse_recipe(MINIMAL, "prune", [override])


@pytest.mark.parametrize("text", ["model = ", "\xff"])
def test_broken_file_is_a_one_line_error(tmp_path, text):
    file = tmp_path / "r.toml"
    file.write_text(text, encoding="latin-1")
    with pytest.raises(UsageError, match="cannot be read"):
        load_recipe(file, "prune")


def test_missing_file_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"none\.toml does not exist"):
        load_recipe(tmp_path / "none.toml", "prune")


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: str(path.relative_to(path.parents[1])))
def test_shipped_recipe_parses_and_says_where_it_comes_from(path):
    recipe = load_recipe(path, stage_of(path))
    assert recipe.source
    assert isinstance(recipe, STAGES[stage_of(path)])
