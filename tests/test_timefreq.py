"""Properties of Part III that span chapters, and parity with other libraries."""
import importlib.resources, math, time
import librosa, numpy as np, pytest, soundfile as sf, torch
from hypothesis import given, settings, strategies as st
from tfinpaint.timefreq.classical import ar_interpolate, gaps, interpolate_log_magnitude
from tfinpaint.timefreq.phase import consistency, griffin_lim
from tfinpaint.timefreq.stft import STFT
from tfinpaint.timefreq.tfmasks import (Hole, box_mask, cell_mask, check_holes, columns_mask, coverage, frame_mask, load_mask, parse_band,
                                        parse_box, parse_gap, rows_mask, sample_mask, scattered_mask)

quick = settings(max_examples=25, deadline=None, derandomize=True, database=None)
rng = lambda seed: torch.Generator().manual_seed(seed)
# n_fft, hop, win: three quarters of overlap and more
frames = st.sampled_from([(510, 128, None), (512, 128, None), (64, 16, None), (64, 16, 60), (126, 30, None), (2048, 512, None), (16, 3, 12)])
seeds = st.integers(0, 2**31)

def clip(seconds=1., at=1.):
    "A stretch of the example, (1, L)."
    with importlib.resources.as_file(importlib.resources.files('tfinpaint')/'examples'/'piano.flac') as path: x, sr = sf.read(path, dtype='float32')
    return torch.from_numpy(x[int(at*sr):int((at+seconds)*sr)])[None], sr

# ---- stft
@given(frames, st.integers(1, 3000), seeds, st.sampled_from([torch.float32, torch.float64]))
@quick
def test_perfect_reconstruction_at_any_length(frame, length, seed, dtype):
    f, x = STFT(*frame), torch.rand(2, length, generator=rng(seed), dtype=dtype)*2 - 1
    coef = f.analysis(x)
    assert coef.shape == (2, f.n_bins, f.n_frames(length))
    assert (f.synthesis(coef, length) - x).abs().max() <= (1e-6 if dtype == torch.float32 else 1e-12)

@pytest.mark.parametrize('frame', [(512, 256), (2048, 1024), (510, 255), (16, 8)])
def test_half_overlap_is_exact_in_float64(frame):
    f = STFT(*frame)
    for length in (1, frame[1]-1, frame[1], 3*frame[1]-1):
        x = torch.rand(1, length, generator=rng(0), dtype=torch.float64)
        assert (f.synthesis(f.analysis(x), length) - x).abs().max() < 1e-9, length

@given(frames, st.integers(1, 1500), seeds)
@quick
def test_adjoint(frame, length, seed):
    f, g = STFT(*frame), rng(seed)
    x = torch.randn(1, length, generator=g, dtype=torch.float64)
    c = torch.randn(1, f.n_bins, f.n_frames(length), generator=g, dtype=torch.complex128)
    twice = torch.full((f.n_bins, 1), 2., dtype=torch.float64); twice[[0, -1]] = 1
    left, right = (twice*f.analysis(x).conj()*c).sum().real, (x*f.adjoint(c, length)).sum()
    assert abs(left - right) < 1e-9*(1 + x.norm()*c.norm())
    torch.testing.assert_close(f.adjoint(f.analysis(x), length), x*f.frame_operator(length, x), rtol=1e-9, atol=1e-9)

@given(frames, st.integers(1, 1500), seeds)
@quick
def test_synthesis_is_the_nearest_wave(frame, length, seed):
    f, g = STFT(*frame), rng(seed)
    c = torch.randn(1, f.n_bins, f.n_frames(length), generator=g, dtype=torch.complex128)
    y, twice = f.synthesis(c, length), torch.full((f.n_bins, 1), 2., dtype=torch.float64)
    twice[[0, -1]] = 1; c[:, [0, -1]] = c[:, [0, -1]].real.to(c.dtype) # of the outer bins only the real part can be met
    far = lambda w: (twice*(f.analysis(w) - c).abs()**2).sum()
    assert far(y) <= far(y + .01*torch.randn(y.shape, generator=g, dtype=y.dtype))

def test_gradient_goes_through():
    f, x = STFT(16, 4), torch.randn(1, 30, generator=rng(0), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: f.synthesis(f.analysis(x)*(1+.5j), 30), x)

@pytest.mark.parametrize('n_fft,hop,win', [(510, 128, None), (512, 64, 400), (2048, 512, None)])
def test_same_numbers_as_torch_and_librosa(n_fft, hop, win):
    f, x = STFT(n_fft, hop, win), torch.randn(1, 5000, generator=rng(0), dtype=torch.float64)
    other = librosa.stft(x[0].numpy(), n_fft=n_fft, hop_length=hop, win_length=win, window='hann', center=True, pad_mode='constant')/f.scale
    np.testing.assert_allclose(f.analysis(x)[0].numpy(), other, atol=1e-12)
    window = torch.hann_window(f.win_length, dtype=torch.float64)
    back = torch.istft(f.analysis(x)*f.scale, n_fft, hop, f.win_length, window, length=5000)
    torch.testing.assert_close(f.synthesis(f.analysis(x), 5000), back, rtol=0, atol=1e-12)

@pytest.mark.parametrize('args,words', [((510, 300), 'half a window'), ((511, 100), 'even'), ((512, 0), 'hop_length'), ((512, 128, 600), 'win_length'), ((0, 1), 'n_fft')])
def test_bad_frames(args, words):
    with pytest.raises(ValueError, match=words): STFT(*args)

# ---- masks
@given(st.integers(4, 80), st.integers(4, 80), st.floats(.01, .9), seeds)
@quick
def test_coverage_is_exact(n_bins, n_frames, target, seed):
    g = rng(seed)
    for make, unit in ((columns_mask, n_bins), (rows_mask, n_frames), (scattered_mask, 1)):
        m = make(n_bins, n_frames, target, generator=g)
        assert m.shape == (n_bins, n_frames) and m.dtype == torch.bool and m.any() and not m.all()
        assert abs(coverage(m) - target)*m.numel() <= unit, make.__name__ # at least one is lost and one known, else within half a unit
    m = box_mask(n_bins, n_frames, target, generator=g)
    assert abs(coverage(m) - target)*m.numel() <= max(n_bins, n_frames) and m.any() and not m.all()

@given(st.integers(300, 6000), st.integers(0, 6000), st.integers(1, 3000), frames, seeds)
@quick
def test_a_gap_hides_just_what_it_touches(length, start, size, frame, seed):
    f, known = STFT(*frame), torch.ones(length, dtype=torch.bool)
    known[start % length:start % length + size] = False
    x = torch.rand(1, length, generator=rng(seed), dtype=torch.float64) + .5
    error = (f.analysis(x) - f.analysis(x*known)).abs().amax((0, 1))
    touched = frame_mask(known, f)
    assert (error[touched] == 0).all()
    assert (error[~touched] > 0).all()

@given(st.floats(0, 5.9), st.floats(.001, 3), st.floats(0, 7500), st.floats(40, 4000))
@quick
def test_holes_and_cells_agree(t0, dt, lo, df):
    f, sr, length = STFT(), 16000, 96000
    hole = Hole(t0, min(t0+dt, 6.), lo, min(lo+df, 8000.))
    try: m = cell_mask([hole], f, length, sr)
    except ValueError as e: assert 'holds no cell' in str(e); return
    k, n = torch.nonzero(~m, as_tuple=True)
    assert (k*sr/510 >= lo-.1).all() and (k*sr/510 <= lo+df+.1).all()
    assert (n*128/sr >= t0-1e-4).all() and (n*128/sr <= hole.t1_s+1e-4).all()
    assert sample_mask([hole], length, sr).all() # a box removes no sample

def test_overlapping_holes_merge():
    a, b, both = ([Hole(1, 2)], [Hole(1.5, 2.5)], [Hole(1, 2), Hole(1.5, 2.5)])
    f = STFT()
    assert torch.equal(sample_mask(both, 64000, 16000), sample_mask(a, 64000, 16000) & sample_mask(b, 64000, 16000))
    assert torch.equal(cell_mask(both, f, 64000, 16000), cell_mask(a, f, 64000, 16000) & cell_mask(b, f, 64000, 16000))
    assert check_holes(both, 4., 16000) == both

@pytest.mark.parametrize('parse,text,words', [
    (parse_gap, '1.45:1.20', 'write --gap 1.20:1.45'), (parse_gap, 'nan:1', 'not finite'), (parse_gap, '0:inf', 'not finite'), (parse_gap, '-1:2', 'at least 0'),
    (parse_gap, '1:1', 'is empty'), (parse_gap, '1', 'START:END'), (parse_gap, '1:2:3', 'START:END'), (parse_gap, 'a:b', "got 'a:b'"), (parse_gap, '', 'START:END'),
    (parse_band, '2000:500', 'write --band 500:2000'), (parse_box, '1.3:1:200:500', 'write --box 1:1.30:200:500'), (parse_box, '1:2', 'START:END:LOW:HIGH')])
def test_holes_that_make_no_sense(parse, text, words):
    with pytest.raises(ValueError) as e: parse(text)
    assert words in str(e.value) and '\n' not in str(e.value)

@pytest.mark.parametrize('holes,words', [
    ([], 'nothing is missing'), ([Hole(6, 7)], 'after the end of the file (6 s)'), ([Hole(5, 7)], 'write --gap 5:6'), ([Hole(0, 6)], 'cover the whole file'),
    ([Hole(0, 3), Hole(2, 6)], 'cover the whole file'), ([Hole(1, 1.00002)], 'shorter than one sample'), ([Hole(None, None, 100, 9000)], 'write --band 100:8000'),
    ([Hole(None, None, 8000, 9000)], 'half the sampling rate'), ([Hole(7, 8, 100, 200)], 'after the end')])
def test_holes_that_do_not_fit_the_file(holes, words):
    with pytest.raises(ValueError) as e: check_holes(holes, 6., 16000)
    assert words in str(e.value)

def test_nothing_left_to_know():
    with pytest.raises(ValueError, match='no cell of the spectrogram is known'): cell_mask([Hole(None, None, 0, 8000)], STFT(), 16000, 16000)
    with pytest.raises(ValueError, match='no cell of the spectrogram is known'): cell_mask([Hole(.001, .075)], STFT(), 1300, 16000)

# ---- phase
@pytest.mark.parametrize('momentum', [0., .5, .99])
def test_iterates_of_librosa(momentum):
    x, sr = clip(.5)
    x, f = x.double(), STFT()
    magnitude = f.analysis(x).abs()
    angles = torch.from_numpy(np.exp(2j*np.pi*np.random.RandomState(0).rand(*magnitude[0].shape)))[None]
    other = librosa.griffinlim(magnitude[0].numpy()*f.scale, n_iter=10, hop_length=128, win_length=510, n_fft=510, momentum=momentum, length=x.shape[1],
                               init='random', random_state=np.random.RandomState(0), pad_mode='constant')
    ours = griffin_lim(f, magnitude, None, None, x.shape[1], n_iter=10, momentum=momentum, init=angles)
    np.testing.assert_allclose(ours[0].numpy(), other, atol=1e-10)

@given(st.integers(400, 3000), st.integers(1, 600), seeds, st.booleans())
@settings(quick, max_examples=10)
def test_known_samples_survive_griffin_lim_bit_for_bit(length, size, seed, with_mask):
    f, g = STFT(64, 16), rng(seed)
    x, known = torch.randn(2, length, generator=g), torch.ones(length, dtype=torch.bool)
    known[length//3:length//3+size] = False
    m = frame_mask(known, f).repeat(f.n_bins, 1)
    coef = f.analysis(x)
    given_ = (coef*m, m) if with_mask else (None, None)
    y = griffin_lim(f, coef.abs()*.5, *given_, length, n_iter=4, known_wave=x*known, known_samples=known, generator=g)
    assert torch.equal(y[:, known], x[:, known]) and torch.isfinite(y).all() and y.shape == x.shape

def test_known_coefficients_are_used():
    x, sr = clip(1.)
    f, hole = STFT(), [Hole(.4, .528)]
    m, known, coef = cell_mask(hole, f, x.shape[1], sr), sample_mask(hole, x.shape[1], sr), f.analysis(x)
    start = ar_interpolate(x, known)
    y = griffin_lim(f, coef.abs(), coef*m, m, x.shape[1], init=start)
    error = lambda y: float((y-x)[:, ~known].norm()/x[:, ~known].norm())
    assert error(y) < .3*error(start) # true magnitudes: more than 10 dB gained
    assert ((f.analysis(y) - coef).abs()*m).norm()/coef.norm() < .01 # and the surroundings stay
    assert consistency(f, torch.where(m, coef, torch.polar(coef.abs(), f.analysis(y).angle())), x.shape[1]) < .01

# ---- classical
@given(st.integers(20, 400), st.integers(0, 400), st.integers(1, 120), seeds)
@quick
def test_ar_keeps_what_is_known(length, start, size, seed):
    x, known = torch.randn(length, generator=rng(seed)), torch.ones(length, dtype=torch.bool)
    known[start % length:start % length + min(size, length-1)] = False
    y = ar_interpolate(torch.where(known, x, float('nan')), known, order=32, context=128, n_iter=3)
    assert torch.equal(y[known], x[known]) and torch.isfinite(y).all()
    assert y.abs().max() < 20*x.abs().max()

def test_ar_of_tones_at_any_place():
    t = torch.arange(16000, dtype=torch.float64)/16000
    x = sum(torch.sin(2*math.pi*f*t + i) for i, f in enumerate((220, 330.5, 1234.5)))
    for start, stop, least in ((5000, 5320, 60), (5000, 7048, 40), (0, 200, 25), (15900, 16000, 25), (100, 300, 30)):
        known = torch.ones(16000, dtype=torch.bool); known[start:stop] = False
        y = ar_interpolate(x, known, order=512, context=8192)
        assert 10*torch.log10((x[~known]**2).sum()/((x-y)[~known]**2).sum()) > least, (start, stop)

def test_ar_is_fast_enough():
    x, sr = clip(1.4)
    known = torch.ones(x.shape[1], dtype=torch.bool); known[9000:11048] = False
    began = time.process_time()
    ar_interpolate(x, known)
    assert time.process_time() - began < 10 # 128 ms, order 1024, context 8192, 10 rounds: well under a second on a free core

def test_runs_of_missing_samples():
    assert gaps(np.array([0, 0, 1, 1, 0, 1, 0], bool)) == [(0, 2), (4, 5), (6, 7)]
    assert gaps(np.ones(4, bool)) == []

@given(st.integers(4, 40), st.integers(4, 40), st.floats(.05, .9), seeds, st.sampled_from(['time', 'triangles']))
@quick
def test_interpolation_stays_within_the_known_levels(n_bins, n_frames, target, seed, along):
    g = rng(seed)
    db = 100*torch.rand(2, n_bins, n_frames, generator=g) - 100
    for make in (columns_mask, rows_mask, box_mask, scattered_mask):
        m = make(n_bins, n_frames, target, generator=g)
        y = interpolate_log_magnitude(torch.where(m, db, float('nan')), m, along)
        assert torch.equal(y[:, m], db[:, m])
        low, high = db[:, m].amin(1), db[:, m].amax(1)
        assert (y.amin((1, 2)) >= low - 1e-3).all() and (y.amax((1, 2)) <= high + 1e-3).all(), make.__name__

def test_picture_masks_are_upright(tmp_path):
    from PIL import Image
    picture = np.full((40, 30), 255, np.uint8); picture[:5] = 0 # dark at the top: the highest bins
    Image.fromarray(picture).save(tmp_path/'top.png')
    m = load_mask(tmp_path/'top.png', (40, 30))
    assert (~m).nonzero()[:, 0].min() == 35
    Image.fromarray(np.stack([picture]*3, -1)).save(tmp_path/'colour.png')
    assert torch.equal(load_mask(tmp_path/'colour.png', (40, 30)), m)
