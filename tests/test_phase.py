"""Phases from slopes and by ADMM: closed forms, what is known stays, and what the iterations share."""
import math
from functools import cached_property
import pytest, torch
from hypothesis import given, settings, strategies as st
from tfinpaint.timefreq.phase import griffin_lim, phase_admm, phase_gradient, pghi
from tfinpaint.timefreq.stft import STFT

quick = settings(max_examples=15, deadline=None, derandomize=True, database=None)
rng = lambda seed: torch.Generator().manual_seed(seed)
frames = st.sampled_from([(64, 16, None), (64, 16, 60), (32, 8, 16), (16, 3, 12), (2, 1, None)])
seeds = st.integers(0, 2**31)

class Gaussian(STFT):
    gamma = .06*256**2
    @cached_property
    def window(self): return torch.exp(-math.pi*(torch.arange(self.win_length, dtype=torch.float64) - self.win_length//2)**2/self.gamma)

@pytest.mark.parametrize('rate', [0., 4e-5, -3e-5, 2e-4])
def test_advance_of_a_linear_chirp(rate):
    "Its log-magnitude and angle are quadratic in a Gaussian frame: central differences and the trapezoidal rule are exact."
    f, t = Gaussian(256, 16), torch.arange(3000, dtype=torch.float64)
    z = f.analysis(torch.cos(2*math.pi*(.24*t + rate/2*(t-1500)**2))[None])[0, 40:85, 75:113] # clear of 0, Nyquist and the ends
    turn_t, turn_f = (g[0, 40:85, 75:113] for g in phase_gradient(f, f.analysis(torch.cos(2*math.pi*(.24*t + rate/2*(t-1500)**2))[None]).abs(), f.gamma))
    loud = z.abs() > 1e-3*z.abs().max()
    for dim, turn, both in ((1, turn_t, loud[:, 1:] & loud[:, :-1]), (0, turn_f, loud[1:] & loud[:-1])):
        n = z.shape[dim] - 1
        a, b = z.narrow(dim, 0, n), z.narrow(dim, 1, n)
        mean = (turn.narrow(dim, 0, n) + turn.narrow(dim, 1, n))/2
        assert both.sum() > 50 and (b*a.conj()*torch.polar(torch.ones_like(mean), -mean)).angle()[both].abs().max() < 5e-3

def test_pghi_finds_the_angles_of_a_chirp():
    "Up to one common angle, which the magnitude does not tell; and that angle too where some cells are known."
    f, t = Gaussian(256, 16), torch.arange(3000, dtype=torch.float64)
    coef = f.analysis(torch.cos(2*math.pi*(.24*t + 2e-5*(t-1500)**2))[None])
    off = lambda z: (z*coef.conj()).sum()/(z.abs()*coef.abs()).sum()
    assert off(pghi(f, coef.abs(), generator=rng(0))).abs() > .95
    m = torch.ones(coef.shape[1:], dtype=torch.bool)
    m[:, 60:120] = False
    hole = pghi(f, coef.abs(), coef, m, generator=rng(0))
    assert off(hole).real > .95

@given(frames, st.integers(1, 300), seeds, st.floats(0, 1), st.sampled_from([torch.float32, torch.float64]))
@quick
def test_pghi_keeps_what_is_known(frame, length, seed, share, dtype):
    f, g = STFT(*frame), rng(seed)
    coef = f.analysis(torch.randn(2, length, generator=g, dtype=dtype))
    m = torch.rand(coef.shape[1:], generator=g) < share
    wanted = coef.abs()*.5
    z = pghi(f, wanted, torch.where(m, coef, complex('nan')), m, generator=rng(seed))
    assert z.shape == coef.shape and z.dtype == coef.dtype and torch.equal(z[:, m], coef[:, m])
    torch.testing.assert_close(z.abs()[:, ~m], wanted[:, ~m], rtol=1e-4, atol=1e-7)
    assert torch.equal(z, pghi(f, wanted, coef, m, generator=rng(seed)))

@given(st.integers(200, 900), st.integers(1, 150), seeds, st.booleans())
@quick
def test_rho_1_is_griffin_lim(length, size, seed, with_mask):
    f, g = STFT(64, 16), rng(seed)
    x, known = torch.randn(2, length, generator=g, dtype=torch.float64), torch.ones(length, dtype=torch.bool)
    known[length//3:length//3+size] = False
    coef = f.analysis(x)
    m = torch.rand(coef.shape[1:], generator=g) < .5
    args = (f, coef.abs()*.7, *((coef, m) if with_mask else (None, None)), length)
    one, other = (fn(*args, n_iter=3, generator=rng(seed), known_wave=x, known_samples=known, **k) for fn, k in ((phase_admm, {'rho': 1.}), (griffin_lim, {'momentum': 0.})))
    torch.testing.assert_close(one, other, rtol=0, atol=1e-6)
    assert torch.equal(one[:, known], x[:, known])
    assert (phase_admm(*args, n_iter=3, generator=rng(seed)) - griffin_lim(*args, n_iter=3, generator=rng(seed))).abs().max() > 1e-3

def test_scattered_phases_come_back():
    "A third of the phases missing, all magnitudes known: ADMM finds the wave, from any start."
    f, g = STFT(32, 8, 16), rng(1)
    x = torch.randn(6, 128, generator=g, dtype=torch.float64)
    coef = f.analysis(x)
    m = torch.rand(coef.shape, generator=g) < 2/3
    for start in (None, pghi(f, coef.abs(), coef, m, generator=rng(2))):
        y = phase_admm(f, coef.abs(), coef, m, 128, n_iter=300, init=start, generator=rng(3))
        assert ((y-x).norm(dim=1)/x.norm(dim=1)).median() < 1e-6
