"""Run notebooks in place with a real kernel, clean them, and stamp them with the code that made their outputs.

    python tools/execute.py [--force FLAG ...] NOTEBOOK ...

A cell marked `#| eval: false`, or with one of nbdev's test flags (`tst_flags` in pyproject.toml: slow, gpu, notest), is not run
and keeps the output it has; `--force slow` runs the slow ones too. A notebook that fails is left as it was.
(`nbdev-test --save` loses the state of widgets; `jupyter nbconvert --execute` does not know `#| eval: false`.)
"""
import argparse, base64, datetime, hashlib, io, importlib.metadata, os, platform, sys, time, tomllib
from pathlib import Path
import nbformat
sys.path.insert(0, str(Path(__file__).parent.parent/'nbs'/'_ext'))
from book_reader import split_directives

ROOT = Path(__file__).parent.parent
SETTINGS = tomllib.loads((ROOT/'pyproject.toml').read_text())['tool']['nbdev']

def code_hash(nb):
    "Hash of the code cells of a notebook: what the stamp of its outputs is compared with."
    src = ['\n'.join(l.rstrip() for l in c.source.strip().split('\n')) for c in nb.cells if c.cell_type == 'code']
    return hashlib.sha256('\0'.join(src).encode()).hexdigest()[:16]

def is_skipped(source, flags):
    "True where a cell is not to be run."
    d, _ = split_directives(source)
    return d.get('eval') == 'false' or any(f in d for f in flags)

def clean(nb):
    "What nbdev-clean does, on a notebook in memory: a plain dict."
    from fastcore.xtras import loads
    from nbdev.clean import clean_nb
    d = loads(nbformat.writes(nb))
    clean_nb(d, allowed_metadata_keys=SETTINGS['allowed_metadata_keys'], allowed_cell_metadata_keys=SETTINGS['allowed_cell_metadata_keys'],
             clean_ids=SETTINGS['clean_ids'])
    return d

def shrink(nb, limit=100_000):
    "Store large PNG outputs with a palette of 128 colours: spectrograms lose nothing that is seen, and more than half of their bytes."
    from PIL import Image
    for o in (o for c in nb.cells if c.cell_type == 'code' for o in c.outputs if 'image/png' in o.get('data', {})):
        raw = base64.b64decode(o.data['image/png'])
        if len(raw) <= limit: continue
        small = io.BytesIO()
        Image.open(io.BytesIO(raw)).convert('RGB').quantize(128, dither=Image.Dither.NONE).save(small, 'PNG', optimize=True)
        if len(small.getvalue()) < len(raw): o.data['image/png'] = base64.b64encode(small.getvalue()).decode()

def save(nb, path):
    "Write a notebook whole or not at all."
    tmp = path.with_name(path.name + '.tmp')
    nbformat.write(nb, tmp); os.replace(tmp, path)

def stamp(nb, seconds):
    "Versions, date, device and seconds of a run, with the hash of the code that ran."
    import torch, tfinpaint
    return dict(code_hash=code_hash(nb), seconds=round(seconds, 1), date=datetime.date.today().isoformat(),
                device='cuda' if torch.cuda.is_available() else 'cpu',
                versions=dict(python=platform.python_version(), torch=importlib.metadata.version('torch').split('+')[0], tfinpaint=tfinpaint.__version__))

def execute(path, force=(), timeout=1800):
    "Run, clean and stamp the notebook at `path`; returns the seconds it took."
    from nbclient import NotebookClient
    nb, start = nbformat.read(path, 4), time.time()
    flags = [f for f in SETTINGS['tst_flags'].split() if f not in force]
    skipped = [c for c in nb.cells if c.cell_type == 'code' and is_skipped(c.source, flags)]
    for c in skipped: c.metadata['tags'] = [*c.metadata.get('tags', []), 'skip-execution']
    NotebookClient(nb, timeout=timeout, kernel_name='python3', record_timing=False, coalesce_streams=True,
                   resources={'metadata': {'path': str(path.parent)}}).execute()
    for c in skipped:
        c.metadata.tags.remove('skip-execution')
        if not c.metadata.tags: del c.metadata['tags']
    nb.metadata['tfinpaint'] = stamp(nb, seconds := time.time() - start)
    shrink(nb)
    save(nbformat.from_dict(clean(nb)), path)
    return seconds

def main():
    p = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    p.add_argument('notebooks', nargs='+', type=Path, metavar='NOTEBOOK')
    p.add_argument('--force', action='append', default=[], metavar='FLAG', help='run cells of this flag too: slow, gpu, notest')
    a = p.parse_args()
    for nb in a.notebooks:
        if not nb.is_file(): p.error(f'no notebook at {nb}')
    failed = 0
    for nb in a.notebooks:
        try: print(f'{nb}: {execute(nb, a.force):.1f} s', flush=True)
        except Exception as e: failed += 1; print(f'{nb}: FAILED, left as it was\n{e}', file=sys.stderr, flush=True)
    sys.exit(failed > 0)

if __name__ == '__main__': main()
