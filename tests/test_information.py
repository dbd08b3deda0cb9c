"""What a mask of the time-frequency plane loses: closed forms, brute force, and the samplers that use the projection."""
import math
import pytest, torch
from hypothesis import given, settings, strategies as st
from tfinpaint.diffusion.oracle import GaussianPrior, propagate
from tfinpaint.diffusion.schedule import linear_schedule, respaced
from tfinpaint.inpainting.repaint import repaint, repaint_times
from tfinpaint.timefreq.information import (MaskedGram, TFMeasurement, determinacy, information_lost, null_space, restore_determined)
from tfinpaint.timefreq.stft import STFT
from tfinpaint.timefreq.tfmasks import GEOMETRIES, columns_mask, frame_mask, rows_mask, scattered_mask

quick = settings(max_examples=15, deadline=None, derandomize=True, database=None)
rng = lambda seed: torch.Generator().manual_seed(seed)
snr_db = lambda x, y: float(10*torch.log10((x**2).sum()/((x-y)**2).sum()))
frames = st.sampled_from([(64, 16, None), (64, 16, 48), (32, 8, None), (48, 16, None), (16, 8, None)])

def known_rows(stft, mask, length):
    "The known part of the analysis as a real matrix, by brute force: bins with a mirror image count twice."
    c = stft.analysis(torch.eye(length, dtype=torch.float64))
    c[:, 1:-1] *= math.sqrt(2)
    return torch.view_as_real(c[:, mask]).flatten(1).mT

@given(frames, st.integers(1, 8), st.integers(100, 200))
@quick
def test_columns_lose_what_no_known_frame_sees(frame, columns, length):
    f = STFT(*frame)
    mask = torch.ones(f.n_bins, f.n_frames(length), dtype=torch.bool)
    mask[:, 3:3+columns] = False
    if not mask.any(): return
    lost, gain_db = determinacy(f, mask, length)
    w, hop = f.win_length, f.hop_length
    seen = torch.zeros(length + 4*f.n_fft, dtype=torch.bool)
    for n in torch.nonzero(mask[0]).flatten().tolist(): seen[n*hop-w//2+1+2*f.n_fft:n*hop+w//2+2*f.n_fft] = True
    seen = seen[2*f.n_fft:2*f.n_fft+length]
    assert torch.equal(lost == 1, ~seen) and torch.equal(gain_db.isinf(), ~seen)
    if 3+columns < mask.shape[1] and (2+columns)*hop + w//2 < length: # a hole with known frames on both sides
        assert int((~seen).sum()) == max(0, (columns+1)*hop - w + 1)

@given(frames, st.sampled_from(list(GEOMETRIES)), st.floats(.15, .9), st.integers(0, 99))
@quick
def test_null_space_is_that_of_the_matrix(frame, geometry, coverage, seed):
    f, length = STFT(*frame), 160
    mask = GEOMETRIES[geometry](f.n_bins, f.n_frames(length), coverage, generator=rng(seed))
    A, null = known_rows(f, mask, length), null_space(f, mask, length)
    assert len(null) == length - int(torch.linalg.matrix_rank(A, rtol=1e-12)) >= max(0, length-A.shape[0])
    if len(null): assert (A @ null.mT).abs().max() < 1e-11*A.norm()
    torch.testing.assert_close(null @ null.mT, torch.eye(len(null), dtype=torch.float64), atol=1e-10, rtol=0)
    value = torch.linalg.svdvals(A)**2/f.frame_operator(length, A).max()
    value = torch.cat([value, value.new_zeros(max(0, length-len(value)))])
    for floor_db in (30, 60):
        floor = 10**(-floor_db/10)
        assert abs(information_lost(f, mask, length, floor_db=floor_db) - float((floor/(value+floor)).sum())) < 1e-5*length

@given(frames, st.sampled_from(list(GEOMETRIES)), st.floats(.15, .8), st.integers(0, 99))
@quick
def test_what_is_called_determined_comes_back(frame, geometry, coverage, seed):
    f, length = STFT(*frame), 200
    mask = GEOMETRIES[geometry](f.n_bins, f.n_frames(length), coverage, generator=rng(seed))
    x = torch.randn(2, length, generator=rng(seed), dtype=torch.float64)
    rubbish = torch.where(mask, f.analysis(x), torch.full((), float('nan'), dtype=torch.complex128)) # missing cells are not used
    wave, determined = restore_determined(f, rubbish, mask, length)
    assert wave.isfinite().all()
    if determined.any(): assert snr_db(x[:, determined], wave[:, determined]) > 95
    cells = torch.stack([(f.analysis(wave)-f.analysis(x))[:, mask].abs().max(), f.analysis(x).abs().max()])
    assert cells[0] < 1e-5*cells[1] # the known coefficients are met, determined or not

@pytest.mark.parametrize('geometry', ['columns', 'box', 'rows', 'scattered'])
def test_projection_is_the_pseudo_inverse(geometry):
    f, length = STFT(32, 8), 128
    mask = GEOMETRIES[geometry](f.n_bins, f.n_frames(length), .6, generator=rng(3))
    A = known_rows(f, mask, length)
    x, x0 = torch.randn(2, 4, length, generator=rng(1), dtype=torch.float64)
    M = TFMeasurement(f, mask, length)
    want = x + (x0-x) @ A.mT @ torch.linalg.pinv(A, rtol=1e-6).mT       # eigenvalues of G: 1e-12
    torch.testing.assert_close(M.project(x, M.A(x0)), want, atol=1e-7, rtol=0)
    torch.testing.assert_close(M.A(M.measure(f.analysis(x0))), M.A(x0), atol=1e-3, rtol=0)

def test_trace_is_the_known_share():
    f, length = STFT(64, 16), 320
    for name, draw in GEOMETRIES.items():
        mask = draw(f.n_bins, f.n_frames(length), .5, generator=rng(0))
        A = known_rows(f, mask, length)
        torch.testing.assert_close(MaskedGram(f, mask, length).seen, (A**2).sum(0)/f.frame_operator(length, A).max(), msg=name)

def test_a_gap_of_samples_loses_itself():
    f, length = STFT(64, 16), 400
    known = torch.ones(length, dtype=torch.bool); known[150:190] = False
    mask = frame_mask(known, f).expand(f.n_bins, -1).contiguous()
    lost, _ = determinacy(f, mask, length)
    assert (lost[~known] == 1).all() and int(lost.sum()) <= 40 + 2*15   # no more than a hop on either side besides

def test_repaint_keeps_known_coefficients_and_obeys_the_law():
    f, length = STFT(16, 4), 24
    mask = torch.ones(f.n_bins, f.n_frames(length), dtype=torch.bool); mask[:, 2:6] = False; mask[3:, 1] = False
    lag = (torch.arange(length)[:, None]-torch.arange(length)).abs()
    prior, schedule = GaussianPrior(torch.zeros(length), (.9**lag).double()), respaced(linear_schedule(1000), 25)
    M, truth = TFMeasurement(f, mask, length), (lambda p: p.sample(1, rng(4)))(prior)
    y = M.A(truth).expand(2000, length).contiguous()
    out = repaint(prior.denoiser(schedule), M, y, schedule, jump_length=5, jump_n_sample=2, generator=rng(5))
    assert ((f.analysis(out)-f.analysis(truth))[:, mask]).abs().max() < 1e-5
    A = known_rows(f, mask, length)
    basis = torch.linalg.svd(A, full_matrices=False)
    rows = basis[2][basis[1] > 1e-6*basis[1][0]]
    law = propagate(prior, schedule, [t+1 for t in repaint_times(25, 5, 2)], A=rows, y=truth[0] @ rows.mT)
    error = (out.mean(0)-law.mean)/(law.cov.diagonal().clamp(min=1e-12)/2000).sqrt()
    free = law.cov.diagonal() > 1e-4
    assert free.sum() >= 3 and error[free].abs().max() < 5
    torch.testing.assert_close(out.var(0)[free], law.cov.diagonal()[free], rtol=.2, atol=0)
    assert len(null_space(f, mask, length)) == length-len(rows)

def test_noise_in_coefficients_comes_out_as_stated():
    f, length = STFT(64, 16), 320
    mask = columns_mask(f.n_bins, f.n_frames(length), .3, pieces=2, generator=rng(2)) & scattered_mask(f.n_bins, f.n_frames(length), .2, rng(3))
    lost, gain_db = determinacy(f, mask, length)
    A = known_rows(f, mask, length)
    inverse = torch.linalg.pinv(A, rtol=1e-7)
    quiet = gain_db < 80
    want = 10*torch.log10((inverse**2).sum(1)*f.frame_operator(length, A))
    torch.testing.assert_close(gain_db[quiet], want[quiet].clamp(min=0), atol=.01, rtol=0)

@pytest.mark.parametrize('bad, word', [(lambda m: m.float(), 'bool'), (lambda m: m[1:], 'mask has shape')])
def test_bad_masks_are_refused(bad, word):
    f, length = STFT(64, 16), 320
    mask = rows_mask(f.n_bins, f.n_frames(length), .3, generator=rng(0))
    for call in (lambda m: determinacy(f, m, length), lambda m: information_lost(f, m, length), lambda m: null_space(f, m, length), lambda m: TFMeasurement(f, m, length),
                 lambda m: restore_determined(f, torch.zeros(1, f.n_bins, f.n_frames(length), dtype=torch.complex128), m, length)):
        with pytest.raises((TypeError, ValueError), match=word): call(bad(mask))
