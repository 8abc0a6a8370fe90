"""Letterboxing against the PyTorch YOLOv7, in pixels; reading pictures that are not whole."""

import cv2
import numpy as np
import pytest

from jaxprune.data._letterbox import letterbox, load_image
from jaxprune.errors import UserError


def picture(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def test_pixels_are_those_of_the_original(golden, data):
    known = np.load(golden / 'images' / 'letterbox.npz')
    keys = [key for key in known.files if not key.endswith('ratio_pad')]
    assert keys
    for key in keys:
        name, kind = key.split('-')
        image = cv2.imread(str(data / 'images' / f'{name}.jpg'))
        size, auto = (320, True) if kind == '320auto' else (640, False)
        result, ratio, pad = letterbox(image, (size, size), auto=auto)
        np.testing.assert_array_equal(result if auto else result[::7, ::7], known[key], err_msg=key)
        np.testing.assert_array_equal((ratio, ratio, *pad), known[f'{key}-ratio_pad'], err_msg=key)


@pytest.mark.parametrize(
    ('height', 'width', 'options', 'shape', 'ratio', 'pad'),
    [
        (100, 50, {}, (64, 96), 0.64, (32, 0)),  # shrinks to 64 x 32
        (32, 48, {'scale_up': False}, (64, 96), 1, (24, 16)),  # stays as it is
        (32, 48, {}, (64, 96), 2, (0, 0)),  # fills it
        (32, 48, {'auto': True, 'scale_up': False}, (32, 64), 1, (8, 0)),  # 48 + 16 of 96, 32 + 0 of 64
        (64, 41, {}, (64, 96), 1, (27.5, 0)),  # 27 left, 28 right
        (5000, 1, {}, (64, 96), 0.0128, (47.5, 0)),  # one column at least
    ],
)
def test_shapes(height, width, options, shape, ratio, pad):
    result, *rest = letterbox(picture(height, width), (64, 96), **options)
    assert result.shape[:2] == shape
    assert rest == [pytest.approx(ratio), pad]


def test_the_larger_half_of_an_odd_border_is_on_the_right():
    image = picture(64, 41)
    result = letterbox(image, (64, 96))[0]
    np.testing.assert_array_equal(result[:, 27:68], image)
    assert (result[:, :27] == 114).all()
    assert (result[:, 68:] == 114).all()


@pytest.mark.parametrize(
    ('size', 'augment', 'interpolation', 'shape'),
    [
        (50, False, cv2.INTER_AREA, (30, 50)),
        (50, True, cv2.INTER_LINEAR, (30, 50)),
        (150, False, cv2.INTER_LINEAR, (91, 150)),  # 61 * 1.5 = 91.5 is cut off
        (100, False, None, (61, 100)),
    ],
)
def test_load_image_scales_the_longer_side(tmp_path, size, augment, interpolation, shape):
    original = picture(61, 100)
    cv2.imwrite(str(tmp_path / 'picture.png'), original)
    image, before, after = load_image(tmp_path / 'picture.png', size, augment=augment)
    assert (before, after) == ((61, 100), shape)
    expected = original if interpolation is None else cv2.resize(original, shape[::-1], interpolation=interpolation)
    np.testing.assert_array_equal(image, expected)


def test_missing_picture(tmp_path):
    with pytest.raises(UserError, match=r'nothing\.jpg: cannot be read \(No such file'):
        load_image(tmp_path / 'nothing.jpg', 64)


@pytest.mark.parametrize('content', [b'', b'class cx cy w h', b'\x89PNG\r\n\x1a\n'])
def test_not_a_picture(tmp_path, content):
    (tmp_path / 'odd.jpg').write_bytes(content)
    with pytest.raises(UserError, match=r'odd\.jpg: not a picture'):
        load_image(tmp_path / 'odd.jpg', 64)


def test_jpeg_that_is_cut_off(tmp_path):
    whole = cv2.imencode('.jpg', picture(64, 64))[1].tobytes()
    (tmp_path / 'whole.jpg').write_bytes(whole)
    (tmp_path / 'half.jpg').write_bytes(whole[: len(whole) // 2])
    assert load_image(tmp_path / 'whole.jpg', 64)[0].shape == (64, 64, 3)
    with pytest.raises(UserError, match=r'half\.jpg: the JPEG file is cut off'):
        load_image(tmp_path / 'half.jpg', 64)
