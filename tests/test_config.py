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
