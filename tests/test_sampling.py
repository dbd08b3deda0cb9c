"""Samplers against the schedulers of diffusers: the same network, noise and timesteps.

Only the algorithms are compared: diffusers gets the tables of our schedules. What differs by convention, and how it is met:
- diffusers counts steps from 0: its timestep is ours minus 1. Its DDIM knows a stride only, so that choice of steps is used with it.
- Its Heun works on x/sqrt(alpha_bar), and is given that. Its timesteps come twice, one for each call.
- Its DPM-Solver++(2M) makes the last step, which goes to sigma 0, of first order (`final_sigmas_type='zero'`, its default), and so does ours.
  Then its option `lower_order_final` changes nothing; both values are tried.
- Its `use_karras_sigmas` asks the network at interpolated levels; ours at the nearest training level (Heun), whose sigmas agree to a few percent.
"""
import numpy as np
import pytest, torch
from tfinpaint.diffusion.ddpm import NetDenoiser
from tfinpaint.diffusion.sampling import SAMPLERS, ancestral, calls, ddim, dpmpp_2m, heun, karras_levels, keep_levels
from tfinpaint.diffusion.schedule import cosine_schedule, linear_schedule, respaced

diffusers = pytest.importorskip('diffusers')
pytestmark = pytest.mark.filterwarnings('ignore:__array__') # its use of numpy
BASE = {'linear': linear_schedule(), 'cosine': cosine_schedule()}
PREDICTS = {'eps': 'epsilon', 'v': 'v_prediction'}
both = lambda f: pytest.mark.parametrize('predicts', PREDICTS)(pytest.mark.parametrize('name', BASE)(f))

def gen(seed=0): return torch.Generator().manual_seed(seed)
def x_T(): return torch.randn(2, 3, 8, generator=gen(1), dtype=torch.float64)
def net(x, t): return torch.sin(1.7*x + .003*t.reshape(-1, 1, 1)) + .4*torch.tanh(x.flip(-1)) # a fixed function that mixes values and sees the time

def theirs(kind, name, predicts, **kw):
    s = kind(trained_betas=BASE[name].beta[1:].numpy(), prediction_type=PREDICTS[predicts], **kw)
    s.alphas_cumprod = BASE[name].alpha_bar[1:].clone() # in double precision
    s.alphas, s.betas = BASE[name].alpha[1:].clone(), BASE[name].beta[1:].clone()
    if hasattr(s, 'final_alpha_cumprod'): s.final_alpha_cumprod = torch.tensor(1., dtype=torch.float64)
    return s

def run(scheduler, x, **kw):
    "Their loop, as in the pipelines."
    n = 0
    for t in scheduler.timesteps:
        out = net(scheduler.scale_model_input(x, t), torch.as_tensor(t).expand(len(x)) + 1); n += 1
        x = scheduler.step(out, t, x, **kw).prev_sample
    return x, n

def down(schedule): return (schedule.timesteps[1:].flip(0) - 1).tolist()
def same(ours, other, tol=1e-5): assert (ours-other).abs().max() <= tol*max(1, other.abs().max()), (ours-other).abs().max()

@both
@pytest.mark.parametrize('variance', ['posterior', 'beta'])
@pytest.mark.parametrize('n_steps', [10, 50])
def test_ancestral_equals_ddpm(name, predicts, variance, n_steps):
    s = respaced(BASE[name], n_steps)
    them = theirs(diffusers.DDPMScheduler, name, predicts, clip_sample=False, variance_type={'posterior': 'fixed_small', 'beta': 'fixed_large'}[variance])
    them.set_timesteps(timesteps=down(s))
    same(ancestral(s, NetDenoiser(net, s, predicts, variance), x_T(), generator=gen(2)), run(them, x_T(), generator=gen(2))[0])

@both
@pytest.mark.parametrize('eta', [0., .5, 1.])
@pytest.mark.parametrize('n_steps', [10, 50])
def test_ddim_equals_ddim(name, predicts, eta, n_steps):
    them = theirs(diffusers.DDIMScheduler, name, predicts, clip_sample=False, timestep_spacing='leading')
    them.set_timesteps(n_steps)
    s = keep_levels(BASE[name], (them.timesteps+1).flip(0))
    assert s.timesteps[1:].tolist() == [1 + i*1000//n_steps for i in range(n_steps)]
    same(ddim(s, NetDenoiser(net, s, predicts), x_T(), generator=gen(2), eta=eta), run(them, x_T(), generator=gen(2), eta=eta)[0])

@both
@pytest.mark.parametrize('levels', ['even', 'karras'])
def test_heun_equals_heun(name, predicts, levels):
    s = respaced(BASE[name], 20) if levels == 'even' else karras_levels(BASE[name], 20, sigma_max=80.)
    if (name, levels) == ('cosine', 'even'): s = keep_levels(BASE[name], s.timesteps[1:-1]) # its last sigma is 20000: single precision is not enough there
    them = theirs(diffusers.HeunDiscreteScheduler, name, predicts)
    them.set_timesteps(timesteps=down(s))
    x, n = run(them, x_T()/s.alpha_bar[-1]**.5)
    same(heun(s, NetDenoiser(net, s, predicts), x_T()), x)
    assert n == calls('heun', s.n_steps)

@both
@pytest.mark.parametrize('levels', ['even', 'karras'])
@pytest.mark.parametrize('n_steps, lower_order_final', [(5, True), (5, False), (20, True)])
def test_dpmpp_equals_dpm_solver(name, predicts, levels, n_steps, lower_order_final):
    s = respaced(BASE[name], n_steps) if levels == 'even' else karras_levels(BASE[name], n_steps, sigma_max=80.) # single precision at sigma = 20000 is not enough
    kw = dict(algorithm_type='dpmsolver++', solver_order=2, solver_type='midpoint', final_sigmas_type='zero')
    ours = dpmpp_2m(s, NetDenoiser(net, s, predicts), x_T())
    them = theirs(diffusers.DPMSolverMultistepScheduler, name, predicts, lower_order_final=lower_order_final, **kw)
    them.set_timesteps(timesteps=down(s))
    same(ours, run(them, x_T())[0])

def test_karras_sigmas_are_near_theirs():
    them = diffusers.HeunDiscreteScheduler(1000, beta_start=1e-4, beta_end=.02, use_karras_sigmas=True)
    them.set_timesteps(20)
    a = karras_levels(BASE['linear'], 20).alpha_bar[1:].flip(0)
    ratio = ((1-a)/a).sqrt()/torch.cat([them.sigmas[:1], them.sigmas[1:-1:2]])[:20].double()
    assert (ratio.log().abs() < .15).all() and abs(ratio[0]-1) < 1e-3 and abs(ratio[-1]-1) < 1e-3

@pytest.mark.parametrize('name', SAMPLERS)
@pytest.mark.parametrize('n_steps', [1, 2, 9])
def test_calls_are_counted_right(name, n_steps):
    s, seen = respaced(BASE['linear'], n_steps), []
    SAMPLERS[name].run(s, NetDenoiser(lambda x, t: seen.append(t[0].item()) or net(x, t), s), x_T(), generator=gen())
    assert len(seen) == calls(name, n_steps) and set(seen) == set(s.timesteps[1:].tolist())
