"""`restore` from file to file: every format, rate and channel count keeps what is known, bad input is refused before any work."""
import subprocess, sys
import numpy as np, pytest, soundfile as sf, torch
from tfinpaint.audio.models import load_model
from tfinpaint.audio.representation import LogMagnitude
from tfinpaint.audio.restore import GAPS_ONLY, METHODS, plan, restore, restore_file, stretches
from tfinpaint.diffusion.training import save_weights
from tfinpaint.diffusion.unet import UNet
from tfinpaint.timefreq.tfmasks import Hole, cell_mask

GAP = Hole(.6, .65)

def sound(sr, seconds=1.2, channels=1, seed=0):
    "A few partials and a little noise (L, C)."
    t, rng = np.arange(int(sr*seconds))/sr, np.random.default_rng(seed)
    x = sum(.1*np.sin(2*np.pi*f*t + i) for i, f in enumerate((220., 440., 1230.)))
    return np.stack([x*(1-.1*c) for c in range(channels)], 1) + 1e-3*rng.standard_normal((len(t), channels))

@pytest.fixture(scope='module')
def tiny(tmp_path_factory):
    "A small network with random weights, saved as a model is."
    torch.manual_seed(0)
    net, rep = UNet(channels=8, multipliers=(1, 1), attention=(), fold_factors=(8, 8)), LogMagnitude()
    meta = dict(name='tiny', data=dict(name='piano_ishizaka', gain_db=0), representation=dict(sr=16000), schedule=dict(name='cosine', n_steps=100),
                network=net.config, training=dict(predicts='v'), steps=0, hours=0.)
    path = tmp_path_factory.mktemp('weights')/'tiny.safetensors'
    save_weights(path, net, meta)
    return load_model(str(path), 'cpu')

@pytest.mark.parametrize('sr', [8000, 11025, 16000, 22050, 44100, 48000, 96000, 192000])
def test_rates_keep_every_known_sample(tmp_path, sr):
    x = sound(sr)
    sf.write(tmp_path/'in.wav', x, sr, subtype='PCM_16')
    restore_file(tmp_path/'in.wav', tmp_path/'out.wav', GAP, method='ar')
    a, b = (sf.read(tmp_path/f, dtype='int32')[0] for f in ('in.wav', 'out.wav'))
    gap = slice(round(.6*sr), round(.65*sr))
    assert a.shape == b.shape and sf.info(tmp_path/'out.wav').samplerate == sr
    np.testing.assert_array_equal(np.delete(a, np.r_[gap]), np.delete(b, np.r_[gap]))
    error = (a[gap]-b[gap].astype(float))/2**31
    assert 10*np.log10((x[gap]**2).sum()/(error**2).sum()) > 15 # partials are continued, not silenced

@pytest.mark.parametrize('subtype,container', [('PCM_U8', 'wav'), ('PCM_16', 'wav'), ('PCM_24', 'wav'), ('PCM_32', 'wav'), ('FLOAT', 'wav'), ('DOUBLE', 'wav'),
                                               ('PCM_16', 'flac'), ('PCM_24', 'flac'), ('PCM_24', 'aiff')])
def test_sample_formats_are_kept(tmp_path, subtype, container):
    x = sound(16000, channels=2)
    sf.write(tmp_path/f'in.{container}', x, 16000, subtype=subtype)
    restore_file(tmp_path/f'in.{container}', tmp_path/f'out.{container}', GAP, method='ar')
    info = sf.info(tmp_path/f'out.{container}')
    assert (info.subtype, info.channels) == (subtype, 2)
    dtype = 'int32' if subtype.startswith('PCM') else 'float64'
    a, b = (sf.read(tmp_path/f'{f}.{container}', dtype=dtype)[0] for f in ('in', 'out'))
    gap = slice(9600, 10400)
    assert (a[:9600] == b[:9600]).all() and (a[10400:] == b[10400:]).all() and (a[gap] != b[gap]).mean() > .5

def test_compressed_input_gives_a_sound_file(tmp_path):
    sf.write(tmp_path/'in.ogg', sound(16000), 16000)
    restore_file(tmp_path/'in.ogg', tmp_path/'out.wav', GAP, method='ar')
    a, b = sf.read(tmp_path/'in.ogg')[0], sf.read(tmp_path/'out.wav')[0]
    assert len(a) == len(b) and np.abs(a[:9600]-b[:9600]).max() < 2**-22

@pytest.mark.parametrize('channels', [1, 2, 6])
def test_channels_and_network(tmp_path, tiny, channels):
    x = torch.from_numpy(sound(16000, channels=channels).T.copy()).float()
    y = restore(x, 16000, [GAP, Hole(.1, .3, 500., 900.)], model=tiny, n_steps=4, jump_length=2, jump_n_sample=2)
    assert y.shape == x.shape and torch.isfinite(y).all()
    touched = (y != x).any(0).nonzero().flatten()/16000
    assert ((touched > .1-.017) & (touched < .3+.017) | (touched >= .6-1e-9) & (touched < .65)).all()

@pytest.mark.parametrize('method', GAPS_ONLY)
def test_methods_for_gaps(method):
    x = torch.from_numpy(sound(16000)[:, 0]).float()
    for holes in (GAP, [GAP, Hole(0., .03)], Hole(1.15, 1.2)):
        y = restore(x, 16000, holes, method=method)
        assert y.shape == x.shape and torch.isfinite(y).all() and (y != x).any()
    for holes in (Hole(.5, .7, 300., 500.), [GAP, Hole(.5, .7, 300., 500.)]):
        with pytest.raises(ValueError, match='gaps in time only'): restore(x, 16000, holes, method=method)

@pytest.mark.parametrize('method', ['mean', 'interpolation', 'nmf', 'zero'])
def test_a_box_beside_a_gap_is_restored_too(method):
    "What stands in the box must go, also where a gap lies in the same stretch."
    x = torch.from_numpy(sound(16000)[:, 0]).float()
    t = torch.arange(len(x))/16000
    burst = torch.where((t > .75) & (t < .85), torch.sin(2*torch.pi*2500*t)*torch.sin(torch.pi*(t-.75)/.1)**2, torch.zeros(()))
    y = restore(x + .5*burst, 16000, [Hole(.6, .7), Hole(.7, .9, 2000., 3000.)], method=method)
    left = (y-x)[(t > .72) & (t < .88)] @ burst[(t > .72) & (t < .88)]/burst.square().sum()
    assert left.abs() < .15                                                    # it was .5

@pytest.mark.parametrize('method', [m for m in METHODS if m not in GAPS_ONLY])
def test_every_method_takes_every_hole(method, tiny):
    x = torch.from_numpy(sound(16000)[:, 0]).float()
    mask = cell_mask([Hole(.3, .4)], tiny.rep.stft, len(x), 16000)
    for holes, m in ((GAP, None), (Hole(lo_hz=300., hi_hz=500.), None), (Hole(.5, .7, 300., 500.), None), ((), mask), ([GAP, Hole(.62, .7), Hole(0., .05)], None), (Hole(1.1, 1.2), None)):
        if method == 'two-step' and isinstance(holes, Hole) and holes.kind == 'band': # no frame is whole: nothing to predict from
            with pytest.raises(ValueError, match='use a method for bands'): restore(x, 16000, holes, m, method=method)
            continue
        y = restore(x, 16000, holes, m, method=method, model=tiny, n_steps=3, jump_length=1, jump_n_sample=1)
        assert y.shape == x.shape and torch.isfinite(y).all() and (y != x).any()

def test_level_does_not_matter(tiny):
    x = torch.from_numpy(sound(16000)[:, 0]).double()
    kw = dict(sr=16000, holes=GAP, model=tiny, n_steps=3, jump_length=1, jump_n_sample=1)
    loud, quiet = restore(x, **kw), restore(x/64, **kw)
    torch.testing.assert_close(loud/64, quiet, rtol=1e-3, atol=1e-6)

def test_a_mask_means_the_same_as_the_box_it_draws(tiny):
    x, box = torch.from_numpy(sound(16000)[:, 0]).float(), Hole(.5, .7, 300., 500.)
    mask = cell_mask([box], tiny.rep.stft, len(x), 16000)
    a, b = restore(x, 16000, box, method='mean'), restore(x, 16000, mask=mask, method='mean')
    torch.testing.assert_close(a, b, rtol=0, atol=1e-4)

def test_only_stretches_around_holes_are_computed():
    holes = [Hole(60., 60.1), Hole(60.9, 61.), Hole(300., 300.25)]
    todo = stretches(holes, None, 1800*44100, 44100, LogMagnitude())
    assert len(todo) == 2 and sum(b-a for a, b, *_ in todo) < 5.5*44100
    for a, b, local, _ in todo:
        for h in local: assert 0 <= h.t0_s and h.t1_s*44100 + a <= b + 1
    covered = [(round(h.t0_s+a/44100, 4), round(h.t1_s+a/44100, 4)) for a, _, local, _ in todo for h in local]
    assert covered == [(h.t0_s, h.t1_s) for h in holes]

def test_a_long_band_is_cut_into_pieces_that_cover_it():
    todo = plan([Hole(lo_hz=500., hi_hz=900.)], 100.)
    pieces = sorted((h.t0_s, h.t1_s) for *_, g in todo for h in g)
    assert pieces[0][0] == 0 and pieces[-1][1] == 100 and all(b == c for (_, b), (c, _) in zip(pieces, pieces[1:]))
    assert max(b-a for a, b, _ in todo) < 20

def test_what_later_stretches_restore_is_not_taken_as_known():
    gap = Hole(5., 45.)
    todo = stretches([gap], None, 60*16000, 16000, LogMagnitude())
    assert len(todo) > 2
    for a, b, local, _ in todo: # from the first missing sample of a stretch on, all is missing up to the end of the gap or of the stretch
        own = min(h.t0_s for h in local)
        covered = sorted((h.t0_s, h.t1_s) for h in local)
        assert all(abs(x[1]-y[0]) < 1e-6 for x, y in zip(covered, covered[1:]))
        assert abs(covered[-1][1]*16000 + a - min(b, 45*16000)) <= 1, (a, b, own, covered)

def test_windows_that_are_filled_already_and_holes_at_the_start(tiny):
    x = torch.from_numpy(sound(16000, 3.)[:, 0]).float()
    kw = dict(sr=16000, model=tiny, n_steps=2, jump_length=1, jump_n_sample=1)
    for holes in ([Hole(.35, .85), Hole(1.8, 1.85)], Hole(0., 1.6), Hole(1.5, 3.), Hole(0., 2.9)):
        y = restore(x, holes=holes, **kw)
        assert torch.isfinite(y).all() and (y != x).any()

def test_half_an_hour_in_little_memory(tmp_path):
    "30 minutes of stereo at 44.1 kHz are 635 MB of float32; the restoration of one gap may not take more than a few stretches."
    block = (sound(44100, 10., 2)*2**15).astype('int16')
    with sf.SoundFile(tmp_path/'long.wav', 'w', 44100, 2, 'PCM_16') as f:
        for _ in range(180): f.write(block)
    code = ("import resource, sys; from tfinpaint.audio.restore import restore_file; from tfinpaint.timefreq.tfmasks import Hole; import soxr, scipy.signal\n"
            "base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
            "print(restore_file(sys.argv[1], sys.argv[2], [Hole(900., 900.05), Hole(1700., 1700.05)], method='ar'))\n"
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base)")
    done = subprocess.run([sys.executable, '-c', code, tmp_path/'long.wav', tmp_path/'out.wav'], capture_output=True, text=True, check=True)
    grown_mb = int(done.stdout.split()[-1])/1024
    assert grown_mb < 300, f'memory grew by {grown_mb:.0f} MB'
    with sf.SoundFile(tmp_path/'out.wav') as f, sf.SoundFile(tmp_path/'long.wav') as g:
        assert f.frames == g.frames
        for s in (0, 899, 901, 1799):
            f.seek(s*44100); g.seek(s*44100); assert (f.read(20000, dtype='int16') == g.read(20000, dtype='int16')).all()
        f.seek(900*44100); g.seek(900*44100); assert (f.read(2000, dtype='int16') != g.read(2000, dtype='int16')).mean() > .5

BAD = {'missing': 'no file', 'text': 'not a sound file', 'empty': 'is empty', 'three': 'at least 64 ms', 'nan': 'NaN', 'inf': 'infinite', 'folder': 'is a folder'}

@pytest.mark.parametrize('kind', BAD)
def test_bad_files_are_refused_and_leave_nothing(tmp_path, kind):
    path, x = tmp_path/'in.wav', sound(16000)
    if kind == 'text': path.write_text('hello')
    if kind == 'empty': path.write_bytes(b'')
    if kind == 'folder': path.mkdir()
    if kind == 'three': sf.write(path, x[:3], 16000)
    if kind in ('nan', 'inf'): x[100] = float(kind); sf.write(path, x, 16000, subtype='FLOAT')
    with pytest.raises((ValueError, FileNotFoundError), match=BAD[kind]) as e: restore_file(path, tmp_path/'out.wav', GAP, method='ar')
    assert '\n' not in str(e.value)
    assert sorted(p.name for p in tmp_path.iterdir()) == (['in.wav'] if kind != 'missing' else [])

@pytest.mark.parametrize('holes,why', [((), 'nothing to restore'), (Hole(5., 6.), 'after the end'), (Hole(1., 2.), 'beyond the end'), (Hole(0., 1.2), 'whole file'),
                                       ([Hole(0., .7), Hole(.6, 1.2)], 'whole file'), (Hole(lo_hz=9000., hi_hz=9500.), 'half the sampling rate'), (Hole(lo_hz=0., hi_hz=8000.), 'no cell')])
def test_bad_holes_are_refused(tmp_path, holes, why):
    sf.write(tmp_path/'in.wav', sound(16000), 16000)
    with pytest.raises(ValueError, match=why): restore_file(tmp_path/'in.wav', tmp_path/'out.wav', holes, method='mean')
    assert not (tmp_path/'out.wav').exists()

def test_silence_stays_silence(tmp_path):
    sf.write(tmp_path/'in.wav', np.zeros(32000), 16000)
    restore_file(tmp_path/'in.wav', tmp_path/'out.wav', GAP, method='interpolation')
    assert not sf.read(tmp_path/'out.wav')[0].any()

def test_the_result_may_replace_the_input(tmp_path):
    sf.write(tmp_path/'a.wav', sound(16000), 16000)
    before = sf.read(tmp_path/'a.wav')[0]
    restore_file(tmp_path/'a.wav', tmp_path/'a.wav', GAP, method='ar')
    after = sf.read(tmp_path/'a.wav')[0]
    assert (before[:9600] == after[:9600]).all() and (before != after).any()

def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    sf.write(tmp_path/'in.wav', sound(16000), 16000)
    (tmp_path/'out.wav').write_text('old')
    def full(*args, **kwargs): raise OSError(28, 'No space left on device')
    monkeypatch.setattr('tfinpaint.audio.restore._copy', full)
    with pytest.raises(OSError, match='No space left'): restore_file(tmp_path/'in.wav', tmp_path/'out.wav', GAP, method='ar')
    assert (tmp_path/'out.wav').read_text() == 'old' and sorted(p.name for p in tmp_path.iterdir()) == ['in.wav', 'out.wav']

@pytest.mark.parametrize('mask,why', [(np.ones((3, 4)), 'shape'), (np.zeros((256, 151)), 'missing'), (np.ones((256, 151)), 'known')])
def test_bad_masks_are_refused(tmp_path, mask, why):
    sf.write(tmp_path/'in.wav', sound(16000), 16000); np.save(tmp_path/'m.npy', mask)
    with pytest.raises(ValueError, match=why): restore_file(tmp_path/'in.wav', tmp_path/'out.wav', mask=tmp_path/'m.npy', method='mean')
