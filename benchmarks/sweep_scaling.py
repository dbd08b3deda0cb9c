"""How much faster a sweep is on two workers than on one.

    python benchmarks/sweep_scaling.py [--runs 8] [--work-s 8] [--workers 2] [--pairs 3]

The notebook of the sweep multiplies matrices for --work-s seconds of processor time of one thread; every kernel has one thread, so that
one worker cannot use two processors. Both sweeps include what a user waits for: the start of the processes, kernels, and the pages.
They are run in turn, in folders that begin empty; the ratio is the median of the pairs. It means something on a quiet machine only: so the
load before each pair is printed, and what bare processes with the same work gain, which on a quiet machine is the most there is to have.
With the defaults it takes about six minutes on two quiet processors.
"""
import argparse, os, platform, statistics, subprocess, sys, tempfile, time
os.environ['OMP_NUM_THREADS'] = '1'
from importlib.metadata import version
from pathlib import Path
import nbformat
from tfinpaint.lab.experiments import provenance
from tfinpaint.lab.sweeps import plan_sweep, sweep

WORK = '''import time
import numpy as np
x, start = np.random.default_rng(n).normal(size=(200, 200))/200**.5, time.process_time()
while time.process_time() - start < work_s: x = np.tanh(x @ x.T)'''

def notebook(path, work_s):
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(f'n: int = 0  # number of the run\nwork_s: float = {work_s}  # processor time [s]', metadata={'tags': ['parameters']}),
                                         nbformat.v4.new_code_cell(WORK)])
    nbformat.write(nb, path)
    return path

def seconds(path, n, workers):
    "Wall time of a whole sweep that begins with nothing [s]."
    with tempfile.TemporaryDirectory() as out:
        start = time.perf_counter()
        done = sweep(plan_sweep(dict(notebook=str(path), grid=dict(n=list(range(n)))), out), workers=workers)
        assert done.done == n, str(done)
        return time.perf_counter() - start

def plain(work_s, workers):
    "Wall time of as many bare processes with the same work at once [s]."
    start = time.perf_counter()
    code = f'n, work_s = 0, {work_s}\n' + WORK
    for p in [subprocess.Popen([sys.executable, '-c', code]) for _ in range(workers)]: p.wait()
    return time.perf_counter() - start

def load(): return ' '.join(f'{x:.1f}' for x in os.getloadavg()) if hasattr(os, 'getloadavg') else '?'

def main():
    p = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    p.add_argument('--runs', type=int, default=8)
    p.add_argument('--work-s', type=float, default=8.)
    p.add_argument('--workers', type=int, default=2)
    p.add_argument('--pairs', type=int, default=3)
    a = p.parse_args()
    if a.runs < a.workers or a.runs % a.workers: p.error('--runs must be a multiple of --workers: with a rest some workers are idle')
    if a.pairs < 1 or a.work_s <= 0: p.error('--pairs and --work-s must be positive')
    with tempfile.TemporaryDirectory() as tmp:
        path = notebook(Path(tmp)/'work.ipynb', a.work_s)
        print(f'{provenance(nbformat.read(path, 4))["machine"]}; python {platform.python_version()}, distributed {version("distributed")}, papermill {version("papermill")}, numpy {version("numpy")}')
        print(f'{a.runs} runs of {a.work_s:g} s of work')
        ratios, bounds = [], []
        for i in range(a.pairs):
            before, order = load(), (1, a.workers) if i % 2 == 0 else (a.workers, 1)
            took = {w: seconds(path, a.runs, w) for w in order}
            bare = {w: plain(a.work_s, w) for w in order}
            ratios.append(took[1]/took[a.workers]); bounds.append(a.workers*bare[1]/bare[a.workers])
            print(f'pair {i+1} (load {before}): {took[1]:.1f} s on one worker, {took[a.workers]:.1f} s on {a.workers}: {ratios[-1]:.2f} times as fast; bare processes {bounds[-1]:.2f}', flush=True)
    print(f'median {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}); bare processes {statistics.median(bounds):.2f}')

if __name__ == '__main__': main()
