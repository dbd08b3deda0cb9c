"""pyproject.toml is the truth; settings.ini, environment.yml, _quarto.yml, the table of contents and the citation agree with it."""
import configparser, re, shutil, subprocess, sys, tomllib, zipfile
from pathlib import Path
import pytest, yaml
import tfinpaint

ROOT = Path(__file__).parent.parent
PYPROJECT = tomllib.loads((ROOT/'pyproject.toml').read_text())
PROJECT, NBDEV = PYPROJECT['project'], PYPROJECT['tool']['nbdev']
QUARTO = yaml.safe_load((ROOT/'_quarto.yml').read_text())
TOC = yaml.safe_load((ROOT/'nbs'/'_toc.yml').read_text())
CONFIG = yaml.safe_load((ROOT/'nbs'/'_config.yml').read_text())

@pytest.fixture(scope='module')
def settings():
    ini = configparser.ConfigParser()
    ini.read(ROOT/'settings.ini')
    return ini['DEFAULT']

def chapters(): return [TOC['root'], *(c['file'] for p in TOC['parts'] for c in p['chapters'])]

def test_settings_ini(settings):
    assert settings['lib_name'] == PROJECT['name'] and settings['description'] == PROJECT['description']
    assert settings['author'] == PROJECT['authors'][0]['name'] and '>=' + settings['min_python'] == PROJECT['requires-python']
    assert settings['git_url'] == PROJECT['urls']['Repository'] == f"https://github.com/{settings['user']}/{settings['repo']}"
    for k in ('nbs_path', 'lib_path', 'doc_path', 'tst_flags', 'branch'): assert settings[k] == NBDEV[k], k
    for k in ('recursive', 'clean_ids', 'custom_sidebar'): assert settings.getboolean(k) == NBDEV[k], k
    for k in ('allowed_metadata_keys', 'allowed_cell_metadata_keys'): assert settings[k].split() == NBDEV[k], k
    assert settings['requirements'].split() == PROJECT['dependencies']
    assert settings['console_scripts'].split('=', 1) == list(*PROJECT['scripts'].items())

def test_one_version(settings):
    citation = yaml.safe_load((ROOT/'CITATION.cff').read_text())
    newest = re.search(r'^## (\S+)', (ROOT/'CHANGELOG.md').read_text(), re.M)[1]
    assert tfinpaint.__version__ == settings['version'] == citation['version'] == newest

def test_licence():
    citation = yaml.safe_load((ROOT/'CITATION.cff').read_text())
    assert PROJECT['license'] == citation['license'] == 'Apache-2.0'
    assert 'Apache License' in (ROOT/'LICENSE').read_text()[:200] and all((ROOT/f).is_file() for f in PROJECT['license-files'])

def test_metadata_keys_are_lists():
    "A string makes nbdev-clean delete all tags, `parameters` included; papermill then runs with the defaults."
    assert NBDEV['allowed_cell_metadata_keys'] == ['tags'] and NBDEV['allowed_metadata_keys'] == ['tfinpaint']

def test_environment():
    env = yaml.safe_load((ROOT/'environment.yml').read_text())
    names = [d for d in env['dependencies'] if isinstance(d, str)]
    pip = next(d['pip'] for d in env['dependencies'] if isinstance(d, dict))
    assert env['name'] == PROJECT['name'] and env['channels'] == ['conda-forge'] and any(n.startswith('quarto') for n in names)
    assert pip == ['-e .[dev]'] and 'tfinpaint[book]' in PROJECT['optional-dependencies']['dev']
    assert f"python{PROJECT['requires-python'].replace('>=', '=')}" in names

def test_quarto_and_jupyter_book_hold_the_same_book():
    side = QUARTO['website']['sidebar']['contents']
    assert [f"{c}.ipynb" for c in chapters()] == [side[0], *(c for s in side[1:] for c in s['contents'])]
    assert [p['caption'] for p in TOC['parts']] == [s['section'] for s in side[1:]]
    assert QUARTO['website']['title'] == CONFIG['title'] == PROJECT['name']
    assert 'media/**' in QUARTO['project']['resources'] and CONFIG['repository']['url'] == PROJECT['urls']['Repository']
    assert QUARTO['bibliography'] in CONFIG['bibtex_bibfiles'] and (ROOT/'nbs'/QUARTO['bibliography']).is_file()
    assert (ROOT/'nbs'/'_quarto.yml').read_text() == (ROOT/'_quarto.yml').read_text()

def test_every_notebook_is_in_the_book():
    on_disk = {p.relative_to(ROOT/'nbs').with_suffix('').as_posix() for p in (ROOT/'nbs').rglob('*.ipynb') if not {'.', '_'} & {q[0] for q in p.relative_to(ROOT/'nbs').parts}}
    assert sorted(chapters()) == sorted(on_disk)

def test_package_data():
    "Weights, model cards, examples, configs and registries go into the wheel."
    package = ROOT/'tfinpaint'
    shipped = {p for pattern in PYPROJECT['tool']['setuptools']['package-data']['tfinpaint'] for p in package.glob(pattern)}
    data = {p for p in package.rglob('*') if p.is_file() and p.suffix not in ('.py', '.pyc') and '__pycache__' not in p.parts}
    assert data and not data - shipped
    for weights in package.glob('weights/*.safetensors'): assert weights.with_suffix('.md').is_file(), f'{weights.name} has no model card'

def test_wheel(tmp_path):
    "The wheel holds every module and every data file, and none of the book."
    for n in ('tfinpaint', 'pyproject.toml', 'README.md', *PROJECT['license-files']):
        (shutil.copytree if (ROOT/n).is_dir() else shutil.copy)(ROOT/n, tmp_path/n)
    build = [sys.executable, '-m', 'build', '--wheel', '--no-isolation', '--outdir', str(tmp_path/'dist'), str(tmp_path)]
    r = subprocess.run(build, capture_output=True, text=True, timeout=300)
    assert r.returncode == 0, r.stdout + r.stderr
    wheel, = (tmp_path/'dist').glob('*.whl')
    inside = {n for n in zipfile.ZipFile(wheel).namelist() if '.dist-info/' not in n}
    assert inside == {p.relative_to(ROOT).as_posix() for p in (ROOT/'tfinpaint').rglob('*') if p.is_file() and '__pycache__' not in p.parts}

def test_make_targets():
    rules = (ROOT/'Makefile').read_text()
    for t in ('demo', 'test', 'book', 'serve', 'clean', 'readme', 'export'): assert re.search(rf'^{t}:', rules, re.M), t
    ci = (ROOT/'.ci'/'run').read_text().split('\n')
    assert [l for l in ci if l.startswith('make')] == ['make test', 'make book']

# Training configs

AUDIO = ('piano_16k', 'speech_16k', 'synthetic_16k', 'piano_16k_gpu', 'speech_16k_gpu')

def small(name='synthetic_16k', **changes):
    "A config of the package at a size that a test can train: 64 x 32 pictures of 0.14 s, 8 channels."
    from tfinpaint.audio.models import load_config
    c = load_config(name)
    c['representation'] |= dict(sr=8000, n_fft=126, hop_length=32, n_frames=32)
    c['network'] |= dict(channels=8, multipliers=c['network']['multipliers'][:2], attention=[1], fold_factors=[8, 4], n_blocks=1)
    c['training'] |= dict(batch_size=4, valid_size=8, valid_every=2, warmup=2, n_steps=4)
    for name, value in changes.items(): c[name] |= value
    return c

def weights(trainer): return {k: v.clone() for k, v in trainer.net.state_dict().items()}

@pytest.mark.parametrize('name', AUDIO)
def test_a_shipped_config_builds_its_network_and_takes_a_step(name, tmp_path, monkeypatch):
    "At full size only the shapes are looked at; the step is taken at a reduced size, on a folder of two made-up recordings."
    import torch
    from tfinpaint.audio import models
    from tfinpaint.audio.datasets import Track
    from tfinpaint.diffusion.unet import UNet
    config = models.load_config(name)
    assert config['name'] == name and models.load_config('piano_16k')['representation'] == config['representation'] # all see the same
    with torch.device('meta'): net = UNet(**config['network'])
    parameters = sum(p.numel() for p in net.parameters())
    assert 2*parameters < 12e6 or name.endswith('_gpu') and parameters > 50e6
    assert all(n % m == 0 for n, m in zip(models.representation(config['representation']).shape[1:], net.multiple))
    g = torch.Generator().manual_seed(0)
    monkeypatch.setattr(models, 'load_tracks', lambda *a: [Track(str(i), torch.randn(20000, generator=g), 8000) for i in range(2)])
    trainer = models.make_trainer(small(name), tmp_path)
    assert torch.isfinite(torch.tensor(trainer.train_step())) and trainer.step == 1

@pytest.mark.parametrize('changes', [{}, {'data': {'kinds': ['chirp', 'string']}}])
def test_a_resumed_synthetic_training_equals_the_uninterrupted_one(changes, tmp_path):
    import torch
    from tfinpaint.audio.models import make_trainer
    whole = make_trainer(small(**changes), tmp_path/'a').fit(progress=False, log=False)
    half = small(**changes); half['training']['n_steps'] = 2
    make_trainer(half, tmp_path/'b').fit(progress=False, log=False)
    again = make_trainer(small(**changes), tmp_path/'b')
    assert again.resume() and again.step == 2
    again.fit(progress=False, log=False)
    assert all(torch.equal(v, weights(again)[k]) for k, v in weights(whole).items()) and torch.equal(whole.valid, again.valid)
    assert [{k: v for k, v in r.items() if 'hours' not in k} for r in whole.curve] == [{k: v for k, v in r.items() if 'hours' not in k} for r in again.curve]

def test_augmentation_leaves_the_validation_windows_alone(tmp_path, monkeypatch):
    import torch
    from tfinpaint.audio import models
    from tfinpaint.audio.datasets import Track
    recording = [Track('a', torch.randn(20000, generator=torch.Generator().manual_seed(0)), 8000)]
    monkeypatch.setattr(models, 'load_tracks', lambda *a: recording)
    plain, changed = (models.make_trainer(small('piano_16k', data=d), tmp_path/str(i)) for i, d in enumerate([{}, dict(speed=.05, mix=.5)]))
    draw = lambda t: t.batch(8, torch.Generator().manual_seed(1))
    assert torch.equal(plain.valid, changed.valid) and not torch.equal(draw(plain), draw(changed))

@pytest.mark.parametrize('section, change, key', [('data', {'gain_db': 3}, 'data.gain_db = 6, the config says 3'), ('data', {'kinds': ['chirp']}, 'data.kinds = None'),
    ('representation', {'floor_db': -80}, 'representation.floor_db = -90'), ('schedule', {'n_steps': 500}, 'schedule.n_steps = 1000'), ('network', {'position': False}, 'network.position = True'),
    ('network', {'channels': 16}, 'network.channels = 8')])
def test_a_changed_config_does_not_go_on(section, change, key, tmp_path):
    from tfinpaint.audio.models import make_trainer
    make_trainer(small(training={'n_steps': 1}), tmp_path).fit(progress=False, log=False)
    make_trainer(small(training={'n_steps': 3}, data={'gain_db': 6.0}, network={'dropout': 0.}), tmp_path) # the same, written in another way
    with pytest.raises(ValueError, match=key): make_trainer(small(**{section: change}), tmp_path)
    trainer = make_trainer(small(training={'lr': 1e-3}), tmp_path)
    with pytest.raises(ValueError, match=r'other settings \(lr\)'): trainer.resume()

def test_weights_that_see_something_else_are_no_start(tmp_path):
    from tfinpaint.audio.models import make_trainer
    make_trainer(small(training={'n_steps': 1}), tmp_path/'a').fit(progress=False, log=False)
    path = str(tmp_path/'a'/'ema.safetensors')
    for section, change, key in [('representation', {'sr': 16000}, 'representation.sr = 8000, the config says 16000'), ('representation', {'offset_db': -50}, 'representation.offset_db'),
                                 ('schedule', {'name': 'linear'}, 'schedule.name = cosine'), ('network', {'channels': 16}, 'network.channels = 8'), ('training', {'predicts': 'eps'}, 'training.predicts = v')]:
        with pytest.raises(ValueError, match=key): make_trainer(small(**{section: change}), tmp_path/'b', start_from=path)
    with pytest.raises(ValueError, match='representation.kind = pictures'): # a model of pictures
        from tfinpaint.audio import models
        from tfinpaint.diffusion.training import save_weights
        other = models.load_config('faces_64')
        save_weights(tmp_path/'faces.safetensors', make_trainer(small(), tmp_path/'c').net, {k: other[k] for k in other if k != 'training'} | {'training': other['training']})
        make_trainer(small(), tmp_path/'b', start_from=str(tmp_path/'faces.safetensors'))
    assert make_trainer(small(data={'kinds': ['tone']}), tmp_path/'b', start_from=path).step == 1 # other data: welcome

@pytest.mark.parametrize('data, text', [({'speed': 3.}, 'such as 0.03'), ({'mix': 2.}, 'probability'), ({'kinds': ['tone']}, 'data.kinds means nothing for piano')])
def test_data_entries_out_of_range(data, text, tmp_path, monkeypatch):
    import torch
    from tfinpaint.audio import models
    from tfinpaint.audio.datasets import Track
    monkeypatch.setattr(models, 'load_tracks', lambda *a: [Track('a', torch.randn(20000, generator=torch.Generator().manual_seed(0)), 8000)])
    with pytest.raises(ValueError, match=text): models.make_trainer(small('piano_16k', data=data), tmp_path)
    with pytest.raises(ValueError, match='data.speed means nothing for synthetic'): models.make_trainer(small(data={'speed': .03}), tmp_path)
    monkeypatch.setattr(models, 'load_tracks', lambda *a: [Track('a', torch.zeros(1000), 8000)])
    with pytest.raises(ValueError, match='is as long as a window'): models.make_trainer(small('piano_16k'), tmp_path)

def test_advice_where_memory_is_short(tmp_path):
    from tfinpaint.audio.models import make_trainer
    trainer = make_trainer(small(), tmp_path)
    def full(*a): raise RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")
    def broken(*a): raise RuntimeError('mat1 and mat2 shapes cannot be multiplied')
    trainer.forward = full
    with pytest.raises(MemoryError, match='halve training.batch_size .now 4.*network.channels .now 8'): trainer.train_step()
    trainer.forward = broken
    with pytest.raises(RuntimeError, match='mat1'): trainer.train_step()

def test_the_card_of_a_model_that_learned_from_something_else_than_the_registry(tmp_path):
    from tfinpaint.audio.models import data_source, make_trainer, publish
    make_trainer(small(training={'n_steps': 2}), tmp_path/'run').fit(progress=False, log=False)
    card = publish(tmp_path/'run', 'mine', target=tmp_path/'weights')
    assert 'A diffusion model of computed signals' in card and 'no recording' in card and '`synthetic`' in card
    assert sorted(p.name for p in (tmp_path/'weights').iterdir()) == ['mine.csv', 'mine.md', 'mine.safetensors']
    assert data_source('piano_ishizaka')['what'] == 'A diffusion model of solo piano.' and 'BY-NC' in data_source('maestro')['licence']
    assert data_source('my_take') == dict(credit='recordings of your own', licence='as their owner says', what='A diffusion model of the recordings my_take.')
