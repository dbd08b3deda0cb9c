"Fetching and preparing data sets, against a local web server."
import hashlib, http.server, json, os, re, threading
from pathlib import Path
import numpy as np, pytest, soundfile as sf, torch
from tfinpaint.audio import datasets

class Server(http.server.ThreadingHTTPServer):
    "Serves `files`; breaks off after `cut` bytes once per file named in `break_once`; notes the ranges asked for."
    def __init__(self):
        super().__init__(('127.0.0.1', 0), Handler)
        self.files, self.break_once, self.cut, self.log, self.ranges_allowed = {}, set(), 0, [], True

class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *a): pass
    def do_GET(self):
        s, name = self.server, self.path.rsplit('/', 1)[-1]
        s.log.append((name, self.headers.get('Range')))
        if name not in s.files: return self.send_error(404)
        data, start = s.files[name], 0
        if s.ranges_allowed and (m := re.match(r'bytes=(\d+)-', self.headers.get('Range') or '')):
            start = int(m[1])
            if start >= len(data): return self.send_error(416)
        self.send_response(206 if start else 200)
        self.send_header('Content-Length', len(data)-start); self.end_headers()
        if name in s.break_once:
            s.break_once.discard(name); self.wfile.write(data[start:start+s.cut]); self.close_connection = True
        else: self.wfile.write(data[start:])

def tone(path, sr, channels, seconds=.5, hz=440.):
    t = np.arange(int(sr*seconds))/sr
    wave = .5*np.sin(2*np.pi*hz*t)
    sf.write(path, np.stack([wave*(1+.2*c) for c in range(channels)], 1), sr)
    return Path(path).read_bytes()

@pytest.fixture
def server(tmp_path, monkeypatch):
    "A made-up data set on a local server: one stereo Ogg, two mono WAVs; the cache in a folder of its own."
    s = Server()
    s.files = {'a.ogg': tone(tmp_path/'a.ogg', 44100, 2), 'b.wav': tone(tmp_path/'b.wav', 48000, 1), 'c.wav': tone(tmp_path/'c.wav', 16000, 1)}
    threading.Thread(target=s.serve_forever, args=(.02,), daemon=True).start()
    entry = dict(url=f'http://127.0.0.1:{s.server_port}/x/', licence='CC0-1.0', credit='nobody', split={'test': ['b'], 'validation': ['c']},
                 files={k[0]: [k, hashlib.sha256(v).hexdigest(), len(v)] for k, v in s.files.items()})
    monkeypatch.setattr(datasets, 'registry', lambda: {'tones': entry})
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path/'cache'))
    monkeypatch.delenv('TFINPAINT_DATA', raising=False)
    monkeypatch.setattr('time.sleep', lambda s: None) # pooch waits between attempts
    s.entry = entry
    yield s
    s.shutdown(); s.server_close()

def test_download_prepare_and_read(server):
    train, = datasets.load_tracks('tones', 'train')
    assert (train.name, train.sr, train.wave.dtype, len(train.wave)) == ('a', 16000, torch.float32, 8000)
    spectrum = torch.fft.rfft(train.wave[2000:6000]).abs()
    assert spectrum.argmax() == 110                                        # 440 Hz in bins of 4 Hz
    assert train.wave[2000:6000].abs().max() == pytest.approx(.55, abs=.02) # mean of channels at .5 and .6
    assert [n for n, _ in server.log] == ['a.ogg']                         # only what the split needs
    assert torch.equal(datasets.load_tracks('tones', 'train')[0].wave, train.wave) and len(server.log) == 1 # prepared once
    (Path(os.environ['XDG_CACHE_HOME'])/'tfinpaint'/'tones_16k'/'a.flac').unlink()
    datasets.load_tracks('tones', 'train')
    assert len(server.log) == 1                                            # the checked original is not fetched again
    same, = datasets.load_tracks('tones', 'validation')                    # already 16 kHz mono: the samples themselves
    import io
    assert torch.allclose(same.wave, torch.from_numpy(sf.read(io.BytesIO(server.files['c.wav']), dtype='float32')[0]), atol=2**-15)

def test_an_interrupted_transfer_goes_on(server, tmp_path):
    server.break_once, server.cut = {'b.wav'}, 20000
    f, = datasets.fetch('tones', ['b'], tmp_path/'c')
    assert f.read_bytes() == server.files['b.wav']
    assert server.log == [('b.wav', None), ('b.wav', 'bytes=16384-')] # whole blocks of 8192 bytes were kept

def test_a_partial_file_of_an_earlier_run_is_used(server, tmp_path, monkeypatch):
    import requests
    server.break_once, server.cut = {'b.wav'}, 20000
    real = requests.get
    def once(*a, **k): # the first run dies after one attempt
        if server.log: raise KeyboardInterrupt
        return real(*a, **k)
    monkeypatch.setattr(requests, 'get', once)
    with pytest.raises(KeyboardInterrupt): datasets.fetch('tones', ['b'], tmp_path/'c')
    monkeypatch.setattr(requests, 'get', real)
    f, = datasets.fetch('tones', ['b'], tmp_path/'c')
    assert f.read_bytes() == server.files['b.wav'] and server.log[-1] == ('b.wav', 'bytes=16384-')
    assert [p.name for p in f.parent.iterdir()] == ['b.wav']               # nothing half-made is left

def test_a_server_without_ranges(server, tmp_path):
    server.ranges_allowed, server.break_once, server.cut = False, {'b.wav'}, 20000
    f, = datasets.fetch('tones', ['b'], tmp_path/'c')
    assert f.read_bytes() == server.files['b.wav']

def test_a_wrong_partial_file_is_thrown_away(server, tmp_path):
    url = server.entry['url'] + 'b.wav'
    folder = tmp_path/'c'/'originals'/'tones'; folder.mkdir(parents=True)
    for junk in (b'x'*1000, b'x'*10**6): # shorter and longer than the file
        (folder/(hashlib.sha256(url.encode()).hexdigest()[:16] + '.part')).write_bytes(junk)
        f, = datasets.fetch('tones', ['b'], tmp_path/'c')
        assert f.read_bytes() == server.files['b.wav']
        f.unlink()

def test_a_wrong_hash_is_refused(server, tmp_path):
    server.files['b.wav'] = server.files['b.wav'][:-2] + b'\1\2'
    with pytest.raises(OSError, match='b.wav is not the file that was published'): datasets.fetch('tones', ['b'], tmp_path/'c')
    assert not list((tmp_path/'c').rglob('*.wav'))
    with pytest.raises(OSError, match='SHA-256'): datasets.load_tracks('tones', 'test')
    assert not list(Path(os.environ['XDG_CACHE_HOME']).rglob('*.flac'))

def test_a_file_that_left_the_web(server, tmp_path):
    del server.files['b.wav']
    with pytest.raises(FileNotFoundError, match='b.wav answers 404 .*TFINPAINT_DATA'): datasets.fetch('tones', ['b'], tmp_path/'c')
    assert len(server.log) == 1 # no use in asking again

def test_no_connection(server, tmp_path):
    server.entry['url'] = 'http://127.0.0.1:9/x/'
    with pytest.raises(OSError, match='check the connection'): datasets.fetch('tones', ['b'], tmp_path/'c')

def test_a_file_that_is_not_audio(server, tmp_path):
    server.files['b.wav'] = b'no sound at all'
    server.entry['files']['b'] = ['b.wav', hashlib.sha256(b'no sound at all').hexdigest(), 15]
    with pytest.raises(Exception, match='b.wav'): datasets.prepare('tones', names=['b'], cache=tmp_path/'c')
    assert not list((tmp_path/'c'/'tones_16k').iterdir())

def test_unknown_names(server):
    with pytest.raises(ValueError, match="no file 'z'"): datasets.fetch('tones', ['z'])
    with pytest.raises(ValueError, match='there are: tones'): datasets.load_tracks('drums')
    with pytest.raises(ValueError, match='it has: test, train, validation'): datasets.load_tracks('tones', 'tset')
    assert not server.log

def test_a_folder_that_lacks_files(server, tmp_path, monkeypatch):
    monkeypatch.setenv('TFINPAINT_DATA', str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r'1 of 1 files are missing .*b\.flac'): datasets.load_tracks('tones', 'test')
    assert not server.log # a folder that was named is trusted: nothing is downloaded behind its back

def picture(mode, size, **save):
    import io
    from PIL import Image
    x = np.linspace(0, 255, size[0]*size[1]).reshape(size[::-1]).astype(np.uint8)
    out = io.BytesIO(); Image.fromarray(x).convert(mode).save(out, **save)
    return out.getvalue()

def test_pictures_are_fetched_cropped_and_read(server, monkeypatch):
    import io, tarfile
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode='w:xz') as t:
        for name, data in (('./usr/a.jpg', picture('RGB', (3000, 1500), format='JPEG', quality=95)), ('./usr/b.jpg', picture('L', (300, 200), format='JPEG'))):
            info = tarfile.TarInfo(name); info.size = len(data); t.addfile(info, io.BytesIO(data))
    member = lambda name, data: f'{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(data):<10}`\n'.encode() + data + b'\n'*(len(data) % 2)
    server.files = {'p.deb': b'!<arch>\n' + member('debian-binary', b'2.0\n') + member('data.tar.xz', tar.getvalue()), 'f.png': picture('RGB', (300, 300), format='PNG')}
    entry = lambda name, *more: [name, hashlib.sha256(server.files[name]).hexdigest(), len(server.files[name]), *more]
    base = dict(url=server.entry['url'], licence='CC0-1.0', credit='nobody')
    monkeypatch.setattr(datasets, 'registry', lambda: {
        'photographs': dict(base, split={'test': ['b']}, files={'a': entry('p.deb', 'usr/a.jpg'), 'b': entry('p.deb', 'usr/b.jpg')}),
        'faces_congress': dict(base, split={'modulo': 10, 'test': 0}, files={'f': entry('f.png', [150., 150., 128.])})})
    a, = datasets.load_pictures('photographs', 'train')
    assert a.pixels.shape == (1, 512, 1024) and a.pixels.dtype == torch.uint8 and 0 <= a.pixels[0, 0, 0] < 8 and a.pixels[0, -1, -1] > 247
    b, = datasets.load_pictures('photographs', 'test')
    assert b.pixels.shape == (1, 200, 300) and [n for n, _ in server.log] == ['p.deb']  # small ones stay; the archive is fetched once
    face, = datasets.load_pictures('faces_congress', 'test')
    rows = face.pixels[0].float().mean(1)                                               # a ramp over 300 rows, read at every second one
    want = torch.linspace(0, 255, 300)[150 + 2*(torch.arange(64)-32) + 0]
    assert face.pixels.shape == (3, 64, 64) and (rows - want).abs().max() < 2
    with pytest.raises(ValueError, match='load_pictures'): datasets.load_tracks('photographs')

def test_a_package_that_ships_another_file(server, monkeypatch):
    monkeypatch.setattr(datasets, 'registry', lambda: {'photographs': dict(url='x/', licence='l', credit='c', split={'test': ['camera', 'gone']}, files={
        'camera': ['package:skimage/data/camera.png', '0'*64, 1], 'gone': ['package:no_such_package/x.png', '0'*64, 1]})})
    with pytest.raises(OSError, match='not the known file'): datasets.fetch('photographs', ['camera'])
    with pytest.raises(FileNotFoundError, match='not installed'): datasets.fetch('photographs', ['gone'])

def test_the_shipped_registry():
    reg = datasets.registry()
    assert {k: len(v['files']) for k, v in reg.items()} == {'piano_ishizaka': 12, 'speech_kathleen': 1132, 'faces_congress': 534, 'photographs': 25}
    for d in reg.values():
        assert d['url'].startswith('https://') and d['url'].endswith('/') and d['licence'] and d['credit']
        for f in d['files'].values(): assert re.fullmatch('[0-9a-f]{64}', f[1]) and f[2] > 0

@pytest.mark.skipif('TFINPAINT_DATA' not in os.environ, reason='needs TFINPAINT_DATA')
def test_faces_of_the_data_folder():
    with np.load(Path(os.environ['TFINPAINT_DATA'])/'faces_congress64.npz') as f: x, names = f['x'], [str(n) for n in f['names']]
    parts = {s: datasets.load_pictures('faces_congress', s) for s in ('train', 'validation', 'test')}
    assert {s: len(p) for s, p in parts.items()} == {'train': 427, 'validation': 53, 'test': 54}
    test = {p.name.removesuffix('.jpg'): p.pixels.permute(1, 2, 0).numpy() for p in parts['test']}
    for i, n in enumerate(names): # the published rule: every tenth in the order of names is for testing
        assert (n.removesuffix('.jpg') in test) == (sorted(names).index(n) % 10 == 0)
        if n.removesuffix('.jpg') in test: assert (test[n.removesuffix('.jpg')] == x[i]).all()

@pytest.mark.skipif('TFINPAINT_DATA' not in os.environ, reason='needs TFINPAINT_DATA')
def test_the_data_folder_has_what_the_registry_names():
    for name in ('piano_ishizaka', 'speech_kathleen'):
        assert {p.stem for p in (Path(os.environ['TFINPAINT_DATA'])/f'{name}_16k').glob('*.flac')} == set(datasets.registry()[name]['files'])
    source = Path(os.environ['TFINPAINT_DATA'])/'sources.json'
    if source.exists():
        for name, d in json.loads(source.read_text()).items():
            mine = datasets.registry()[name]
            assert {f['name']: (f['url'], f['sha256'], f['bytes']) for f in d['files']} == \
                   {n: (mine['url'] + f[0], f[1], f[2]) for n, f in mine['files'].items()}

# Augmentation

def old_windows(tracks, length, n, generator, level_db=-27., gain_db=6.):
    "The draw that the first models were trained with, before speed and mixtures: their trainings go on with the same windows."
    sizes = torch.tensor([len(t.wave)-length+1 for t in tracks], dtype=torch.float64)
    which = torch.multinomial(sizes, n, replacement=True, generator=generator)
    where, gain = torch.rand(n, generator=generator, dtype=torch.float64), torch.rand(n, generator=generator)*2-1
    levels = [10**(level_db/20)/t.wave.std().clamp_min(1e-9) for t in tracks]
    return torch.stack([tracks[i].wave[int(u*sizes[i]):int(u*sizes[i])+length]*levels[i]*10**(g*gain_db/20)
                        for i, u, g in zip(which.tolist(), where.tolist(), gain.tolist())])

def tracks(seed=0, sizes=(30000, 50000)):
    g = torch.Generator().manual_seed(seed)
    return [datasets.Track(str(i), torch.randn(n, generator=g), 16000) for i, n in enumerate(sizes)]

@pytest.mark.parametrize('seed', range(5))
def test_without_augmentation_the_windows_are_those_of_before(seed):
    g = lambda: torch.Generator().manual_seed(seed)
    assert torch.equal(datasets.random_windows(tracks(), 4000, 40, g()), old_windows(tracks(), 4000, 40, g()))
    a, b = g(), g()
    datasets.random_windows(tracks(), 4000, 40, a); old_windows(tracks(), 4000, 40, b)
    assert torch.equal(a.get_state(), b.get_state()) # and the generator is left where it was left

@pytest.mark.parametrize('rate', [.9, .97, 1.02, 1.1])
def test_speed_moves_all_frequencies_by_its_factor(rate):
    t = torch.arange(40000, dtype=torch.float64)/16000
    hz = [300., 1100., 4700.]
    wave = sum(torch.sin(2*np.pi*f*t) for f in hz).float()
    y = datasets.at_speed(wave, 3000, 16000, rate).double()
    exact = round((16000+512)*rate)/(16000+512) # the factor is met to one sample in length, the start to half a sample
    at = 3000 - round(256*rate) + exact*(256 + torch.arange(16000, dtype=torch.float64))
    assert abs(exact - rate) < 1e-4 and abs(at[0] - 3000) <= .51
    want = sum(torch.sin(2*np.pi*f/16000*at) for f in hz)
    assert (y - want).square().mean().sqrt() < .01*want.std()

def test_what_a_faster_window_cannot_hold_is_gone_not_folded():
    t = torch.arange(40000, dtype=torch.float64)/16000
    y = datasets.at_speed(torch.sin(2*np.pi*7800*t).float(), 3000, 16000, 1.05) # 8,190 Hz would be heard as 7,810
    assert y.std() < .02

def test_mixing_keeps_the_level_and_mixes():
    quiet = [datasets.Track('a', torch.sin(2*np.pi*500/16000*torch.arange(40000.)), 16000), datasets.Track('b', torch.sin(2*np.pi*2000/16000*torch.arange(40000.)), 16000)]
    draw = lambda mix: datasets.random_windows(quiet, 16000, 300, torch.Generator().manual_seed(1), gain_db=0., mix=mix)
    both = lambda w: ((s := torch.fft.rfft(w, dim=1).abs())[:, 490:510].amax(1) > .1*s.amax(1)) & (s[:, 1990:2010].amax(1) > .1*s.amax(1))
    assert not both(draw(0.)).any()
    assert both(draw(1.)).float().mean() == pytest.approx(.5, abs=.12)   # half of the pairs are of one kind
    assert both(draw(.5)).float().mean() == pytest.approx(.25, abs=.1)
    noise = datasets.random_windows(tracks(), 16000, 300, torch.Generator().manual_seed(1), gain_db=0., mix=1.)
    assert 10*torch.log10(noise.square().mean()) == pytest.approx(-27, abs=.05)

def test_speed_and_mixture_resume():
    "Windows are a function of the generator, also with every change switched on."
    draw = lambda: datasets.random_windows(tracks(), 4000, 20, torch.Generator().manual_seed(3), speed=.05, mix=.5)
    assert torch.equal(draw(), draw())

# A folder of the reader's own

@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path/'cache')); monkeypatch.delenv('TFINPAINT_DATA', raising=False)
    source = tmp_path/'my sounds'; (source/'disc 2').mkdir(parents=True)
    for i, (name, sr, channels) in enumerate([('a.wav', 44100, 2), ('b.flac', 48000, 1), ('c.ogg', 16000, 1), ('disc 2/a.wav', 8000, 2)]): tone(source/name, sr, channels, 2., 300 + 100*i)
    return source

def test_a_folder_of_mixed_rates_and_channels(folder):
    done = datasets.prepare_folder(folder, 'mine')
    assert done.new == 4 and len(done.used()) == 4 and {t.sr for s in ('train', 'validation', 'test') for t in done.tracks(s)} == {16000}
    for s in ('train', 'validation', 'test'):
        for t in done.tracks(s):
            hz = 300 + 100*[r['path'] for r in done.rows].index(next(r['path'] for r in done.rows if r['path'].startswith(t.name)))
            order = ['a', 'b', 'c', 'disc 2/a']
            assert torch.fft.rfft(t.wave[4000:20000]).abs().argmax() == 300 + 100*order.index(t.name) and hz
    text = done.report()
    assert '1 x 8000 Hz' in text and '1 x 48000 Hz' in text and '2 x 1, 2 x 2' in text
    names = [t.name for s in ('train', 'validation', 'test') for t in datasets.load_tracks('mine', s)] # found by name afterwards
    assert sorted(names) == ['a', 'b', 'c', 'disc 2/a']

def test_what_is_of_no_use_is_named(folder):
    (folder/'broken.wav').write_bytes(b'RIFF....'); (folder/'empty.mp3').write_bytes(b''); (folder/'phone.m4a').write_bytes(b'x'); (folder/'notes.txt').write_text('x'); (folder/'._a.wav').write_bytes(b'x')
    sf.write(folder/'silent.wav', np.zeros(40000), 16000); sf.write(folder/'short.wav', .1*np.ones(9000), 16000)
    t = np.sin(np.arange(40000)); sf.write(folder/'against.wav', np.stack([t, -t], 1), 16000)
    sf.write(folder/'nan.wav', np.full(40000, np.nan, np.float32), 16000, subtype='FLOAT')
    done = datasets.prepare_folder(folder, 'mine')
    why = {r['path']: r['skipped'] for r in done.rows if 'skipped' in r}
    assert sorted(why) == ['against.wav', 'broken.wav', 'empty.mp3', 'nan.wav', 'phone.m4a', 'short.wav', 'silent.wav'] and len(done.used()) == 4
    for name, text in [('broken.wav', 'cannot be read'), ('empty.mp3', 'cannot be read'), ('phone.m4a', 'convert it to FLAC'), ('silent.wav', 'is silent'), ('short.wav', 'shorter than'),
                       ('against.wav', 'cancel'), ('nan.wav', 'not numbers')]:
        assert text in why[name] and f'left out: {name}: ' in done.report()
    assert len(list(done.folder.glob('*.flac'))) == 4 and not [p for p in done.folder.iterdir() if p.suffix not in ('.flac', '.jsonl')]

def test_the_same_folder_twice_and_after_changes(folder):
    done = datasets.prepare_folder(folder, 'mine')
    before = {p: p.stat().st_mtime_ns for p in done.folder.glob('*.flac')}
    again = datasets.prepare_folder(folder, 'mine')
    assert again.new == 0 and again.rows == done.rows and before == {p: p.stat().st_mtime_ns for p in done.folder.glob('*.flac')}
    tone(folder/'d.wav', 16000, 1, 2.); tone(folder/'c.ogg', 16000, 1, 3.); (folder/'b.flac').unlink()   # one new, one changed, one gone
    third = datasets.prepare_folder(folder, 'mine')
    assert third.new == 2 and sorted(r['path'] for r in third.rows) == ['a.wav', 'c.ogg', 'd.wav', 'disc 2/a.wav'] and len(list(third.folder.glob('*.flac'))) == 4
    kept = {r['path']: r['split'] for r in done.rows}
    assert all(kept.get(r['path'], r['split']) == r['split'] for r in third.rows)                        # nobody changes sides

def test_an_interrupted_preparation_goes_on(folder, monkeypatch):
    real, seen = datasets._take, []
    def twice(file, *a):
        if len(seen) == 2: raise KeyboardInterrupt
        seen.append(file.name); return real(file, *a)
    monkeypatch.setattr(datasets, '_take', twice)
    with pytest.raises(KeyboardInterrupt): datasets.prepare_folder(folder, 'mine')
    monkeypatch.setattr(datasets, '_take', real)
    manifest = Path(os.environ['XDG_CACHE_HOME'])/'tfinpaint'/'mine_16k'/'manifest.jsonl'
    with open(manifest, 'a') as f: f.write('{"path": "c.o')                                              # a line that was cut off
    done = datasets.prepare_folder(folder, 'mine')
    assert done.new == 2 and len(done.used()) == 4
    assert done.rows == datasets.prepare_folder(folder, 'other').rows                                    # as if nothing had happened

def test_folders_that_cannot_be_used(folder, tmp_path):
    (tmp_path/'empty').mkdir(); (tmp_path/'bad').mkdir(); (tmp_path/'bad'/'x.wav').write_bytes(b'')
    with pytest.raises(ValueError, match='holds no sound files'): datasets.prepare_folder(tmp_path/'empty')
    with pytest.raises(ValueError, match='none of the 1 sound files .* x.wav: cannot be read'): datasets.prepare_folder(tmp_path/'bad')
    with pytest.raises(ValueError, match='no folder'): datasets.prepare_folder(tmp_path/'nothing')
    with pytest.raises(ValueError, match='cannot name'): datasets.prepare_folder(folder, 'piano_ishizaka')
    datasets.prepare_folder(folder, 'mine')
    with pytest.raises(ValueError, match='is the name of .*my sounds already'): datasets.prepare_folder(folder/'disc 2', 'mine')
    two = datasets.prepare_folder(folder/'disc 2', 'two')
    with pytest.raises(ValueError, match='three at least'): [two.tracks(s) for s in ('train', 'validation', 'test')]
    with pytest.raises(ValueError, match='has no split'): two.tracks('tets')
    with pytest.raises(ValueError, match='unknown data set .*--name other'): datasets.load_tracks('other')

def test_a_path_in_a_config(folder):
    names = [t.name for s in ('train', 'validation', 'test') for t in datasets.load_tracks(str(folder), s, 8000)]
    assert sorted(names) == ['a', 'b', 'c', 'disc 2/a']
    assert 'disc 2/a.wav' not in datasets.make_ready(str(folder), sr=8000) and datasets.find_folder(str(folder), 8000).new == 0

def test_splits_given_by_folders_and_tables(folder):
    for s in ('train-clean-100', 'dev-clean', 'test-clean'): tone((folder/s).with_suffix('.wav'), 16000, 1, 2.); (folder/s).mkdir(); ((folder/s).with_suffix('.wav')).rename(folder/s/'x.wav')
    (folder/'list.csv').write_text('split,audio_filename\nvalidation,a.wav\ntest,disc 2/a.wav\n'); (folder/'other.csv').write_text('a,b\n1,2\n')
    side = {r['path']: r['split'] for r in datasets.prepare_folder(folder, 'mine').rows}
    assert (side['train-clean-100/x.wav'], side['dev-clean/x.wav'], side['test-clean/x.wav'], side['a.wav'], side['disc 2/a.wav']) == ('train', 'validation', 'test', 'validation', 'test')

def test_more_sound_than_memory(folder):
    done = datasets.prepare_folder(folder, 'mine')
    for r in done.rows: r['seconds'] = 1e9
    with pytest.raises(MemoryError, match='GB of memory'): done.tracks('train')

# Archives by name

def test_an_archive_is_fetched_checked_unpacked_and_prepared(server, monkeypatch, tmp_path, folder):
    import io, tarfile, zipfile
    tar, z = io.BytesIO(), io.BytesIO()
    (folder/'noise.bin').write_bytes(np.random.default_rng(0).bytes(20000)) # does not shrink
    with tarfile.open(fileobj=tar, mode='w:gz') as t: t.add(folder, 'Corpus/train-x')
    with zipfile.ZipFile(z, 'w') as f: f.write(folder/'a.wav', 'Corpus/dev-x/a.wav'); f.write(folder/'c.ogg', 'Corpus/test-x/c.ogg')
    server.files = {'one.tar.gz': tar.getvalue(), 'two.zip': z.getvalue()}
    entry = dict(url=server.entry['url'], licence='x', credit='y', hours=1, files={k: [hashlib.sha256(v).hexdigest(), 1e-6] for k, v in server.files.items()})
    monkeypatch.setattr(datasets, 'ARCHIVES', {'corpus': entry})
    with pytest.raises(ValueError, match='tfinpaint data prepare corpus'): datasets.load_tracks('corpus')
    server.break_once, server.cut = {'one.tar.gz'}, 10000
    assert '6 files' in datasets.make_ready('corpus', progress=False) and ('one.tar.gz', 'bytes=8192-') in server.log
    assert [len(datasets.load_tracks('corpus', s)) for s in ('train', 'validation', 'test')] == [4, 1, 1]
    n = len(server.log)
    assert '0 of them new' in datasets.make_ready('corpus', progress=False) and len(server.log) == n
    entry['files']['one.tar.gz'][0] = '0'*64
    with pytest.raises(OSError, match='SHA-256 differs'): datasets.fetch_archives('corpus', tmp_path/'c')
    entry['files']['one.tar.gz'][1] = 1e9
    with pytest.raises(OSError, match='choose another folder with --cache'): datasets.fetch_archives('corpus', tmp_path/'c')

def test_the_archives_of_the_package():
    for d in datasets.ARCHIVES.values():
        assert d['url'].startswith('https://') and d['url'].endswith('/') and d['licence'] and d['credit'] and d['hours'] > 0
        for h, gigabytes in d['files'].values(): assert re.fullmatch('[0-9a-f]{64}', h) and gigabytes > 0
    hashes = {h for d in datasets.ARCHIVES.values() for h, _ in d['files'].values()}
    for module in ('librispeech', 'ljspeech'): # the hashes that torchaudio checks against
        import importlib.util
        source = (Path(importlib.util.find_spec('torchaudio').origin).parent/'datasets'/f'{module}.py').read_text()
        assert len([h for h in hashes if h in source]) == {'librispeech': 3, 'ljspeech': 1}[module]
