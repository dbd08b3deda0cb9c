"""How long the whole set of metrics takes on many short clips, and what each of them costs.

    python benchmarks/metrics_speed.py [--clips 100] [--seconds 2] [--jobs 2] [--metrics speech] [--each 3]

The clips are cut from the piano of the package, with a silent gap of 200 ms: the grades of speech metrics mean nothing here, their time
does. First, the processor time of each metric on one clip (mean of --each calls after one that loads its model), one thread. Then the wall
time of all clips in --jobs processes, with their start. A metric whose package is not installed is named and left out.
"""
import argparse, math, os, sys, time, warnings
from importlib.resources import files
os.environ.setdefault('OMP_NUM_THREADS', '1'); os.environ.setdefault('NUMBA_NUM_THREADS', '1')
import soundfile as sf
import torch
from tfinpaint.audio.metrics import METRICS, METRIC_SETS, evaluate, evaluate_batch, metric_names
from tfinpaint.timefreq.stft import STFT
from tfinpaint.timefreq.tfmasks import Hole, cell_mask, sample_mask

def clips(n, seconds):
    "n items: pieces of the piano that begin at different places, a gap in the middle."
    wave, sr = sf.read(files('tfinpaint')/'examples'/'piano.flac', dtype='float32')
    wave, L, hole = torch.from_numpy(wave), int(seconds*sr), Hole(seconds/2-.1, seconds/2+.1)
    known, cells = sample_mask([hole], L, sr), cell_mask([hole], STFT(), L, sr)
    for i in range(n):
        x = wave.roll(-i*len(wave)//n)[:L]
        yield dict(clip=i, reference=x, estimate=x*known, sr=sr, sample_mask=known, cell_mask=cells)

def main():
    p = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    p.add_argument('--clips', type=int, default=100)
    p.add_argument('--seconds', type=float, default=2, help='length of a clip, 1 to 6')
    p.add_argument('--jobs', type=int, default=2)
    p.add_argument('--metrics', default='speech', choices=METRIC_SETS)
    p.add_argument('--each', type=int, default=3)
    a = p.parse_args()
    if not 1 <= a.seconds <= 6: p.error('--seconds must lie in 1..6')
    torch.set_num_threads(1)
    items = list(clips(a.clips, a.seconds))
    one = {k: v for k, v in items[0].items() if k != 'clip'}
    call = lambda names: evaluate(**one, metrics=names)
    print(f'{"snr, si_sdr, lsd, sc":22}', end=''); cost(call, None, a.each)
    usable = []
    for name in metric_names(a.metrics):
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            if math.isnan(call([name])[name]): print(f'{name:22}left out: it gives no number here'); continue
        usable.append(name); print(f'{name:22}', end=''); cost(call, [name], a.each)
    start = time.perf_counter()
    table = evaluate_batch(items, metrics=usable, n_jobs=a.jobs, progress=True)
    took = time.perf_counter()-start
    cpu = children()
    print(f'{a.clips} clips of {a.seconds:g} s, {len(usable)+5} columns, {a.jobs} processes: {took:.1f} s on the clock{cpu} ({table.error.notna().sum()} errors, {table.note.notna().sum()} with a note)')

def children():
    "What the finished processes have used."
    if sys.platform == 'win32': return ''
    import resource
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return f', {used.ru_utime+used.ru_stime:.1f} s of processors'

def cost(call, names, n):
    call(names)
    start = time.process_time()
    for _ in range(n): call(names)
    print(f'{1000*(time.process_time()-start)/n:8.0f} ms', flush=True)

if __name__ == '__main__': main()
