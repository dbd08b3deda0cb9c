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
