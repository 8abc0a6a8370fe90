"""Decoding against the PyTorch YOLOv7, for all architectures whose outputs are there."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxprune.detection import decode


def test_decode_is_that_of_the_original(golden):
    files = sorted((golden / 'family').glob('*.npz'))
    assert files
    for file in files:
        known = np.load(file)
        heads = [jnp.asarray(known[f'raw{level}'].transpose(0, 2, 3, 1, 4)) for level in range(len(known['stride']))]
        decoded = np.asarray(decode(heads, known['anchors'], known['stride']))
        expected = known['decoded']
        np.testing.assert_allclose(decoded[..., :4], expected[..., :4], atol=2e-6 * expected.max(), err_msg=file.name)
        np.testing.assert_allclose(decoded[..., 4:], expected[..., 4:], atol=1e-6, err_msg=file.name)


def test_order_is_levels_anchors_rows_columns():
    heads = [jnp.zeros((1, 2, 3, 2, 6)), jnp.zeros((1, 1, 1, 2, 6))]
    decoded = np.asarray(decode(heads, [[[4, 5], [6, 7]], [[8, 9], [10, 11]]], [8, 16]))[0]
    assert decoded.shape == (14, 6)
    np.testing.assert_array_equal(decoded[:, 2], [4] * 6 + [6] * 6 + [8, 10])
    np.testing.assert_array_equal(decoded[:3, 0], [4, 12, 20])
    np.testing.assert_array_equal(decoded[:6:3, 1], [4, 12])


def test_half_precision_heads_are_decoded_in_float32():
    head = jnp.full((1, 1, 200, 1, 6), 3, jnp.bfloat16)
    decoded = decode([head], [[[100, 100]]], [32])
    assert decoded.dtype == jnp.float32
    np.testing.assert_allclose(np.diff(decoded[0, :, 0]), 32, atol=1e-2)


def test_levels_must_agree():
    with pytest.raises(ValueError, match='zip'):
        decode([jnp.zeros((1, 1, 1, 1, 6))], [[[4, 5]]], [8, 16])
