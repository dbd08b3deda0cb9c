"The oracle beside the rest of the package: total laws, measurements of other parts, and RePaint's own code against the algebra."
import pytest, torch
from hypothesis import given, settings, strategies as st
from tfinpaint.diffusion.oracle import GaussianMixturePrior, GaussianPrior, propagate, sliced_wasserstein, wasserstein2
from tfinpaint.diffusion.schedule import linear_schedule, respaced
from tfinpaint.inpainting.problem import Inpainting
from tfinpaint.inpainting.repaint import repaint, repaint_times
from tfinpaint.timefreq.stft import STFT

def gen(seed=0): return torch.Generator().manual_seed(seed)
def randn(*shape, seed=0): return torch.randn(*shape, generator=gen(seed), dtype=torch.float64)

def gaussian(n, seed):
    B = randn(n, n+2, seed=seed)
    return GaussianPrior(randn(n, seed=seed+1), B @ B.T/n + .05*torch.eye(n, dtype=torch.float64))

@settings(max_examples=40, deadline=None)
@given(st.integers(1, 7), st.integers(1, 7), st.integers(0, 10**6), st.sampled_from([0., .3]))
def test_the_law_of_total_expectation_and_variance(n, m, seed, noise_var):
    "Averaged over what may be measured, the conditional law is the prior: mean and covariance, exactly."
    prior, A = gaussian(n, seed), randn(m, n, seed=seed+2)
    if m > n and noise_var == 0: A = A[:n]
    at = lambda y: prior.conditional(A, y, noise_var)
    middle, seen = A @ prior.mean, A @ prior.cov @ A.T + noise_var*torch.eye(len(A), dtype=torch.float64)
    K = torch.stack([at(middle + e).mean - at(middle).mean for e in torch.eye(len(A), dtype=torch.float64)], 1) # the mean is affine in y
    assert torch.allclose(at(middle).mean, prior.mean, atol=1e-7)
    assert torch.allclose(at(middle).cov + K @ seen @ K.T, prior.cov, atol=1e-6*prior.cov.abs().max())

@settings(max_examples=25, deadline=None)
@given(st.integers(2, 6), st.integers(0, 10**6))
def test_bayes_rule_for_mixtures(n, seed):
    "On the signals that measure y, prior density over conditional density is one number, the evidence."
    parts = [gaussian(n, seed+10*k) for k in range(3)]
    prior = GaussianMixturePrior([.2, .5, .3], torch.stack([p.mean for p in parts]), torch.stack([p.cov for p in parts]))
    A, noise_var = randn(1, n, seed=seed+3), .2
    x, y = prior.sample(6, gen(seed)), torch.tensor([.4], dtype=torch.float64)
    law = prior.conditional(A, y, noise_var)
    likelihood = -.5*((y - x @ A.T).square().sum(1)/noise_var)
    gap = prior.log_prob(x) + likelihood - law.log_prob(x)
    assert (gap - gap[0]).abs().max() < 1e-6*max(1, likelihood.abs().max().item())

def test_the_mixture_of_25_and_one_exact_measurement():
    "The mixture of the MCGdiff paper: means 8 (i, j), unit covariance. Draws of the conditional law measure y; its weights are those of a direct computation."
    means = torch.tensor([[8.*i, 8.*j]*2 for i in range(-2, 3) for j in range(-2, 3)], dtype=torch.float64) # n = 4
    w = torch.rand(25, generator=gen(1), dtype=torch.float64) + .1
    prior, A = GaussianMixturePrior(w, means, 1.), randn(1, 4, seed=2)
    y = A @ prior.sample(1, gen(3))[0]
    law = prior.conditional(A, y)
    assert (law.sample(200, gen(4)) @ A.T - y).abs().max() < 1e-6
    log = w.log() - (y - means @ A[0]).square()/(2*A.square().sum())
    assert torch.allclose(law.weights, log.softmax(0), atol=1e-10)

def test_measurements_of_the_package_are_understood():
    prior, x = gaussian(12, 5), randn(1, 12, seed=6)
    mask = torch.arange(12) % 3 != 0
    for A, y in ((Inpainting(mask).A, Inpainting(mask).A(x)[0]), (torch.eye(12, dtype=torch.float64)[mask], x[0, mask])):
        law = prior.conditional(A, y)
        assert torch.allclose(law.mean[mask], x[0, mask], atol=1e-8) and law.cov[mask].abs().max() < 1e-8
    stft = STFT(8, 2)
    full = prior.conditional(stft.analysis, stft.analysis(x)[0])      # all coefficients: nothing is left open
    assert torch.allclose(full.mean, x[0], atol=1e-6) and full.cov.abs().max() < 1e-6
    with pytest.raises(ValueError, match='no signal has'): prior.conditional(stft.analysis, stft.analysis(x)[0] + 1j)

@pytest.mark.parametrize('variance', ['optimal', 'posterior', 'beta'])
def test_repaint_obeys_the_algebra(variance):
    "The code that runs on networks, on 20,000 signals of three numbers: mean and covariance within 4.5 standard errors."
    prior, s, N = gaussian(3, 8), respaced(linear_schedule(), 12), 20_000
    y, keep = torch.tensor([.7, 0., -.2], dtype=torch.float64).expand(N, 3), torch.tensor([True, False, True])
    x = repaint(prior.denoiser(s, variance), Inpainting(keep), Inpainting(keep).A(y), s, jump_length=3, jump_n_sample=3, generator=gen(9))
    A = torch.eye(3, dtype=torch.float64)[keep]
    law = propagate(prior, s, [t+1 for t in repaint_times(12, 3, 3)], A=A, y=y[0, keep], variance=variance)
    m, v = law.mean[1], law.cov[1, 1]
    assert abs(x[:, 1].mean() - m) < 4.5*(v/N)**.5 and abs(x[:, 1].var()/v - 1) < 4.5*(2/N)**.5
    assert torch.allclose(law.mean[keep], y[0, keep]) and law.cov[keep].abs().max() < 1e-12
    exact = prior.conditional(A, y[0, keep])
    assert wasserstein2(law.marginal([1]), exact.marginal([1])) > .01  # RePaint is not exact, and the algebra sees it

def test_sliced_distance_of_two_exact_sets_is_small_and_of_two_laws_is_not():
    prior = GaussianMixturePrior([1, 1], [[-3., 0.], [3., 0.]], 1.)
    a, b = prior.sample(4000, gen(1)), prior.sample(4000, gen(2))
    floor = sliced_wasserstein(a, b, 100, gen(3))
    assert floor < .2 and sliced_wasserstein(a, GaussianPrior(prior.mean, prior.cov).sample(4000, gen(4)), 100, gen(3)) > 2*floor
