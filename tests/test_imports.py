"""Modules import in one direction only, lightly, and nothing that a plain installation lacks."""
import ast, functools, importlib.metadata, re, subprocess, sys, tomllib
from pathlib import Path
import nbformat, pytest
from book_reader import split_directives

ROOT = Path(__file__).parent.parent
ORDER = ['diffusion', 'inpainting', 'timefreq', 'audio', 'lab', 'cli']
MODULES = sorted(p for p in (ROOT/'tfinpaint').rglob('*.py') if p.name not in ('__init__.py', '_modidx.py'))
HEAVY = {'dask', 'distributed', 'accelerate', 'librosa', 'torchaudio', 'pandas', 'matplotlib', 'tensorboard', 'pyarrow', 'papermill', 'nbconvert', 'torchmetrics'}
by_path = pytest.mark.parametrize('path', MODULES, ids=lambda p: p.relative_to(ROOT/'tfinpaint').as_posix())

def imports(tree, package=''):
    "(top-level?, absolute name) of every import; `from a import b` also counts as a.b, for b may be a module."
    inside = {id(n) for f in ast.walk(tree) if isinstance(f, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)) for n in ast.walk(f)}
    for n in ast.walk(tree):
        names = []
        if isinstance(n, ast.Import): names = [a.name for a in n.names]
        elif isinstance(n, ast.ImportFrom):
            base = '.'.join(filter(None, ['.'.join(package.split('.')[:len(package.split('.'))-n.level+1]) if n.level else '', n.module]))
            names = [base, *(f'{base}.{a.name}' for a in n.names)]
        for name in names: yield id(n) not in inside, name

def package_of(path): return '.'.join(path.relative_to(ROOT).parent.parts)

def part(name):
    "Where a module of ours stands in ORDER, or None."
    parts = name.split('.')
    return ORDER.index(parts[1]) if parts[0] == 'tfinpaint' and len(parts) > 1 and parts[1] in ORDER else None

def run(code):
    r = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, timeout=120)
    assert r.returncode == 0, r.stderr
    return r.stdout.split()

def test_relative_imports_are_understood():
    tree = ast.parse('from ..diffusion.unet import UNet\nfrom .datasets import x\ndef f():\n    import librosa')
    found = set(imports(tree, 'tfinpaint.audio'))
    assert {(True, 'tfinpaint.diffusion.unet'), (True, 'tfinpaint.audio.datasets'), (False, 'librosa')} <= found

@by_path
def test_one_way(path):
    mine = part('tfinpaint.' + '.'.join(path.relative_to(ROOT/'tfinpaint').with_suffix('').parts))
    wrong = {n for _, n in imports(ast.parse(path.read_text()), package_of(path)) if (p := part(n)) is not None and p > mine}
    assert not wrong, f'{path.name} imports from a later part: {sorted(wrong)}'

@by_path
def test_heavy_libraries_wait_until_they_are_used(path):
    top = {n.split('.')[0] for at_top, n in imports(ast.parse(path.read_text()), package_of(path)) if at_top}
    assert not top & HEAVY

def test_import_is_light():
    assert set(run('import sys, tfinpaint; print(*{m.split(".")[0] for m in sys.modules})')) & {'torch', 'numpy', 'scipy', 'typer', *HEAVY} == set()

def test_the_command_line_starts_without_torch():
    assert set(run('import sys, tfinpaint.cli; print(*{m.split(".")[0] for m in sys.modules})')) & {'torch', 'numpy', 'scipy', *HEAVY} == set()

@functools.cache
def declared():
    "Import names that the run-time dependencies provide, and the standard library."
    wanted = {re.match(r'[\w.-]+', d)[0].lower().replace('_', '-') for d in tomllib.loads((ROOT/'pyproject.toml').read_text())['project']['dependencies']}
    provided = {m for m, dists in importlib.metadata.packages_distributions().items() if {d.lower().replace('_', '-') for d in dists} & wanted}
    return provided | set(sys.stdlib_module_names) | {'tfinpaint', 'IPython'}    # IPython: a requirement of ipykernel

@by_path
def test_only_declared_dependencies(path):
    missing = {n.split('.')[0] for _, n in imports(ast.parse(path.read_text()), package_of(path))} - declared()
    assert not missing, f'{path.name} imports what `pip install tfinpaint` does not bring: {missing}'

EXPERIMENTS = [p for p in sorted((ROOT/'nbs'/'50_experiments').glob('*.ipynb')) if '#| default_exp' not in p.read_text()]

@pytest.mark.parametrize('path', EXPERIMENTS, ids=lambda p: p.stem)
def test_experiments_run_in_a_plain_installation(path):
    code = '\n'.join(split_directives(c.source)[1] for c in nbformat.read(path, 4).cells if c.cell_type == 'code' and not c.source.lstrip().startswith('%'))
    missing = {n.split('.')[0] for _, n in imports(ast.parse(code))} - declared()
    assert not missing, f'{path.name} imports what `make demo` does not install: {missing}'
