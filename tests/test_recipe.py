import math
from pathlib import Path

import pytest

from pruneonce.errors import UsageError
from pruneonce.recipe import STAGES, Training, load_recipe, load_recipes, parse_recipe, stage_of

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
        ({"distillation": {"hard_weight": 0.0, "kd_weight": 0.0}}, "nor all 0"),
        ({"stage": "finetune"}, "is a recipe for `pruneonce finetune`"),
        ({"stage": ["prune"]}, "is a recipe for"),
        ({"seed": -1}, "'seed' must be at least 0"),
        ({"seed": 1 << 32}, "'seed' must be at least 0 and below"),
        ({"seed": 10**400}, "'seed' does not fit 64 bits"),
        ({"training": {"steps": 1, "learning_rate": 10**400}}, "'training.learning_rate' does not fit 64 bits"),
        ({"training": {"steps": 1, "learning_rate": math.nan}}, "'training.learning_rate' must be a finite number"),
        ({"training": {"steps": 1, "learning_rate": math.inf}}, "'training.learning_rate' must be a finite number"),
        ({"published": {"f1": -math.inf}}, "'published.f1' must be a finite number"),
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


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a = " + "[" * 3000, "cannot be read: .*nested too deeply"),
        ("seed = 1" + "0" * 5000, "cannot be read"),
        ('stage = ["prune"]', r"'stage' must be one of teacher, .*, got \['prune'\]"),
        ("stage = {}", "'stage' must be one of"),
    ],
    ids=lambda value: value[:20],
)
def test_hostile_file_is_a_one_line_error_that_names_it(tmp_path, text, message):
    with pytest.raises(UsageError, match=r"r\.toml.*" + message) as caught:
        stage_of(recipe_file(tmp_path, text))
    assert "\n" not in str(caught.value)


def test_hostile_override_is_a_usage_error_too():
    for value in ("[" * 3000, "1" + "0" * 5000):
        with pytest.raises(UsageError, match="'seed' must be of type int"):
            parse_recipe(MINIMAL, "prune", [f"seed={value}"])


@pytest.mark.parametrize("seeds", [[1, -1], [1 << 40], [{"a": 1}]], ids=str)
def test_seeds_that_no_generator_takes_are_refused_with_the_file(tmp_path, seeds):
    file = recipe_file(tmp_path, "seeds = []")
    with pytest.raises(UsageError, match=r"r\.toml: 'seeds' must be"):
        load_recipes(file, "prune", [f"seeds={seeds}".replace("{'a': 1}", "{a = 1}")])


@pytest.mark.parametrize("stage", STAGES)
def test_negative_seed_is_refused_in_every_stage(stage):
    data = {"task": {"name": "sst2"}} if stage in ("finetune", "quantize", "evaluate") else {"corpus": "c"}
    values = {"model": "m", **({} if stage == "evaluate" else {"training": MINIMAL["training"]}), **data}
    parse_recipe(values | {"seed": 0}, stage)
    with pytest.raises(UsageError, match="recipe: 'seed' must be at least 0 and below 4,294,967,296, got -1"):
        parse_recipe(values | {"seed": -1}, stage)


def test_a_learning_rate_that_is_no_number_is_refused_from_python_too():
    with pytest.raises(UsageError, match="learning_rate must be above 0, got nan"):
        Training(learning_rate=math.nan, steps=1)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"none\.toml does not exist"):
        load_recipe(tmp_path / "none.toml", "prune")


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: str(path.relative_to(path.parents[1])))
def test_shipped_recipe_parses_and_says_where_it_comes_from(path):
    recipe = load_recipe(path, stage_of(path))
    assert recipe.source
    assert isinstance(recipe, STAGES[stage_of(path)])
