"""Build the website offline with Jupyter Book; a warning is an error. Prints the path of its index page.

    python tools/book.py OUT [--partial]

With `--partial` chapters of the table of contents that do not exist yet are left out.
"""
import argparse, os, subprocess, sys, tempfile, time
from pathlib import Path
import yaml

ROOT = Path(__file__).parent.parent

def existing(toc):
    "The table of contents without the chapters that are not there."
    for part in toc['parts']: part['chapters'] = [c for c in part['chapters'] if list((ROOT/'nbs').glob(c['file'] + '.*'))]
    return {**toc, 'parts': [p for p in toc['parts'] if p['chapters']]}

def main():
    p = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    p.add_argument('out', type=Path)
    p.add_argument('--partial', action='store_true', help='leave out chapters that do not exist yet')
    a = p.parse_args()
    toc, start = yaml.safe_load((ROOT/'nbs'/'_toc.yml').read_text()), time.time()
    with tempfile.TemporaryDirectory() as tmp:
        path = Path(tmp)/'_toc.yml'
        path.write_text(yaml.safe_dump(existing(toc) if a.partial else toc, sort_keys=False))
        cmd = [sys.executable, '-c', 'from jupyter_book.cli.main import main; main()', 'build', str(ROOT/'nbs'), '--path-output', str(a.out.resolve()), '--toc', str(path),
               '--all', '--warningiserror', '--keep-going', '--quiet']
        run = subprocess.run(cmd, env={**os.environ, 'PYTHONWARNINGS': 'ignore'}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    index = a.out.resolve()/'_build'/'html'/'index.html'
    if run.returncode or not index.is_file():
        print(run.stdout); sys.exit(run.returncode or 1)
    print(f'The book ({time.time() - start:.0f} s): {index}')

if __name__ == '__main__': main()
