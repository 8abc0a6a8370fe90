"""Pictures with boxes: what is drawn where."""

import numpy as np
import pytest

from jaxprune.report.drawing import class_colour, draw_detections

GREY = np.full((240, 320, 3), 60, np.uint8)


def draw(box, **options):
    arguments = {'classes': np.array([1]), 'scores': np.array([0.87], np.float32), 'names': ['cat', 'dog']}
    return draw_detections(GREY, np.array([box], np.float32), **{**arguments, **options})


def test_frame_has_the_colour_of_the_class_and_the_inside_stays():
    result = draw([100, 100, 200, 180])
    for x, y in [(150, 100), (150, 180), (100, 140), (200, 140)]:
        assert tuple(result[y, x]) == class_colour(1)
    np.testing.assert_array_equal(result[110:170, 110:190], GREY[110:170, 110:190])
    np.testing.assert_array_equal(GREY, 60)


def filled(area):
    return (area == class_colour(1)).all(axis=-1).mean() > 0.2


def test_label_is_above_the_box_and_inside_at_the_upper_edge():
    above, inside = draw([100, 100, 200, 180]), draw([100, 0, 200, 180])
    assert filled(above[90:98, 102:140])
    assert not filled(above[102:110, 102:140])
    assert filled(inside[2:10, 102:140])


def test_label_shows_name_and_confidence():
    assert (draw([50, 50, 200, 180]) != draw([50, 50, 200, 180], names=['cat', 'rat'])).any()
    assert (draw([50, 50, 200, 180]) != draw([50, 50, 200, 180], scores=np.array([0.5]))).any()
    np.testing.assert_array_equal(draw([50, 50, 200, 180], names=[]), draw([50, 50, 200, 180], names=['x', '1']))


def test_more_confident_boxes_lie_on_top():
    boxes = np.array([[50, 50, 150, 150]] * 2, np.float32)
    result = draw_detections(GREY, boxes, np.array([0, 1]), np.array([0.9, 0.4]))
    assert tuple(result[150, 100]) == class_colour(0)


@pytest.mark.parametrize('box', [[-50, -50, 400, 300], [310, 230, 900, 900], [-20, -20, -10, -10], [5, 5, 5, 5]])
def test_boxes_beyond_the_picture(box):
    result = draw(box)
    assert result.shape == GREY.shape
    assert (result != GREY).any()


def test_no_boxes():
    result = draw_detections(GREY, np.zeros((0, 4)), np.zeros(0, np.int32), np.zeros(0))
    np.testing.assert_array_equal(result, GREY)


def test_colours_of_80_classes_differ_and_carry_black_text():
    colours = np.array([class_colour(index) for index in range(80)])
    assert len({tuple(colour) for colour in colours.tolist()}) == 80
    neighbours = np.abs(np.diff(colours, axis=0)).sum(axis=1)
    assert neighbours.min() > 100
    luminance = colours @ np.array([0.114, 0.587, 0.299])
    assert luminance.min() > 80
