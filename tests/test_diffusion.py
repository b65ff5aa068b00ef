"""Noise, guidance, masks and the forward process."""

import pytest
import torch

from graphengine.diffusion import forward
from graphengine.diffusion.guidance import ClassifierFree, Interval, Plain, Rescaled
from graphengine.diffusion.masks import masked_denoise
from graphengine.diffusion.noise import NoiseSource, batch_seeds

X = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
NOISE = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def test_a_picture_draws_the_same_noise_alone_and_in_a_batch():
    batch = NoiseSource(batch_seeds(7, 3), (4, 8, 8), "cpu", torch.float32)
    alone = NoiseSource([9], (4, 8, 8), "cpu", torch.float32)
    for _ in range(3):
        assert torch.equal(batch()[2], alone()[0])


def test_seeds_wrap_at_64_bits():
    assert batch_seeds(2**64 - 1, 2) == [2**64 - 1, 0]


def test_guidance_exaggerates_the_difference():
    assert torch.allclose(ClassifierFree(3.0).combine(X, NOISE, X, 1.0), NOISE + 3 * (X - NOISE))


def test_guidance_of_one_needs_no_second_estimate():
    assert not ClassifierFree(1.0).needs_unconditional(1.0) and not Plain().needs_unconditional(1.0)


def test_full_rescaling_restores_the_spread():
    made = Rescaled(7.0, 1.0).combine(X, NOISE, X, 1.0)
    assert torch.allclose(made.std((1, 2, 3)), X.std((1, 2, 3)))


def test_an_interval_guides_only_inside():
    guidance = Interval(ClassifierFree(3.0), 1.0, 5.0)
    assert guidance.needs_unconditional(2.0) and not guidance.needs_unconditional(0.5)
    assert torch.equal(guidance.combine(X, NOISE, X, 9.0), X)


def test_a_masked_denoiser_keeps_the_latent_outside():
    mask = torch.zeros(1, 1, 4, 4, dtype=torch.float64)
    mask[..., :2] = 1
    call = masked_denoise(lambda x, sigma: x * 0 + 5, mask, X, lambda sigma: X + NOISE * sigma)
    made = call(NOISE, torch.tensor(2.0))
    assert torch.equal(made[..., 2:], X[..., 2:]) and (made[..., :2] == 5).all()


@pytest.mark.parametrize("prediction", forward.PREDICTIONS)
def test_a_perfect_prediction_gives_the_clean_picture(prediction):
    sigma = torch.tensor(2.5, dtype=torch.float64)
    abar = forward.alpha_cumprod_at(sigma)
    target = {"epsilon": NOISE, "sample": X, "v_prediction": forward.velocity(X, NOISE, abar)}[prediction]
    x = forward.add_noise(X, NOISE, sigma)
    assert torch.allclose(forward.denoised_from(target, prediction, x, sigma), X)


def test_the_two_spaces_differ_by_a_factor():
    sigma = torch.tensor(2.5, dtype=torch.float64)
    wide = forward.add_noise(X, NOISE, sigma)
    assert torch.allclose(
        forward.scale_input(wide, sigma), forward.add_noise_vp(X, NOISE, forward.alpha_cumprod_at(sigma))
    )


def test_one_jump_has_the_moments_of_many_small_steps():
    from graphengine.diffusion.sigmas import NoiseSchedule

    abar = NoiseSchedule.linear().alphas_cumprod
    ratio, share, spread = abar[1:200] / abar[:199], abar[0].sqrt(), 1 - abar[0]
    for alpha in ratio:
        share, spread = share * alpha.sqrt(), spread * alpha + (1 - alpha)
    assert share == pytest.approx(float(abar[199].sqrt())) and spread == pytest.approx(float(1 - abar[199]))


def test_an_unknown_prediction_is_told():
    with pytest.raises(ValueError, match="v_prediction"):
        forward.denoised_from(X, "noise", X, torch.tensor(1.0))
