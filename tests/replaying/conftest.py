"""Float64 throughout, and the promotion of types and ranks that Flax itself relies on."""

import jax
import pytest


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64(True), jax.numpy_dtype_promotion('standard'), jax.numpy_rank_promotion('allow'):
        yield
