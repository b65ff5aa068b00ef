"""Samplers equal their twins in diffusers, given the same noise; those without a twin solve what can be solved exactly.

The toy network is a smooth nonlinear function, so that an error in any coefficient shows.  diffusers' variance-preserving
samples are x / sqrt(1 + sigma^2).
"""

import math

import pytest
import torch
from diffusers.schedulers import (
    scheduling_ddim,
    scheduling_ddpm,
    scheduling_dpmsolver_multistep,
    scheduling_euler_ancestral_discrete,
    scheduling_euler_discrete,
    scheduling_heun_discrete,
    scheduling_lcm,
    scheduling_lms_discrete,
    scheduling_unipc_multistep,
)

from graphengine.diffusion.multistep import MULTISTEP
from graphengine.diffusion.samplers import SAMPLERS, sampler
from graphengine.diffusion.sigmas import NoiseSchedule, sigma_schedule

STEPS = 20
SHAPE = (2, 3, 4, 4)
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}
ALL = [*SAMPLERS, *MULTISTEP]


def toy(x, sigma):
    """A denoiser: shrinks towards a fixed picture, more so when there is more noise."""
    target = torch.linspace(-1, 1, x[0].numel(), dtype=x.dtype).reshape(x.shape[1:])
    trust = 1 / (1 + sigma**2)
    return trust * torch.tanh(x) + (1 - trust) * target + 0.1 * torch.sin(3 * x / (1 + sigma))


def draws(count=200):
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(SHAPE, generator=generator, dtype=torch.float64) for _ in range(count)]


def ours(name, sigmas, x, noises=()):
    queue = iter(noises)
    steps = list(sampler(name)(toy, x, sigmas.double(), lambda: next(queue)))
    return steps[-1].x


def twin(module, scheduler, variance_preserving, monkeypatch, noises, sigmas, timesteps=None):
    """Run a diffusers scheduler on the toy; returns the final clean estimate and the start in x-space."""
    queue = iter(noises)
    if hasattr(module, "randn_tensor"):
        monkeypatch.setattr(module, "randn_tensor", lambda *a, **k: next(queue))
    start = draws(1)[0] * sigmas[0].double()
    x = start / math.sqrt(1 + float(sigmas[0]) ** 2) if variance_preserving else start
    for index, t in enumerate(scheduler.timesteps if timesteps is None else timesteps):
        sigma = sigmas[index].double()
        wide = x * (1 + sigma**2).sqrt() if variance_preserving else x
        if hasattr(scheduler, "scale_model_input"):
            scheduler.scale_model_input(x, t)
        epsilon = (wide - toy(wide, sigma)) / sigma
        x = scheduler.step(epsilon, t, x).prev_sample
    return x, start


def relative(a, b):
    return float((a - b).norm() / b.norm())


def test_euler_equals_euler_discrete(monkeypatch):
    scheduler = scheduling_euler_discrete.EulerDiscreteScheduler(**BETAS)
    scheduler.set_timesteps(STEPS)
    expected, start = twin(scheduling_euler_discrete, scheduler, False, monkeypatch, [], scheduler.sigmas)
    assert relative(ours("euler", scheduler.sigmas, start), expected) < 1e-5  # the twin steps in float32


def test_euler_ancestral_equals_its_twin(monkeypatch):
    module = scheduling_euler_ancestral_discrete
    scheduler = module.EulerAncestralDiscreteScheduler(**BETAS)
    scheduler.set_timesteps(STEPS)
    expected, start = twin(module, scheduler, False, monkeypatch, draws(), scheduler.sigmas)
    assert relative(ours("euler_ancestral", scheduler.sigmas, start, draws()), expected) < 1e-5


def test_heun_equals_heun_discrete(monkeypatch):
    module = scheduling_heun_discrete
    scheduler = module.HeunDiscreteScheduler(**BETAS)
    scheduler.set_timesteps(STEPS)
    once = torch.cat([scheduler.sigmas[:1], scheduler.sigmas[1:-1:2], scheduler.sigmas[-1:]])
    expected, start = twin(module, scheduler, False, monkeypatch, [], scheduler.sigmas)
    assert relative(ours("heun", once, start), expected) < 1e-5


def test_lms_equals_lms_discrete(monkeypatch):
    module = scheduling_lms_discrete
    scheduler = module.LMSDiscreteScheduler(**BETAS)
    scheduler.set_timesteps(STEPS)
    expected, start = twin(module, scheduler, False, monkeypatch, [], scheduler.sigmas)
    assert relative(ours("lms", scheduler.sigmas, start), expected) < 1e-4  # the twin integrates to 1e-4


def trained_sigmas(timesteps):
    """The levels of whole timesteps, and 0."""
    return torch.cat([NoiseSchedule.from_config(BETAS).sigmas[timesteps], torch.zeros(1, dtype=torch.float64)])


def test_ddim_equals_ddim(monkeypatch):
    module = scheduling_ddim
    scheduler = module.DDIMScheduler(**BETAS, clip_sample=False, set_alpha_to_one=True, timestep_spacing="trailing")
    scheduler.set_timesteps(STEPS)
    sigmas = trained_sigmas(scheduler.timesteps)
    expected, start = twin(module, scheduler, True, monkeypatch, [], sigmas)
    assert relative(ours("ddim", sigmas, start), expected) < 1e-5


@pytest.mark.parametrize("name", ["ddpm", "euler_ancestral"])
def test_ddpm_equals_ddpm(monkeypatch, name):
    """Both names: in this space the ancestral step is the draw from the posterior."""
    module = scheduling_ddpm
    scheduler = module.DDPMScheduler(**BETAS, clip_sample=False, timestep_spacing="trailing")
    scheduler.set_timesteps(STEPS)
    sigmas = trained_sigmas(scheduler.timesteps)
    expected, start = twin(module, scheduler, True, monkeypatch, draws(), sigmas)
    assert relative(ours(name, sigmas, start, draws()), expected) < 1e-4


def dpm_solver(kind, order, scheduler_class=scheduling_dpmsolver_multistep.DPMSolverMultistepScheduler):
    scheduler = scheduler_class(
        **BETAS,
        algorithm_type=kind,
        solver_order=order,
        solver_type="midpoint",
        final_sigmas_type="zero",
        timestep_spacing="trailing",
    )
    scheduler.set_timesteps(STEPS)
    return scheduler


@pytest.mark.parametrize(("name", "kind"), [("dpmpp_2m", "dpmsolver++"), ("dpmpp_2m_sde", "sde-dpmsolver++")])
def test_dpm_solvers_equal_dpmsolver_multistep(monkeypatch, name, kind):
    scheduler = dpm_solver(kind, 2)
    expected, start = twin(scheduling_dpmsolver_multistep, scheduler, True, monkeypatch, draws(), scheduler.sigmas)
    assert relative(ours(name, scheduler.sigmas, start, draws()), expected) < 2e-5


class WithTheLastSignRight(scheduling_dpmsolver_multistep.DPMSolverMultistepScheduler):
    """The twin's weight of the second difference is phi - 1/2 where the expansion of the integral gives phi + 1/2
    (it must vanish with the step; (1 - exp(-z) - z) / z^2 tends to -1/2)."""

    def multistep_dpm_solver_third_order_update(self, model_output_list, *args, sample=None, noise=None, **kwargs):
        made = super().multistep_dpm_solver_third_order_update(
            model_output_list, *args, sample=sample, noise=noise, **kwargs
        )
        step = self.step_index or 0
        levels = [self.sigmas[step + k].double() for k in (1, 0, -1, -2)]
        h, h_0, h_1 = (torch.log(levels[k + 1] / levels[k]) for k in range(3))
        r_0, r_1 = h_0 / h, h_1 / h
        m_0, m_1, m_2 = model_output_list[::-1][:3]
        second = ((m_0 - m_1) / r_0 - (m_1 - m_2) / r_1) / (r_0 + r_1)
        return made + second / (1 + levels[0] ** 2).sqrt()


def test_dpmpp_3m_sde_equals_its_twin_once_the_twins_last_sign_is_right(monkeypatch):
    scheduler = dpm_solver("sde-dpmsolver++", 3, WithTheLastSignRight)
    expected, start = twin(scheduling_dpmsolver_multistep, scheduler, True, monkeypatch, draws(), scheduler.sigmas)
    assert relative(ours("dpmpp_3m_sde", scheduler.sigmas, start, draws()), expected) < 2e-5


def test_unipc_equals_unipc_multistep(monkeypatch):
    module = scheduling_unipc_multistep
    scheduler = module.UniPCMultistepScheduler(
        **BETAS, solver_order=2, solver_type="bh2", final_sigmas_type="zero", timestep_spacing="trailing"
    )
    scheduler.set_timesteps(STEPS)
    expected, start = twin(module, scheduler, True, monkeypatch, [], scheduler.sigmas)
    assert relative(ours("unipc", scheduler.sigmas, start), expected) < 2e-5


def test_lcm_equals_lcm_but_for_the_boundary_scalings(monkeypatch):
    module = scheduling_lcm
    scheduler = module.LCMScheduler(**BETAS, clip_sample=False, timestep_scaling=1e4)
    scheduler.set_timesteps(4)
    sigmas = trained_sigmas(scheduler.timesteps)
    expected, start = twin(module, scheduler, True, monkeypatch, draws(), sigmas)
    assert relative(ours("lcm", sigmas, start, draws()), expected) < 1e-4


@pytest.mark.parametrize("name", ALL)
def test_every_sampler_ends_at_the_estimate_after_one_step(name):
    x = draws(1)[0] * 10
    sigmas = torch.tensor([10.0, 0.0])
    assert torch.allclose(ours(name, sigmas, x, draws()), toy(x, torch.tensor(10.0, dtype=torch.float64)))


@pytest.mark.parametrize("name", ALL)
def test_every_sampler_yields_each_step_once(name):
    sigmas = sigma_schedule("karras", NoiseSchedule.linear(), 7)
    queue = iter(draws())
    steps = list(sampler(name)(toy, draws(1)[0], sigmas.double(), lambda: next(queue)))
    assert [step.index for step in steps] == list(range(7))


def gaussian(x, sigma):
    """The exact denoiser of data drawn from N(0.5, 0.2^2)."""
    return 0.5 + (x - 0.5) * 0.04 / (0.04 + sigma**2)


@pytest.mark.parametrize("name", [name for name in ALL if name != "lcm"])  # LCM needs a consistency model
def test_every_sampler_draws_from_the_gaussian_it_is_given(name):
    generator = torch.Generator().manual_seed(0)

    def noise():
        return torch.randn(20_000, 1, generator=generator, dtype=torch.float64)

    sigmas = sigma_schedule("karras", NoiseSchedule.scaled_linear(), 200).double()
    start = 0.5 + noise() * (0.04 + sigmas[0] ** 2).sqrt()
    *_, last = sampler(name)(gaussian, start, sigmas, noise)
    assert abs(float(last.x.mean()) - 0.5) < 0.01
    assert abs(float(last.x.std()) - 0.2) < 0.015


@pytest.mark.parametrize("name", ["heun", "lms", "dpmpp_2m", "unipc"])
def test_higher_order_samplers_err_less_than_euler(name):
    sigmas = sigma_schedule("karras", NoiseSchedule.scaled_linear(), 12).double()
    x = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None] * sigmas[0]
    exact = 0.5 + (x - 0.5) * (0.04 / (0.04 + sigmas[0] ** 2)).sqrt()

    def error(chosen):
        *_, last = sampler(chosen)(gaussian, x, sigmas, lambda: x)
        return float((last.x - exact).abs().max())

    assert error(name) < error("euler") / 2


def test_an_unknown_sampler_gets_a_hint():
    with pytest.raises(ValueError, match="Did you mean euler"):
        sampler("eulr")
