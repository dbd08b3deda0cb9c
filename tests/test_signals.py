"""Test signals, masks and the STFT: properties that hold for any parameters."""
import math
import numpy as np, pytest, torch
from hypothesis import assume, given, settings, strategies as st
from scipy import signal as sp
from tfinpaint.audio.signals import chirp, chirp_hz, clip, clip_bounds, clicks, mix, noise_burst, pluck, rms_db, tone
from tfinpaint.timefreq.stft import CONVENTIONS, STFT, WINDOWS, convention_factor, dgt, idgt, make_window
from tfinpaint.timefreq.tfmasks import GEOMETRIES, clipping_mask, coverage, frame_mask, lose_lowest

quick = settings(max_examples=25, deadline=None, derandomize=True, database=None)
rng = lambda seed: torch.Generator().manual_seed(seed)
seeds = st.integers(0, 2**31)

# ---- masks
LINES = {'columns': lambda F, N: F, 'comb': lambda F, N: F, 'rows': lambda F, N: N}

@pytest.mark.parametrize('name', GEOMETRIES)
@given(st.integers(2, 60), st.integers(2, 60), st.floats(.01, .9), seeds)
@settings(quick, max_examples=15)
def test_every_geometry_meets_its_coverage(name, n_bins, n_frames, target, seed):
    m, cells = GEOMETRIES[name](n_bins, n_frames, target, generator=rng(seed)), n_bins*n_frames
    assert m.shape == (n_bins, n_frames) and m.dtype == torch.bool and m.any() and not m.all()
    missing = int((~m).sum())
    if name == 'box': assert abs(missing - target*cells) <= max(n_bins, n_frames)
    elif name in LINES: # whole lines: the nearest number of them, at least one and not all
        line = LINES[name](n_bins, n_frames); lines = cells//line
        assert missing == line*min(max(round(target*lines), 1), lines-1)
    else: assert missing == min(max(round(target*cells), 1), cells-1)
    assert torch.equal(m, GEOMETRIES[name](n_bins, n_frames, target, generator=rng(seed)))

@pytest.mark.parametrize('name', [n for n in GEOMETRIES if n not in ('columns', 'rows', 'box', 'comb')])
@given(st.integers(2, 40), st.integers(2, 40), st.floats(.01, .9), st.floats(.01, .9), seeds)
@settings(quick, max_examples=10)
def test_a_mask_grows_with_its_coverage(name, n_bins, n_frames, a, b, seed):
    small, large = (GEOMETRIES[name](n_bins, n_frames, c, generator=rng(seed)) for c in sorted((a, b)))
    assert not (large & ~small).any()

def test_places_are_fair():
    "Over many seeds, every cell is lost about as often as the coverage says, away from the borders."
    for name in ('boxes', 'scattered', 'comb', 'strokes', 'blobs'):
        lost = sum((~GEOMETRIES[name](24, 24, .3, generator=rng(s))).double() for s in range(100))/100
        assert abs(float(lost[4:-4, 4:-4].mean()) - .3) < .08, name
        assert float(lost.std()) < .12, name

@given(st.integers(2, 30), st.integers(2, 30), st.floats(.01, .99), seeds, st.integers(1, 5))
@quick
def test_lowest_cells_with_ties(n_bins, n_frames, target, seed, steps):
    score = torch.randint(steps, (n_bins, n_frames), generator=rng(seed)).double()
    m = lose_lowest(score, target)
    assert int((~m).sum()) == min(max(round(target*m.numel()), 1), m.numel()-1) and score[~m].max() <= score[m].min()

@given(st.integers(300, 3000), st.floats(.02, .9), seeds, st.sampled_from([(64, 16, None, 'hann'), (64, 20, 50, 'gauss'), (32, 16, None, 'rect')]))
@quick
def test_clipping_comes_as_near_as_the_wave_allows(length, target, seed, frame):
    f, x = STFT(*frame), torch.randn(length, generator=rng(seed), dtype=torch.float64)
    m, limit = clipping_mask(x, f, coverage=target)
    assert torch.equal(m[0], frame_mask(x.abs() < limit, f)) and (m == m[0]).all()
    every = torch.tensor([coverage(frame_mask(x.abs() < v, f)) for v in x.abs().unique()[::max(1, length//60)]])
    assert abs(coverage(m) - target) <= (every[every < 1] - target).abs().min() + .5/f.n_frames(length) + 1e-9

# ---- frames
@given(st.sampled_from(WINDOWS), st.integers(2, 200), st.integers(1, 100))
@quick
def test_tight_windows_are_tight(name, length, hop):
    assume(hop <= length//2 and length >= 4)
    w = make_window('tight_' + name, length, hop)
    total = torch.zeros(hop, dtype=torch.float64).index_add(0, torch.arange(length) % hop, w**2)
    torch.testing.assert_close(total, torch.ones(hop, dtype=torch.float64), rtol=1e-9, atol=1e-9)

@given(st.sampled_from(WINDOWS), st.sampled_from([(64, 16, None), (64, 13, 50), (30, 7, None)]), st.integers(1, 400), seeds)
@quick
def test_frame_bounds_hold(name, frame, length, seed):
    f = STFT(*frame, name); a, b = f.frame_bounds(length)
    x, twice = torch.randn(3, length, generator=rng(seed), dtype=torch.float64), torch.full((f.n_bins, 1), 2., dtype=torch.float64); twice[[0, -1]] = 1
    ratio = (f.analysis(x).abs()**2*twice).sum((1, 2))/x.square().sum(1)
    assert (ratio >= a*(1-1e-9)).all() and (ratio <= b*(1+1e-9)).all()
    torch.testing.assert_close(f.synthesis(f.analysis(x), length), x, rtol=0, atol=1e-9)

@given(st.sampled_from(WINDOWS), st.sampled_from([(32, 8), (30, 10), (24, 9)]), st.integers(1, 4), seeds, st.sampled_from(['freqinv', 'timeinv']))
@quick
def test_circle(name, frame, laps, seed, phase):
    f = STFT(*frame, window_name=name)
    x = torch.randn(2, laps*math.lcm(*frame), generator=rng(seed), dtype=torch.float64)
    torch.testing.assert_close(idgt(dgt(x, f, phase), f, phase), x, rtol=0, atol=1e-10)
    shifted = dgt(torch.roll(x, f.hop_length, 1), f, 'timeinv') # covariance: a hop later, a column on
    torch.testing.assert_close(shifted, torch.roll(dgt(x, f, 'timeinv'), 1, 2), rtol=0, atol=1e-10)

@pytest.mark.parametrize('convention', CONVENTIONS)
def test_conventions_come_back(convention):
    f, x = STFT(64, 16), torch.randn(1, 500, generator=rng(0), dtype=torch.float64)
    c = f.analysis(x); factor = convention_factor(f, c.shape[-1], convention)
    torch.testing.assert_close(f.synthesis(c*factor/factor, 500), x, rtol=0, atol=1e-12)
    torch.testing.assert_close(factor.abs(), torch.full_like(factor.abs(), f.scale))

@pytest.mark.parametrize('name,theirs', [('hann', 'hann'), ('sqrt_hann', 'cosine'), ('hamming', 'hamming'), ('blackman', 'blackman'), ('rect', 'boxcar')])
def test_windows_of_scipy(name, theirs):
    ours, n = make_window(name, 128).numpy(), np.arange(128)
    other = np.sin(np.pi*n/128) if theirs == 'cosine' else sp.get_window(theirs, 128) # SciPy's cosine is shifted by half a sample
    np.testing.assert_allclose(ours, other, atol=1e-12)

# ---- signals
@given(st.floats(50, 3000), st.floats(50, 3000), st.sampled_from(['linear', 'exponential']))
@quick
def test_the_chirp_of_scipy(f0, f1, kind):
    assume(abs(f1/f0 - 1) > 1e-3)
    t = np.arange(4000)/8000
    np.testing.assert_allclose(chirp(f0, f1, .5, 8000, kind)[0].numpy(), sp.chirp(t, f0, .5, f1, 'logarithmic' if kind == 'exponential' else kind, phi=-90), atol=5e-6)
    assert chirp_hz(f0, f1, .5, 8000, kind)[0] == pytest.approx(f0) and abs(float(chirp_hz(f0, f1, .5, 8000, kind)[-1]) - f1) < abs(f1-f0)/500 + 3

@given(st.floats(60, 900), st.sampled_from([8000, 16000, 44100]), st.floats(.05, .4), seeds)
@settings(quick, max_examples=12)
def test_a_string_is_in_tune(f0, sr, damping, seed):
    assume(f0 < sr/12)
    try: x = pluck(f0, .8, sr, t60_s=.8, damping=damping, generator=rng(seed))[0].double().numpy()
    except ValueError as e: assert 'lower damping' in str(e); return
    w, d, start = int(.35*sr), int(.25*sr), int(.1*sr)
    at = x*np.exp(-2j*np.pi*f0/sr*np.arange(len(x)))
    a, b = ((at[s:s+w]*sp.windows.blackmanharris(w)).sum() for s in (start, start+d))
    assert abs(1200*math.log2(1 + np.angle(b/a)*sr/(2*np.pi*d)/f0)) < .1
    assert 3*d/sr/-math.log10(abs(b/a)) == pytest.approx(.8, rel=.01)

@given(st.floats(-30, 60), seeds, st.integers(1, 3))
@quick
def test_snr_is_exact(snr, seed, batch):
    s = torch.randn(batch, 999, generator=rng(seed))*10**torch.linspace(-2, 1, batch)[:, None]
    m, added = mix(s, torch.randn(1, 999, generator=rng(seed+1)), snr)
    torch.testing.assert_close(rms_db(s) - rms_db(added), torch.full((batch,), snr, dtype=torch.float64), rtol=0, atol=1e-4)
    assert torch.equal(m, s + added)

@given(st.floats(.01, 2), seeds, st.sampled_from([torch.float32, torch.float64]))
@quick
def test_the_truth_is_consistent_with_its_clipping(limit, seed, dtype):
    x = torch.randn(2, 500, generator=rng(seed), dtype=dtype)
    c = clip(x, limit); known, low, high = clip_bounds(c, limit)
    assert ((low <= x) & (x <= high)).all() and torch.equal(known, x.abs() < torch.tensor(limit, dtype=dtype)) and torch.equal(low[known], x[known])
    assert torch.equal(clip(x.clamp(low, high), limit), c) # what is consistent clips to the same

def test_energy_of_clicks_and_bursts():
    assert float(clicks([0, .1, .2], .3, 8000, .5).square().sum()) == .75
    b = noise_burst(500, 700, .1, .2, .3, 8000, rms=.3, generator=rng(0))
    assert float(b.square().sum()) == pytest.approx(.09*800, rel=1e-5)
    assert float(tone(200, .5, 8000, n_partials=3, slope=0).square().mean()) == pytest.approx(1.5, rel=1e-5)
