"""Noise schedules and sigma schedules, beside diffusers' own."""

import pytest
import torch
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteScheduler

from graphengine.diffusion.sigmas import SCHEDULES, NoiseSchedule, sigma_schedule

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}
SD = NoiseSchedule.from_config(BETAS)


@pytest.mark.parametrize("kind", ["linear", "scaled_linear", "squaredcos_cap_v2"])
def test_alphas_equal_those_of_diffusers(kind):
    config = BETAS | {"beta_schedule": kind}
    expected = DDPMScheduler(**config).alphas_cumprod
    assert torch.allclose(NoiseSchedule.from_config(config).alphas_cumprod.float(), expected, rtol=2e-5)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("normal", {"timestep_spacing": "linspace"}),
        ("simple", {"timestep_spacing": "trailing"}),
        ("ddim_uniform", {"timestep_spacing": "leading", "steps_offset": 1}),
        ("karras", {"use_karras_sigmas": True}),
        ("exponential", {"use_exponential_sigmas": True}),
    ],
)
@pytest.mark.parametrize("steps", [4, 10, 20, 50])
def test_a_schedule_equals_that_of_diffusers(name, options, steps):
    scheduler = EulerDiscreteScheduler(**BETAS, **options)
    scheduler.set_timesteps(steps)
    assert torch.allclose(sigma_schedule(name, SD, steps), scheduler.sigmas, rtol=1e-4, atol=1e-4)


def test_beta_has_the_published_levels():
    expected = torch.tensor([14.61, 11.54, 7.37, 4.37, 2.62])
    assert torch.allclose(sigma_schedule("beta", SD, 10)[:5], expected, atol=0.05)


def test_sgm_uniform_ends_with_a_larger_jump():
    made = sigma_schedule("sgm_uniform", SD, 10)
    assert made[1] == pytest.approx(8.3072, abs=0.02) and made[-2] > 0.2


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("steps", [1, 2, 7, 30])
def test_every_schedule_falls_and_ends_in_zero(name, steps):
    made = sigma_schedule(name, SD, steps)
    assert made[-1] == 0 and (made[1:] < made[:-1]).all() and len(made) == steps + 1


@pytest.mark.parametrize("name", SCHEDULES)
def test_strength_keeps_the_number_of_steps_and_starts_lower(name):
    whole, part = sigma_schedule(name, SD, 10), sigma_schedule(name, SD, 10, denoise=0.5)
    assert len(part) == 11 and part[0] < whole[0] / 2


def test_strength_zero_has_no_step():
    assert sigma_schedule("simple", SD, 10, denoise=0).tolist() == [0]


def test_timesteps_and_sigmas_are_each_others_inverse():
    t = torch.linspace(0, 999, 301, dtype=torch.float64)
    assert torch.allclose(SD.timestep_at(SD.sigma_at(t)), t, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("karas", SD, 10), "Did you mean karras"),
        (("karras", SD, 0), "at least 1"),
        (("karras", SD, 10, 1.5), "0..1"),
        (("karras", SD, 10, float("nan")), "0..1"),
    ],
)
def test_bad_arguments_are_told(arguments, message):
    with pytest.raises(ValueError, match=message):
        sigma_schedule(*arguments)


def test_an_unknown_beta_schedule_is_told():
    with pytest.raises(ValueError, match="scaled_linear"):
        NoiseSchedule.from_config({"beta_schedule": "sigmoid"})
