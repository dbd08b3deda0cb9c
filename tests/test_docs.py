"""The book is in step with itself: exports, stored outputs, links, sizes, README, and both ways to publish it."""
import base64, json, os, re, shutil, subprocess, sys
from pathlib import Path
import nbformat, pytest, yaml
import execute, readme
from book_reader import split_directives

ROOT = Path(__file__).parent.parent
NBS = ROOT/'nbs'
NOTEBOOKS = sorted(p for p in [*NBS.glob('*.ipynb'), *NBS.glob('[0-9]*/*.ipynb')])
IDS = [p.relative_to(NBS).with_suffix('').as_posix() for p in NOTEBOOKS]
each = pytest.mark.parametrize('path', NOTEBOOKS, ids=IDS)

def read(path): return nbformat.read(path, 4)
def code(nb): return [c for c in nb.cells if c.cell_type == 'code']
def outputs(nb): return [o for c in code(nb) for o in c.outputs]
def is_chapter(path): return path.parent.name[:2] in ('10', '20', '30', '40', '50')
def is_experiment(path): return path.parent.name == '50_experiments' and '#| default_exp' not in path.read_text()
def chapters_that(test): return pytest.mark.parametrize('path', [p for p in NOTEBOOKS if test(p)], ids=[i for p, i in zip(NOTEBOOKS, IDS) if test(p)])

def copy_of_the_project(tmp, *names):
    for n in names: (shutil.copytree if (ROOT/n).is_dir() else shutil.copy)(ROOT/n, tmp/n)
    return {k: v for k, v in os.environ.items() if k != 'IN_TEST'}

def test_export_in_sync(tmp_path):
    env = copy_of_the_project(tmp_path, 'nbs', 'pyproject.toml')
    (tmp_path/'tfinpaint').mkdir()
    shutil.copy(ROOT/'tfinpaint'/'__init__.py', tmp_path/'tfinpaint')
    r = subprocess.run([str(Path(sys.executable).parent/'nbdev-export')], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300)
    assert r.returncode == 0, r.stderr
    modules = lambda root: {p.relative_to(root).as_posix(): p.read_text() for p in (root/'tfinpaint').rglob('*.py')}
    fresh, ours = modules(tmp_path), modules(ROOT)
    different = sorted(k for k in fresh.keys() | ours.keys() if fresh.get(k) != ours.get(k))
    assert not different, f'run `make export`: {different}'

def test_readme():
    assert (ROOT/'README.md').read_text(encoding='utf-8') == readme.readme(read(NBS/'index.ipynb')), 'run `make readme`'

@each
def test_clean(path):
    from fastcore.xtras import loads
    assert execute.clean(read(path)) == loads(path.read_text(encoding='utf-8')), 'run tools/execute.py, or nbdev-clean'

@each
def test_outputs_are_of_the_code_on_the_page(path):
    nb = read(path)
    if not any(not execute.is_skipped(c.source, ()) for c in code(nb)): return
    stamp = nb.metadata.get('tfinpaint')
    assert stamp, f'never run: python tools/execute.py {path.relative_to(ROOT)}'
    assert stamp.keys() == {'code_hash', 'seconds', 'date', 'device', 'versions'} and stamp['versions'].keys() == {'python', 'torch', 'tfinpaint'}
    assert stamp['code_hash'] == execute.code_hash(nb), f'the code changed since its outputs were made: python tools/execute.py {path.relative_to(ROOT)}'

@each
def test_no_errors_or_warnings_are_stored(path):
    for o in outputs(read(path)):
        assert o.output_type != 'error' and o.get('name') != 'stderr', o.get('text') or o.get('evalue')

@each
def test_nothing_of_the_machine(path):
    "No path of the computer the notebook ran on."
    local = re.compile(rf'{re.escape(str(ROOT))}\b|/(?:home|root|Users|tmp|work|private)/[\w.-]')
    for o in outputs(read(path)):
        text = o.get('text', '') + ''.join(v for k, v in o.get('data', {}).items() if k.startswith('text'))
        assert not local.search(text), local.search(text)[0]

@each
def test_size(path):
    assert path.stat().st_size < 1_000_000
    for o in outputs(read(path)):
        for kind, data in o.get('data', {}).items():
            if kind.startswith('image/'): assert kind == 'image/png' and len(base64.b64decode(data)) < 150_000, f'{kind}, {len(data)} characters'
            assert not kind.startswith('audio/') and 'data:audio' not in str(data), 'sounds belong in nbs/media: use lab.players.compare'

@each
def test_finished(path):
    text = '\n'.join(c.source for c in read(path).cells)
    assert not (m := re.search(r'PENDING|TODO|FIXME|XXX|SECONDS', text)), m[0]

@each
def test_title_and_claim(path):
    first = read(path).cells[0]
    assert first.cell_type == 'markdown' and re.fullmatch(r'# [^\n{]+\n\n> [^\n]+', first.source.strip()), 'the first cell is a title and a claim in one line'

@chapters_that(is_chapter)
def test_anatomy(path):
    nb = read(path)
    text = '\n'.join(c.source for c in nb.cells if c.cell_type == 'markdown')
    box = re.search(r'^::: \{\.callout-note title="At a glance"\}\n(.*?)^:::', text, re.M | re.S)
    assert box, 'no "At a glance"'
    for label in ('Questions', 'You will be able to', 'Time', 'Rerun'): assert f'**{label}' in box[1], label
    assert path.relative_to(ROOT).as_posix() in box[1] and f'github/tfinpaint/tfinpaint/blob/main/{path.relative_to(ROOT).as_posix()}' in box[1]

@chapters_that(is_chapter)
def test_stated_time(path):
    "The time in the first box is that of the last run, within a factor of four; under 15 s it does not matter."
    nb = read(path)
    said = re.search(r'CPU:? (?:~|about |under )?([\d.]+) ?(s|min)\b', '\n'.join(c.source for c in nb.cells[:3]))
    assert said, 'state it as "CPU: 12 s" or "CPU: about 1.5 min"'
    if 'tfinpaint' not in nb.metadata: return    # test_outputs_are_of_the_code_on_the_page says so
    said, ran = float(said[1])*(60 if said[2] == 'min' else 1), nb.metadata['tfinpaint']['seconds']
    assert max(said, ran) < 15 or 1/4 < said/ran < 4, f'the page says {said:g} s, the run took {ran:g} s'

@chapters_that(is_experiment)
def test_parameters_cell(path):
    "One tagged cell of at most 12 lines `name: type = default  # meaning`; without the tag papermill's values would not win."
    tagged = [c for c in code(read(path)) if 'parameters' in c.metadata.get('tags', [])]
    assert len(tagged) == 1
    lines = [l for l in tagged[0].source.split('\n') if l.strip()]
    assert 1 <= len(lines) <= 12
    for l in lines: assert re.fullmatch(r'[a-z]\w*: (int|float|str|bool) = .+  # .+', l), l

def links(nb):
    text = '\n'.join([c.source for c in nb.cells if c.cell_type == 'markdown'] + [''.join(v) for o in outputs(nb) for k, v in o.get('data', {}).items() if k in ('text/html', 'text/markdown')])
    text = re.sub(r'```.*?```', '', text, flags=re.S)
    found = re.findall(r'\]\(([^)\s]+)\)', text) + re.findall(r'\b(?:src|href)="([^"]+)"', text)
    return [l.split('#')[0] for l in found if not re.match(r'\w+:|#', l)]

@each
def test_links(path):
    "Chapters, sounds and pictures that a page links to are there."
    dead = [l for l in links(read(path)) if l and not (path.parent/l).is_file()]
    assert not dead

def test_media_is_used():
    used = {(p.parent/l).resolve() for p in NOTEBOOKS for l in links(read(p))}
    unused = [p.relative_to(NBS).as_posix() for p in (NBS/'media').rglob('*') if p.is_file() and p.resolve() not in used]
    assert not unused

def test_api_page_is_current():
    "The page of the package shows what the package holds now."
    from execnb.shell import CaptureShell
    from fastcore.nbio import read_nb
    path = NBS/'90_appendix'/'05_api.ipynb'
    tables = lambda cells: [''.join(o['data']['text/markdown']) for c in cells if c['cell_type'] == 'code' for o in c.get('outputs', []) if 'text/markdown' in o.get('data', {})]
    nb = read_nb(path); stored = tables(nb.cells)
    CaptureShell(path).run_all(nb, exc_stop=True)
    assert stored and tables(nb.cells) == stored, 'run tools/execute.py nbs/90_appendix/05_api.ipynb'

def test_quarto_side_is_well_formed(tmp_path):
    "nbdev prepares every chapter for Quarto: front matter that parses, with its title."
    env = copy_of_the_project(tmp_path, 'nbs', 'pyproject.toml', '_quarto.yml', 'tfinpaint')
    prepare = 'from nbdev.quarto import refresh_quarto_yml, proc_nbs; refresh_quarto_yml(); proc_nbs(n_workers=1)'
    r = subprocess.run([sys.executable, '-c', prepare], cwd=tmp_path, env=env | {'PYTHONPATH': str(tmp_path)}, capture_output=True, text=True, timeout=300)
    assert r.returncode == 0, r.stderr
    for p in NOTEBOOKS:
        nb = read(tmp_path/'_proc'/p.relative_to(NBS))
        front = nb.cells[0].source.strip()
        assert front.startswith('---') and front.endswith('---'), p
        assert yaml.safe_load(front.strip('-'))['title'] == read(p).cells[0].source.split('\n')[0].removeprefix('# '), p

def tiny_notebook(path, *cells):
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells]), path)
    return path

def test_execute(tmp_path):
    path = tiny_notebook(tmp_path/'a.ipynb', 'import os; print(os.path.basename(os.getcwd()))', '#| eval: false\n1/0', '#| slow\nprint("slow")')
    nb = read(path); nb.cells[2].outputs = [nbformat.v4.new_output('stream', name='stdout', text='kept')]
    nbformat.write(nb, path)
    assert execute.execute(path) > 0
    nb = read(path)
    assert [[o.text for o in c.outputs] for c in nb.cells] == [[tmp_path.name + '\n'], [], ['kept']]
    assert nb.metadata['tfinpaint']['code_hash'] == execute.code_hash(nb) and nb.cells[0].execution_count is None
    nb.cells[0].source += '  # edited'
    assert nb.metadata['tfinpaint']['code_hash'] != execute.code_hash(nb)

def test_execute_leaves_a_failing_notebook_alone(tmp_path):
    path = tiny_notebook(tmp_path/'b.ipynb', 'print(1)', 'raise ValueError("no")'); before = path.read_bytes()
    with pytest.raises(Exception, match='no'): execute.execute(path)
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ['b.ipynb']

def test_readme_links_into_nbs():
    md = nbformat.v4.new_markdown_cell('# T\n\nSee [a](10_x/01_a.ipynb#sec-b), [b](https://x.org/c.ipynb).')
    hidden, shown = nbformat.v4.new_code_cell('#| hide\nsecret'), nbformat.v4.new_code_cell('#| export\nx = 1')
    text = readme.readme(nbformat.v4.new_notebook(cells=[md, hidden, shown]))
    assert '[a](nbs/10_x/01_a.ipynb#sec-b)' in text and '[b](https://x.org/c.ipynb)' in text
    assert 'secret' not in text and '```python\nx = 1\n```' in text
