"""Every family draws what diffusers' own pipeline draws, from the same small random weights."""

import pytest
from families.harness import CONTROL, LIMIT, compare
from families.table import cases


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.name)
def test_a_family_is_equal_to_its_diffusers_pipeline_and_a_control_is_not(case, tmp_path):
    found = compare(case, tmp_path)
    assert found.latents < LIMIT
    assert found.picture < LIMIT
    assert found.control > CONTROL
