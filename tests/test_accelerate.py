"""Training by several processes: the same run as one process, with the same batches, losses, weights and files."""
import csv, os, signal, subprocess, sys, textwrap
from dataclasses import asdict
from pathlib import Path
import numpy as np
import psutil, pytest, torch, yaml
from tfinpaint.diffusion.schedule import cosine_schedule
from tfinpaint.diffusion.training import TrainConfig, Trainer, join_processes
from tfinpaint.diffusion.unet import UNet

TESTS = Path(__file__).parent
LAUNCH = ['-m', 'accelerate.commands.launch', '--multi_gpu', '--num_processes', '2', '--num_machines', '1', '--mixed_precision', 'no',
          '--dynamo_backend', 'no', '--main_process_port', '0'] # `--cpu` would start one process; with `device='cpu'` these two use gloo
# The sums of float32 are taken in another order (two means of two, instead of one mean of four): the loss differs by a few units of
# the 24th bit, 6e-8. AdamW divides a gradient by its size, so that a weight whose gradient is nothing but rounding (a bias before a
# normalisation) moves by up to the learning rate, 4e-4, in a direction of its own. So a few weights may differ: at most one of
# a hundred by more than 1e-5, and all together by 1e-6 on the average; in six steps they move by up to 2e-3.
LOSS, WEIGHT, MEAN = 2e-6, 1e-5, 1e-6

def tiny(folder, n_steps=6, seed=0, **kw):
    torch.manual_seed(seed)
    valid = torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    config = TrainConfig(**{**dict(n_steps=n_steps, batch_size=4, warmup=4, bf16=False, valid_every=2, valid_size=8, save_every=10), **kw})
    net = UNet(channels=8, multipliers=(1, 2), attention=(1,))
    return Trainer(net, cosine_schedule(50), lambda n, g: torch.randn(n, 1, 8, 8, generator=g), config, folder, valid)

def launch(cwd, *argv, **env):
    env = {**os.environ, 'OMP_NUM_THREADS': '1', **env}
    return subprocess.run([sys.executable, *LAUNCH, *map(str, argv)], cwd=cwd, env=env, capture_output=True, text=True, timeout=300)

def agree(a, b):
    "Two folders hold the same run, within rounding."
    a, b = (torch.load(f/'last.pt', weights_only=True) for f in (a, b))
    assert a.keys() == b.keys() and a['step'] == b['step'] and a['config'] == b['config']
    losses = lambda s: [[v for k, v in row.items() if 'hours' not in k] for row in s['curve']]
    np.testing.assert_allclose(losses(a), losses(b), rtol=LOSS); np.testing.assert_allclose(a['running'], b['running'], rtol=LOSS)
    for net in ('net', 'ema'):
        assert a[net].keys() == b[net].keys()
        off = torch.cat([(a[net][k]-b[net][k]).abs().flatten() for k in a[net]])
        assert (off > WEIGHT).float().mean() < .01 and off.mean() < MEAN, (net, off.max(), off.mean())

JOB = '''
    import math, signal, sys
    sys.path.insert(0, {tests!r})
    from test_accelerate import tiny
    from pathlib import Path
    at = Path.cwd()
    def refused(error, f):
        try: f()
        except error as e: return str(e)
        raise AssertionError(f'expected {{error.__name__}}')

    tiny(at/'two').fit(progress=False)
    tiny(at/'two-one', 3).fit(progress=False, log=False)
    t = tiny(at/'one-two', seed=1 + tiny(at/'x').rank); assert t.resume() and t.step == 3 # other weights in each process, until it resumes
    t.fit(progress=False, log=False)

    t = tiny(at/'pressed') # Ctrl-C reaches the second process alone, in step 3: both end that step
    draw = t.batch
    def batch(n, g):
        if t.step == 2 and t.rank == 1: signal.raise_signal(signal.SIGINT)
        return draw(n, g)
    t.batch = batch
    refused(KeyboardInterrupt, lambda: t.fit(progress=False, log=False)); assert t.step == 3, t.step

    t = tiny(at/'late').fit(minutes=1e-9 if t.rank == 0 else None, progress=False, log=False); assert t.step == 0 # one clock is enough

    t = tiny(at/'nan') # bad data in the share of one process: both refuse
    t.batch = lambda n, g: torch.randn(n, 1, 8, 8, generator=g).index_fill(0, torch.tensor([1]), math.nan)
    import torch
    assert 'loss became nan' in refused(FloatingPointError, lambda: t.fit(progress=False, log=False))
    assert 'multiple of 2' in refused(ValueError, lambda: tiny(at/'odd', batch_size=3))
    Path(f'done-{{t.rank}}-of-{{t.world}}').touch()
'''

def test_two_processes_are_one_run(tmp_path):
    tiny(tmp_path/'one').fit(progress=False, log=False); tiny(tmp_path/'one-two', 3).fit(progress=False, log=False)
    (tmp_path/'job.py').write_text(textwrap.dedent(JOB.format(tests=str(TESTS))))
    r = launch(tmp_path, 'job.py')
    assert r.returncode == 0, r.stderr[-3000:]
    assert {p.name for p in tmp_path.glob('done-*')} == {'done-0-of-2', 'done-1-of-2'}
    agree(tmp_path/'one', tmp_path/'two'); agree(tmp_path/'one', tmp_path/'one-two')
    t = tiny(tmp_path/'two-one', seed=9); assert t.resume() and t.step == 3
    t.fit(progress=False, log=False); agree(tmp_path/'one', tmp_path/'two-one')
    assert sorted(p.name for p in (tmp_path/'two').iterdir()) == ['curve.csv', 'ema.safetensors', 'last.pt', 'tensorboard']
    assert len(list((tmp_path/'two'/'tensorboard').iterdir())) == 1, 'only the first process writes logs'
    assert torch.load(tmp_path/'pressed'/'last.pt', weights_only=True)['step'] == 3 and not (tmp_path/'nan').exists()

def test_sigterm_to_the_launcher_ends_all_after_one_step(tmp_path):
    code = f'''
import os, sys
sys.path.insert(0, {str(TESTS)!r})
from test_accelerate import tiny
t = tiny("run", 10**6, save_every=10**6)
draw = t.batch
def batch(n, g): # in the middle of the run
    if t.step == 2: os.write(1, f'{{os.getpid()}}\\n'.encode()) # at once: two processes share the pipe
    return draw(n, g)
t.batch = batch
t.fit(progress=False, log=False)
'''
    (tmp_path/'job.py').write_text(code)
    p = subprocess.Popen([sys.executable, *LAUNCH, 'job.py'], cwd=tmp_path, env={**os.environ, 'OMP_NUM_THREADS': '1'}, stdout=subprocess.PIPE,
                         stderr=subprocess.DEVNULL, text=True)
    processes = [p.pid]
    try:
        lines = [p.stdout.readline()] # one of them is in its third step
        processes += [c.pid for c in psutil.Process(p.pid).children(recursive=True)]
        lines.append(p.stdout.readline()) # the other too
        assert {int(l) for l in lines} <= set(processes)
        for patience in (60, 60): # the launcher was seen to lose a signal, once in four runs
            p.terminate()
            try: p.communicate(timeout=patience); break
            except subprocess.TimeoutExpired: pass
        assert p.poll() is not None, 'the launcher does not end'
    finally:
        for pid in processes: # whatever is left
            try: os.kill(pid, signal.SIGKILL)
            except ProcessLookupError: pass
    state = torch.load(tmp_path/'run'/'last.pt', weights_only=True)
    assert len(state['running']) + 2*len(state['curve']) == state['step'] # whole steps only; the run's own saves lie far ahead

def test_shares_must_be_equal(monkeypatch):
    monkeypatch.delenv('WORLD_SIZE', raising=False); assert join_processes('cpu', 5) is None
    monkeypatch.setenv('WORLD_SIZE', '1'); assert join_processes('cpu', 5) is None
    monkeypatch.setenv('WORLD_SIZE', '3')
    with pytest.raises(ValueError, match='3 processes cannot share batch_size 32 equally: use a multiple of 3'): join_processes('cpu', 32)

def test_the_command_line_under_a_launcher(tmp_path):
    "`accelerate launch ... -m tfinpaint.cli train` with two processes, `--cpu` with one, and the plain command: one curve."
    import soundfile as sf
    from tfinpaint.audio.datasets import split_names
    from tfinpaint.cli import main
    home = tmp_path/'piano_ishizaka_16k'; home.mkdir()
    for i, name in enumerate(n for s in ('train', 'validation') for n in split_names('piano_ishizaka', s)):
        sf.write(home/f'{name}.flac', np.random.default_rng(i).normal(0, .1, 8000).astype('float32'), 16000)
    config = dict(name='tiny', data=dict(name='piano_ishizaka', gain_db=6), schedule=dict(name='cosine', n_steps=50),
                  representation=dict(sr=16000, n_fft=62, hop_length=16, n_frames=16, floor_db=-90, offset_db=-60, range_db=30, level_db=-27),
                  network=dict(channels=8, multipliers=[1], attention=[], n_blocks=1),
                  training={**asdict(TrainConfig()), **dict(n_steps=4, batch_size=4, bf16=False, valid_every=2, valid_size=8, warmup=2)})
    (tmp_path/'tiny.yaml').write_text(yaml.safe_dump(config))
    with pytest.MonkeyPatch.context() as m:
        m.setenv('TFINPAINT_DATA', str(tmp_path)); m.chdir(tmp_path)
        assert main(['train', 'tiny.yaml', '--out', 'one', '--device', 'cpu']) == 0
    r = launch(tmp_path, '-m', 'tfinpaint.cli', 'train', 'tiny.yaml', '--out', 'two', '--device', 'cpu',
               TFINPAINT_DATA=str(tmp_path), PYTHONPATH=str(TESTS.parent))
    assert r.returncode == 0, r.stderr[-3000:]
    assert r.stdout.count('two: step 4') == 1
    agree(tmp_path/'one', tmp_path/'two')
    rows = lambda n: list(csv.DictReader(open(tmp_path/n/'curve.csv')))
    assert [r['step'] for r in rows('two')] == [r['step'] for r in rows('one')] == ['2', '4']

def test_python_m():
    "And `accelerate launch --cpu` starts one process, whatever number it is given: the chapter says so."
    r = subprocess.run([sys.executable, '-m', 'tfinpaint.cli', '--version'], cwd=TESTS.parent, capture_output=True, text=True, timeout=60)
    assert r.returncode == 0 and r.stdout.startswith('tfinpaint ')
    r = subprocess.run([sys.executable, '-m', 'accelerate.commands.launch', '--cpu', '--num_processes', '2', '-m', 'tfinpaint.cli', '--version'],
                       cwd=TESTS.parent, capture_output=True, text=True, timeout=120)
    assert r.returncode == 0 and r.stdout.count('tfinpaint ') == 1
