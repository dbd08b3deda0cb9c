"Properties of RePaint and of measurements that span modules, and the bugs of public versions, each caught by a test."
import math
from itertools import pairwise
import pytest, torch
from hypothesis import given, settings, strategies as st
from tfinpaint.diffusion.ddpm import NetDenoiser, Prediction, posterior
from tfinpaint.diffusion.oracle import GaussianPrior, propagate
from tfinpaint.diffusion.schedule import linear_schedule, respaced
from tfinpaint.inpainting.problem import Inpainting, Measurement
from tfinpaint.inpainting.repaint import repaint, repaint_times

SCHEDULE = respaced(linear_schedule(1000), 12)
gen = lambda seed=0: torch.Generator().manual_seed(seed)

class White:
    "The ideal denoiser of independent unit Gaussians: E[x0 | x_t] = sqrt(alpha_bar) x_t. It remembers what it was asked."
    def __init__(self, schedule=SCHEDULE): self.schedule, self.asked = schedule, []
    def __call__(self, x, t):
        self.asked.append((t, x.clone()))
        a = self.schedule.alpha_bar[t].to(x.dtype)
        x0 = a.sqrt()*x
        var = posterior(self.schedule, x0, x, t)[1] + (posterior(self.schedule, torch.ones_like(x), 0*x, t)[0])**2*(1-a)
        return Prediction(x0, (1-a).sqrt()*x, var)

shapes = st.lists(st.integers(1, 5), min_size=1, max_size=4)

@settings(max_examples=40, deadline=None)
@given(shapes, st.integers(0, 10**6), st.floats(.1, .9), st.sampled_from([torch.float32, torch.float64]), st.booleans(), st.integers(1, 3), st.integers(1, 5))
def test_known_values_come_back_bit_for_bit(shape, seed, share, dtype, lead, r, j):
    shape = (2, *shape)
    mask = torch.rand(shape if lead else shape[1:], generator=gen(seed)) < share
    mask.view(-1)[0] = True
    if mask.all(): mask.view(-1)[-1] = False
    if not mask.any(): return # a mask of one value
    M, y = Inpainting(mask), torch.randn(shape, generator=gen(seed+1), dtype=dtype)*3
    x = repaint(White(), M, M.A(y), SCHEDULE, jump_length=j, jump_n_sample=r, generator=gen(seed+2))
    known = mask.expand(shape)
    assert x.dtype == dtype and x.shape == shape and torch.isfinite(x).all()
    assert torch.equal(x[known], y[known])
    assert not (x[~known] == 0).any() # the hole was filled

@settings(max_examples=60, deadline=None)
@given(shapes, st.integers(0, 10**6), st.floats(.05, .95))
def test_inpainting_is_a_measurement(shape, seed, share):
    mask = torch.rand(shape, generator=gen(seed)) < share
    if mask.all() or not mask.any(): return
    M, (x, z, y) = Inpainting(mask), torch.randn(3, 2, *shape, generator=gen(seed+1), dtype=torch.float64)
    assert torch.isclose((M.A(x)*y).sum(), (x*M.adjoint(y)).sum(), atol=1e-10)
    p = M.project(x, M.A(y))
    assert torch.equal(M.A(p), M.A(y)) and torch.equal(M.project(p, M.A(y)), p)
    assert torch.allclose(p, Measurement.project(M, x, M.A(y)), atol=1e-14) # the general formula, with rounding

@settings(max_examples=60, deadline=None)
@given(st.integers(1, 300), st.integers(1, 40), st.integers(1, 12))
def test_the_walk(T, j, r):
    if r > 1 and j >= T:
        with pytest.raises(ValueError, match='fits into'): repaint_times(T, j, r)
        return
    t = repaint_times(T, j, r)
    down, up = sum(b < a for a, b in pairwise(t)), sum(b > a for a, b in pairwise(t))
    feet = len(range(0, T-j, j)) if r > 1 else 0
    assert t[0] == T-1 and t[-1] == -1 and min(t[:-1]) == 0 and max(t) == T-1
    assert all(abs(a-b) == 1 for a, b in pairwise(t)) and (down, up) == (T + feet*j*(r-1), feet*j*(r-1))

def test_the_published_walk():
    t = repaint_times(250, 10, 10)
    assert t[:33] == [*range(249, 229, -1), *range(231, 241), 239, 238, 237]
    down = [b < a for a, b in pairwise(t)]
    assert (sum(down), len(down)-sum(down), len(down)) == (2410, 2160, 4570)

def test_the_network_is_asked_in_the_published_order():
    d = White()
    y = torch.randn(3, 4, generator=gen())
    repaint(d, Inpainting(torch.arange(4) < 2), y, SCHEDULE, jump_length=3, jump_n_sample=2, generator=gen())
    times = repaint_times(12, 3, 2)
    assert [t for t, _ in d.asked] == [a+1 for a, b in pairwise(times) if b < a] # index t of the paper's code is level t+1

def known_moments(measurement, runs=30_000, jumps=dict(jump_length=4, jump_n_sample=2)):
    "What the denoiser sees of the known part, per level: mean and variance over many runs, and the law of the forward process."
    d, y = White(), torch.full((runs, 2), 1.5, dtype=torch.float64)
    repaint(d, measurement, y, SCHEDULE, generator=gen(5), **jumps)
    for t, x in d.asked[1:]: # the first call sees pure noise
        a = SCHEDULE.alpha_bar[t].item()
        yield t, x[:, 0].mean().item(), x[:, 0].var().item(), a**.5*1.5, 1-a, runs

def obeys_the_forward_process(measurement):
    return all(abs(m-m0) < 5*(v0/n)**.5 and abs(v-v0) < 5*v0*(2/n)**.5 for _, m, v, m0, v0, n in known_moments(measurement))

FIRST = torch.tensor([True, False])

def test_marginal_law_of_the_known_part():
    assert obeys_the_forward_process(Inpainting(FIRST))

def test_the_misprinted_deviation_is_caught():
    class Misprint(Inpainting): # 1 - alpha_bar instead of its square root: the paper's algorithm box, and one version of diffusers
        one_noise = False
        def noise(self, schedule, y, t, generator=None):
            a = schedule.alpha_bar[t]
            return a.sqrt()*y + (1-a)*torch.randn(y.shape, generator=generator, dtype=y.dtype)
    assert not obeys_the_forward_process(Misprint(FIRST))

def test_a_known_part_at_the_wrong_level_is_caught():
    class Late(Inpainting): # the level of the step before, as in early versions of diffusers
        one_noise = False
        def noise(self, schedule, y, t, generator=None): return super().noise(schedule, y, min(t+1, schedule.n_steps), generator)
    assert not obeys_the_forward_process(Late(FIRST))

def test_old_noise_in_the_known_part_is_caught():
    "With one noise for all pastes the marginals are right, but two visits of one level see the same known part."
    class Frozen(Inpainting):
        one_noise = False
        def noise(self, schedule, y, t, generator=None): return super().noise(schedule, y, t, gen(1))
    def correlation(M):
        d = White(); repaint(d, M, torch.zeros(4000, 2, dtype=torch.float64), SCHEDULE, jump_length=4, jump_n_sample=3, generator=gen(6))
        a, b = [x[:, 0] for t, x in d.asked if t == 2][:2] # two visits, each pasted just before
        return torch.corrcoef(torch.stack([a, b]))[0, 1].item()
    assert abs(correlation(Inpainting(FIRST))) < 5/math.sqrt(4000) and correlation(Frozen(FIRST)) > .9

def test_a_missing_last_paste_is_caught():
    "Pasting before the network call, as the authors' program does, leaves the model's own values where all is known."
    y, M, x = torch.tensor([[1.5, 0.]]), Inpainting(FIRST), torch.randn(1, 2, generator=gen())
    for t in range(12, 0, -1):
        pred = White()(M.project(x, M.noise(SCHEDULE, y, t, gen(t))), t)
        x = posterior(SCHEDULE, pred.x0, x, t)[0]
    assert x[0, 0] != 1.5
    assert repaint(White(), M, y, SCHEDULE, jump_n_sample=1, generator=gen())[0, 0] == 1.5

def test_with_white_signals_the_hole_has_the_prior():
    x = repaint(White(), Inpainting(FIRST), torch.tensor([[1.5, 0.]], dtype=torch.float64).expand(30_000, 2), SCHEDULE, jump_length=4, jump_n_sample=2, generator=gen(7))
    assert abs(x[:, 1].mean()) < 5/math.sqrt(30_000)
    # the last step returns a mean, without its variance
    a = SCHEDULE.alpha_bar[1].item()
    assert x[:, 1].var().item() == pytest.approx(a, abs=5*math.sqrt(2/30_000))

def test_examples_of_a_batch_do_not_touch_each_other():
    M, y = Inpainting(torch.arange(6) < 4), torch.randn(3, 6, generator=gen())
    other = y.clone(); other[1:] += 5
    run = lambda y: repaint(White(), M, M.A(y), SCHEDULE, jump_length=4, jump_n_sample=2, generator=gen(1))
    assert torch.equal(run(y)[0], run(other)[0]) and not torch.equal(run(y)[1], run(other)[1])

def test_masks_may_differ_within_a_batch():
    mask = torch.tensor([[True, True, False], [False, True, True]])
    y = torch.randn(2, 3, generator=gen())
    x = repaint(White(), Inpainting(mask), Inpainting(mask).A(y), SCHEDULE, jump_n_sample=1, generator=gen())
    assert torch.equal(x == y, mask)

def test_one_seed_one_answer_and_no_global_state():
    M, y = Inpainting(torch.arange(6) < 4), torch.randn(3, 6, generator=gen())
    run = lambda seed: repaint(White(), M, M.A(y), SCHEDULE, jump_length=4, jump_n_sample=2, generator=gen(seed))
    torch.manual_seed(1); before = torch.get_rng_state(); a = run(3)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(a, run(3)) and not torch.equal(a, run(4))

def test_nothing_that_was_given_is_changed():
    mask, y, guess = torch.arange(6) < 4, torch.randn(3, 6, generator=gen()), torch.randn(3, 6, generator=gen(1))
    copies = mask.clone(), y.clone(), guess.clone()
    repaint(White(), Inpainting(mask), y, SCHEDULE, jump_n_sample=1, generator=gen(), x_start=guess, t_start=5)
    assert all(map(torch.equal, (mask, y, guess), copies))

def test_a_warm_start_begins_at_its_level():
    d, M, n = White(), Inpainting(FIRST), 20_000
    y, guess = torch.tensor([[1.5, 0.]], dtype=torch.float64).expand(n, 2), torch.full((n, 2), -2., dtype=torch.float64)
    repaint(d, M, y, SCHEDULE, jump_n_sample=1, generator=gen(), x_start=guess, t_start=6)
    t, x = d.asked[0]
    a = SCHEDULE.alpha_bar[6].item()
    assert [t for t, _ in d.asked] == [6, 5, 4, 3, 2, 1]
    want = torch.tensor([1.5, -2.], dtype=torch.float64)*a**.5 # the known part is y, whatever the guess says
    assert torch.allclose(x.mean(0), want, atol=5*((1-a)/n)**.5) and torch.allclose(x.var(0), torch.tensor(1-a, dtype=torch.float64), atol=5*(1-a)*(2/n)**.5)

def test_learned_and_fixed_variance_reach_the_sampler():
    "The spread of one reverse step is the variance that the network states."
    schedule = respaced(linear_schedule(1000), 2)
    net = lambda x, t: torch.cat([torch.zeros_like(x), torch.full_like(x, frac)], 1) # x0 = 0; variance between beta-tilde and beta
    spread = {}
    for frac in (-1., 1.):
        den = NetDenoiser(net, schedule, 'x0', 'learned')
        seen = []
        def spy(x, t): p = den(x, t); seen.append((t, x, p)); return p
        repaint(spy, Inpainting(FIRST[:, None].expand(2, 8)), torch.zeros(4000, 2, 8), schedule, jump_n_sample=1, generator=gen(2))
        (t, x2, p), (_, x1, _) = seen
        noise = (x1 - posterior(schedule, p.x0, x2, t)[0])[:, 1]
        spread[frac] = noise.var().item()
        tilde, beta = posterior(schedule, p.x0, x2, 2)[1].item(), schedule.beta[2].item()
        assert spread[frac] == pytest.approx(beta if frac == 1 else tilde, rel=.05)

def test_ctrl_c_passes_through():
    def stop(x, t): raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt): repaint(stop, Inpainting(FIRST), torch.zeros(1, 2), SCHEDULE, jump_n_sample=1)

def test_the_progress_bar_counts_calls(capsys):
    repaint(White(), Inpainting(FIRST), torch.zeros(1, 2), SCHEDULE, jump_length=4, jump_n_sample=3, generator=gen(), progress=True)
    n = sum(b < a for a, b in pairwise(repaint_times(12, 4, 3)))
    assert f'{n}/{n}' in capsys.readouterr().err

@pytest.mark.parametrize('wrong, error, word', [
    (dict(y=torch.full((2, 2), math.inf)), ValueError, 'infinity'), (dict(y=torch.zeros(2, 3)), ValueError, 'does not fit'),
    (dict(y=torch.zeros(2, 2, dtype=torch.int64)), TypeError, 'y.float'), (dict(y=torch.zeros(2, 2, dtype=torch.complex64)), TypeError, 'real'),
    (dict(jump_length=12, jump_n_sample=2), ValueError, 'fits into'), (dict(jump_length=0), ValueError, 'jump_length must be at least 1'),
    (dict(jump_n_sample=1.5), TypeError, 'jump_n_sample must be an integer'), (dict(t_start=3), ValueError, 'needs x_start'),
    (dict(x_start=torch.zeros(2, 2), t_start=13), ValueError, r'1\.\.12, got 13'), (dict(x_start=torch.zeros(1, 2), t_start=3), ValueError, 'x_start has shape')])
def test_bad_input_is_one_sentence(wrong, error, word):
    asked = []
    kwargs = dict(y=torch.zeros(2, 2), jump_length=4, jump_n_sample=2) | wrong
    with pytest.raises(error, match=word) as e: repaint(lambda x, t: asked.append(t), Inpainting(FIRST), schedule=SCHEDULE, **kwargs)
    assert not asked and '\n' not in str(e.value)

@pytest.mark.parametrize('mask, word', [
    (torch.tensor([1., .5]), 'found 0.5; threshold it'), (torch.tensor([255, 0], dtype=torch.uint8), 'found 255'), (torch.tensor([0., float('nan')]), 'found nan'),
    (torch.ones(2), 'nothing is missing'), (torch.zeros(2), 'nothing is known'), (torch.tensor([[True, False, True]]), 'does not fit')])
def test_a_bad_mask_is_one_sentence(mask, word):
    asked = []
    with pytest.raises(ValueError, match=word) as e:
        repaint(lambda x, t: asked.append(t), Inpainting(mask), torch.zeros(2, 2), SCHEDULE, jump_length=4, jump_n_sample=2)
    assert not asked and '\n' not in str(e.value)

def test_bytes_as_a_mask_and_as_a_signal():
    "A 0/1 mask of bytes is the mask of bools; a signal of bytes is refused."
    y, run = torch.randn(2, 2, generator=gen()), lambda mask, y: repaint(White(), Inpainting(mask), y, SCHEDULE, jump_length=4, jump_n_sample=2, generator=gen(1))
    assert torch.equal(run(FIRST, y), run(FIRST.to(torch.uint8), y))
    with pytest.raises(TypeError, match='y.float'): run(FIRST, torch.zeros(2, 2, dtype=torch.uint8))

@pytest.mark.parametrize('j', [12, 13, 500])
def test_a_jump_that_does_not_fit_names_both_numbers(j):
    with pytest.raises(ValueError, match=f'jump_length={j} fits into n_steps=12'): repaint_times(12, j, 2)
    assert repaint_times(12, j, 1) == [*range(11, -2, -1)] # without jumps their length does not matter
    assert len(repaint_times(12, 11, 2)) > 13              # the longest that fits

CORRELATED = GaussianPrior(torch.zeros(2), torch.tensor([[1, .9], [.9, 1]]).double())
FORTY = respaced(linear_schedule(1000), 40)

def exact(levels, **kwargs):
    return propagate(CORRELATED, FORTY, levels, A=torch.tensor([[1., 0.]]), y=torch.tensor([1.5]), **kwargs)

def has_the_law(denoiser, levels_law, runs=4000, measurement=None, **jumps):
    "Mean and variance of the missing number within four standard errors of the exact law."
    y = torch.tensor([[1.5, 0.]], dtype=torch.float64).expand(runs, 2)
    x, law = repaint(denoiser, measurement or Inpainting(FIRST), y, FORTY, generator=gen(8), **jumps)[:, 1], exact(levels_law)
    m, v = law.mean[1], law.cov[1, 1]
    return bool((x.mean()-m).abs() < 4*(v/runs).sqrt() and (x.var()-v).abs() < 4*v*(2/runs)**.5)

def test_the_answers_have_the_exact_law_and_resampling_after_the_loop_has_not():
    levels = [t+1 for t in repaint_times(40, 5, 4)]
    assert has_the_law(CORRELATED.denoiser(FORTY), levels, jump_length=5, jump_n_sample=4)
    assert not has_the_law(CORRELATED.denoiser(FORTY), levels, jump_n_sample=1) # replacement
    down = [*range(40, -1, -1)]
    after = exact(down + 3*[1, 0])                          # the loops one after the other: replacement again, in law
    assert torch.allclose(after.mean, exact(down).mean, atol=.01) and not torch.allclose(after.mean, exact(levels).mean, atol=.1)

def test_a_known_part_that_never_arrives_is_caught():
    class Forgotten(Inpainting):
        def project(self, x, y): return x
    levels = [t+1 for t in repaint_times(40, 5, 4)]
    assert not has_the_law(CORRELATED.denoiser(FORTY), levels, measurement=Forgotten(FIRST), jump_length=5, jump_n_sample=4)

def test_a_walk_without_noise_is_caught():
    "DDIM with eta = 0, the default of a public scheduler, has another law: that which `propagate` states for it."
    den, a = CORRELATED.denoiser(FORTY), FORTY.alpha_bar
    def eta_zero(x, t): # the x0 with which the ancestral mean is the step of DDIM
        p = den(x, t)
        one, zero = torch.ones(1, dtype=x.dtype), torch.zeros(1, dtype=x.dtype)
        c0, ct = posterior(FORTY, one, zero, t)[0], posterior(FORTY, zero, one, t)[0]
        return p._replace(x0=(a[t-1].sqrt()*p.x0 + (1-a[t-1]).sqrt()*p.eps - ct*x)/c0, var=0*one)
    levels, y = [t+1 for t in repaint_times(40, 5, 4)], torch.tensor([[1.5, 0.]], dtype=torch.float64).expand(4000, 2)
    jumps = dict(jump_length=5, jump_n_sample=4)
    assert has_the_law(den, levels, **jumps) and not has_the_law(eta_zero, levels, **jumps)
    x, law = repaint(eta_zero, Inpainting(FIRST), y, FORTY, generator=gen(8), **jumps)[:, 1], exact(levels, eta=0.)
    m, v = law.mean[1], law.cov[1, 1]
    assert (x.mean()-m).abs() < 4*(v/4000).sqrt() and (x.var()-v).abs() < 4*v*(2/4000)**.5

def noises_of_a_step(measurement, runs=4000):
    "Correlation of the noise of the reverse step and that of the known part, at a place where both are drawn."
    seen, project = [], measurement.project
    measurement.project = lambda x, y: (seen.append((x[:, 1], y[:, 1])), project(x, y))[1]
    d = White()
    def den(x, t): measurement.state = GEN.get_state(); return d(x, t)
    GEN = gen(9)
    repaint(den, measurement, torch.zeros(runs, 2, dtype=torch.float64), SCHEDULE, jump_n_sample=1, generator=GEN)
    return torch.corrcoef(torch.stack(seen[5]))[0, 1].item()

def test_one_draw_for_two_noises_is_caught():
    class TwoDraws(Inpainting): one_noise = False # what a measurement gets that does not say it needs one only
    class OneDraw(TwoDraws): # harmless under a mask, where each place uses one of the two; not under a soft mask
        def noise(self, schedule, y, t, generator=None): generator.set_state(self.state); return super().noise(schedule, y, t, generator)
    assert abs(noises_of_a_step(TwoDraws(FIRST))) < 5/math.sqrt(4000) and noises_of_a_step(OneDraw(FIRST)) > .3
    assert noises_of_a_step(Inpainting(FIRST)) > .3 and not Measurement.one_noise

def test_under_a_mask_one_draw_is_enough():
    "The known part has the noise of its places, the hole that of its own: they stay independent."
    M = Inpainting(FIRST)
    d = White(); repaint(d, M, torch.zeros(4000, 2, dtype=torch.float64), SCHEDULE, jump_length=4, jump_n_sample=3, generator=gen(6))
    for t, x in d.asked[1:]: assert abs(torch.corrcoef(x.T)[0, 1]) < 5/math.sqrt(4000), t

@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device')
def test_a_gpu_draws_the_same_noise():
    M, y = Inpainting(torch.arange(6) < 4), torch.randn(3, 6, generator=gen())
    run = lambda device: repaint(White(), M, M.A(y).to(device), SCHEDULE, jump_length=4, jump_n_sample=2, generator=gen(1))
    out = run('cuda')
    assert out.device.type == 'cuda' and torch.equal(out.cpu()[:, :4], y[:, :4]) and torch.allclose(out.cpu(), run('cpu'), atol=1e-4)
