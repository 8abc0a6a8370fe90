"""Recipe files: those of the package, and every mistake in one."""

import pytest

from jaxprune import resources
from jaxprune.errors import UserError
from jaxprune.training import Recipe, read_recipe


@pytest.mark.parametrize('file', sorted(resources.path('train').glob('*.yaml')), ids=lambda file: file.stem)
def test_own_recipes_can_be_read_and_say_how_to_use_them(file):
    assert isinstance(read_recipe(file), Recipe)
    comment = file.read_text().split('\nepochs')[0]
    assert comment.startswith('# jaxprune ') and file.stem in comment


def test_values_and_defaults(tmp_path):
    file = tmp_path / 'r.yaml'
    file.write_text('epochs: 3\nlr0: 1\nloss: {box: 0.1}\naugment: {mosaic: 0}\n')
    recipe = read_recipe(file)
    assert (recipe.epochs, recipe.lr0, recipe.loss.box, recipe.augment.mosaic) == (3, 1.0, 0.1, 0.0)
    assert (recipe.momentum, recipe.loss.obj, recipe.augment.scale) == (0.937, 1.0, 0.5)


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('- 1', 'a recipe is a list of'),
        ('a: [', 'not a readable recipe'),
        ('learning_rate: 1', "unknown entry 'learning_rate'"),
        ('loss: {boxes: 1}', "unknown entry 'boxes'"),
        ('epochs: many', "epochs: 'many'"),
        ('epochs: 1.5', 'epochs: 1.5'),
        ('epochs: true', 'epochs: True'),
        ('augment: 1', 'augment: 1'),
        ('optimizer: lion', "optimizer 'lion' is not one of sgd, adam"),
        ('decay: steps', "decay 'steps' is not one of cosine, linear"),
        ('batch: 0', 'batch 0 must be positive'),
    ],
)
def test_mistakes_are_named(tmp_path, text, message):
    file = tmp_path / 'r.yaml'
    file.write_text(text)
    with pytest.raises(UserError, match=message) as error:
        read_recipe(file)
    assert str(file) in str(error.value)


def test_missing_file(tmp_path):
    with pytest.raises(UserError, match='not a readable recipe'):
        read_recipe(tmp_path / 'none.yaml')
