"Sweeps: nothing finished is lost, whatever fails, and no run is done by two processes at once."
import json, logging, os, signal, subprocess, sys, threading, time
from pathlib import Path
import nbformat, pytest, yaml
from tfinpaint import cli
from tfinpaint.lab import experiments, sweeps
from tfinpaint.lab.experiments import RunBusy, run_in_folder, run_notebook
from tfinpaint.lab.sweeps import SweepStopped, collect, plan_sweep, read_table, sweep

ENV = {**os.environ, 'OMP_NUM_THREADS': '1'}
COMMAND = [sys.executable, '-c', 'import sys; from tfinpaint.cli import main; sys.exit(main())']
# every run leaves a file of its own for each time that it was begun, and one when it ends: light, no pandas
LOG = '''import os, time, uuid
def log(what): open(f"{folder}/{what}-{n}-{uuid.uuid4().hex}", "w").close()
log("begin")'''

def notebook(tmp, *cells, name='a.ipynb', parameters=None):
    nb = nbformat.v4.new_notebook(metadata={'kernelspec': {'name': 'x', 'display_name': 'x', 'language': 'python'}})
    (tmp/'log').mkdir(exist_ok=True)
    nb.cells = [nbformat.v4.new_code_cell(parameters or f'n: int = 0  # number {{0..99}}\nfolder: str = {str(tmp/"log")!r}  # where it writes', metadata={'tags': ['parameters']})]
    nb.cells += [nbformat.v4.new_code_cell(c) for c in (LOG, *cells, 'log("end")')]
    nbformat.write(nb, tmp/name)
    return tmp/name

def grid(tmp, values, **more):
    (tmp/'g.yaml').write_text(yaml.safe_dump(dict(notebook=str(tmp/'a.ipynb'), grid=dict(n=list(values)), **more)))
    return tmp/'g.yaml'

def count(tmp, what): return len(list((tmp/'log').glob(f'{what}-*')))

def until(test, seconds=90): # wait for something that another process does
    end = time.monotonic()+seconds
    while not (got := test()):
        assert time.monotonic() < end, 'it never happened'
        time.sleep(.05)
    return got

def states(plan): return [c.state for c in plan.cells]

def test_two_workers_and_one_of_them_is_killed(tmp_path):
    "Two workers share the runs; one is killed in the middle of a run, which is done again, and nothing is lost."
    notebook(tmp_path, f'''open(f"{{folder}}/worker-{{os.getppid()}}", "w").close(); open("{tmp_path}/threads", "w").write(os.environ["OMP_NUM_THREADS"])
if n == 1 and not os.path.exists("{tmp_path}/killed"):
    open("{tmp_path}/killed", "w").close()
    os.kill(os.getppid(), 9)                                    # the worker; this kernel lives on for a moment
    time.sleep(60)''')
    lines = []
    done = sweep(grid(tmp_path, range(4)), tmp_path/'runs', workers=2, tell=lines.append)
    assert (done.done, done.skipped, done.failed) == (4, 0, []), (done, lines)
    assert states(done.plan) == ['done']*4 and (tmp_path/'killed').exists()
    assert count(tmp_path, 'begin') == 5 and count(tmp_path, 'end') == 4    # only the killed run was begun twice
    assert count(tmp_path, 'worker') >= 2                                   # two processes took part
    assert int((tmp_path/'threads').read_text()) <= max(1, os.cpu_count()//2)
    assert lines[0].startswith('4 runs of a (4 n), 4 to do; no finished run tells') and lines[-1].startswith('[4/4] n=') and '1 to go, about' in lines[-2]
    again = sweep(grid(tmp_path, range(4)), tmp_path/'runs', workers=2)     # no cluster is needed to see that all is done
    assert (again.done, again.skipped) == (0, 4) and count(tmp_path, 'begin') == 5

def test_a_scheduler_that_goes_away(tmp_path):
    "A cluster of its own: the workers run, the scheduler is killed, one sentence; the rest is done afterwards."
    notebook(tmp_path, f'while n > 0 and not os.path.exists("{tmp_path}/go"): time.sleep(.05)')
    path = grid(tmp_path, range(3))
    file = tmp_path/'scheduler.json'
    python = lambda *argv: subprocess.Popen([sys.executable, '-m', 'distributed.cli.'+argv[0], *argv[1:]], env=ENV, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    p, scheduler = None, python('dask_scheduler', '--host', '127.0.0.1', '--port', '0', '--no-dashboard', '--scheduler-file', str(file))
    worker = None
    try:
        address = until(lambda: file.exists() and file.read_text().strip().endswith('}') and json.loads(file.read_text())['address'])
        worker = python('dask_worker', address, '--nthreads', '1', '--no-dashboard', '--no-nanny', '--local-directory', str(tmp_path))
        p = subprocess.Popen([*COMMAND, 'sweep', str(path), '--out', str(tmp_path/'runs'), '--scheduler', address], env=ENV, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        until(lambda: count(tmp_path, 'begin') == 2)            # the first run is done, the second waits
        scheduler.kill()
        out, err = p.communicate(timeout=90)
    finally:
        (tmp_path/'go').touch()
        for q in filter(None, (scheduler, worker, p)): q.kill(); q.wait()
    assert p.returncode == 1 and 'Traceback' not in err, (p.returncode, err)
    last = err.strip().splitlines()[-1]
    assert last.startswith(f'error: the scheduler at {address} is gone; ') and last.endswith('of 3 runs are done and kept: the same command goes on with the rest'), err
    before = states(plan_sweep(path, tmp_path/'runs')).count('done')
    assert before >= 1
    done = sweep(path, tmp_path/'runs', workers=0)
    assert done.done + done.skipped == 3 and not done.failed and done.skipped >= before

def test_no_scheduler_answers(tmp_path):
    notebook(tmp_path); path = grid(tmp_path, [1])
    with pytest.raises(ConnectionError, match='no scheduler answers at tcp://127.0.0.1:9'): sweep(path, tmp_path/'runs', scheduler='tcp://127.0.0.1:9', patience_s=1)
    with pytest.raises(ValueError, match="tcp://HOST:PORT, got 'login:8786'"): sweep(path, tmp_path/'runs', scheduler='login:8786')
    assert logging.getLogger('distributed').level <= logging.CRITICAL       # logs are as they were

def test_answers_of_a_cluster():
    "What a future says becomes an answer; what the cluster has lost is asked for again."
    class Future:
        def __init__(self, status, error=None): self.status, self.error = status, error
        def result(self, timeout): raise self.error
        exception = lambda self, timeout: self.error
    class KilledWorker(Exception): pass
    assert sweeps._answer(Future('error', KilledWorker('x'))) == dict(state='failed', message='its worker died again and again: too little memory?')
    assert sweeps._answer(Future('error', ModuleNotFoundError('No module named tfinpaint')))['message'] == 'ModuleNotFoundError: No module named tfinpaint'
    for lost in (Future('cancelled'), Future('lost'), Future('finished', TimeoutError()), Future('finished', ConnectionError())): assert sweeps._answer(lost) is None
    with pytest.raises(ZeroDivisionError): sweeps._answer(Future('finished', ZeroDivisionError()))

def test_a_folder_that_is_not_shared(tmp_path, monkeypatch):
    notebook(tmp_path); plan = plan_sweep(grid(tmp_path, [1]), tmp_path/'runs')
    monkeypatch.setattr(sweeps, '_appears', lambda path: False)
    monkeypatch.setattr(sweeps, 'do_cell', lambda *a: dict(state='done', seconds=1.))
    with pytest.raises(SweepStopped, match='workers must share the folder of --out; 0 of 1 runs'): sweep(plan, workers=0)
    with pytest.raises(ValueError, match='workers must be in 0..'): sweep(plan, workers=10_000)

def test_two_sweeps_on_one_folder(tmp_path):
    "Two commands at once: every run is done once, both say that all is done."
    notebook(tmp_path, 'time.sleep(.3)')
    argv = [*COMMAND, 'sweep', str(grid(tmp_path, range(4))), '--out', str(tmp_path/'runs'), '--workers', '0']
    two = [subprocess.Popen(argv, env=ENV, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    try: said = [p.communicate(timeout=120) for p in two]
    finally:
        for p in two: p.kill()
    assert [p.returncode for p in two] == [0, 0], said
    assert count(tmp_path, 'begin') == 4 and count(tmp_path, 'end') == 4
    numbers = [out.split(' run')[0] for out, _ in said]
    assert sum(map(int, numbers)) == 4, said
    for f in (tmp_path/'runs'/'a').glob('*/done'): assert json.loads(f.read_text())['seconds'] > 0
    assert not list((tmp_path/'runs').rglob('.done*'))                      # no torn file

def test_the_same_run_twice_at_once(tmp_path):
    "The second process waits for the first; with wait=False it is told."
    a = notebook(tmp_path, f'while not os.path.exists("{tmp_path}/go"): time.sleep(.05)')
    got, run = [], lambda: got.append(run_notebook(a, out=tmp_path/'runs', progress=False))
    first, second = (threading.Thread(target=run, daemon=True) for _ in range(2))
    try:
        first.start(); until(lambda: count(tmp_path, 'begin'))
        nb = experiments.read_notebook(a); values = experiments.run_values(nb); folder = experiments.run_place(nb, a, values, tmp_path/'runs')
        with pytest.raises(RunBusy, match='another process is doing this run'): run_in_folder(nb, 'a.ipynb', values, folder, progress=False, wait=False)
        second.start(); time.sleep(.5)
        assert second.is_alive() and count(tmp_path, 'begin') == 1
    finally: (tmp_path/'go').touch()
    first.join(60); second.join(60)
    assert sorted(r.skipped for r in got) == [False, True] and count(tmp_path, 'begin') == 1

def test_a_kernel_that_outlives_its_worker_keeps_the_lock(tmp_path):
    a = notebook(tmp_path, f'open("{tmp_path}/pid", "w").write(str(os.getpid())); time.sleep(60)')
    p = subprocess.Popen([*COMMAND, 'run', str(a), '--out', str(tmp_path/'runs')], env=ENV, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try: kernel = int(until(lambda: (tmp_path/'pid').exists() and (tmp_path/'pid').read_text()))
    except BaseException: p.kill(); raise
    lock, = (tmp_path/'runs'/'a').glob('.*.lock')
    fd = os.open(lock, os.O_RDWR)
    os.kill(kernel, signal.SIGSTOP)                                         # it cannot notice that its parent is gone
    p.kill(); p.wait()
    try: assert not experiments._try_lock(fd)
    finally: os.kill(kernel, signal.SIGKILL)
    until(lambda: experiments._try_lock(fd), 10); os.close(fd)

@pytest.mark.parametrize('stop, workers', [(signal.SIGINT, '1'), (signal.SIGTERM, '0')], ids=['ctrl-c', 'sigterm'])
def test_stopped(tmp_path, stop, workers):
    "Ctrl-C as a terminal sends it, to the whole group of processes; SIGTERM as a cluster does, to the command."
    notebook(tmp_path, f'open("{tmp_path}/pid", "w").write(str(os.getpid()))\nif n: time.sleep(200)')
    p = subprocess.Popen([*COMMAND, 'sweep', str(grid(tmp_path, range(3))), '--out', str(tmp_path/'runs'), '--workers', workers], env=ENV, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        until(lambda: count(tmp_path, 'begin') == 2 and count(tmp_path, 'end') == 1 and len(list((tmp_path/'runs').rglob('done'))) == 1)
        time.sleep(.3)
        os.killpg(p.pid, stop) if stop == signal.SIGINT else p.send_signal(stop)
        out, err = p.communicate(timeout=120)
    finally: p.kill()
    assert p.returncode == 130 and 'Traceback' not in err, (p.returncode, err)
    assert err.strip().splitlines()[-1] == 'interrupted: 1 of 3 runs are done and kept: the same command goes on with the rest', err
    kernel = int((tmp_path/'pid').read_text())
    def gone():
        try: os.kill(kernel, 0)
        except ProcessLookupError: return True
    until(gone, 15)
    assert sorted(states(plan_sweep(tmp_path/'g.yaml', tmp_path/'runs'))) == ['done', 'new', 'stopped']

def test_a_full_disk(tmp_path, monkeypatch, capsys):
    "Inside the notebook (/dev/full is a disk without room), and where the run writes its own files."
    notebook(tmp_path, f'if n == 1 and not os.path.exists("{tmp_path}/room"): print("x", file=open("/dev/full", "w"), flush=True)')
    monkeypatch.chdir(tmp_path); grid(tmp_path, range(3))
    argv = ['sweep', 'g.yaml', '--workers', '0']
    assert cli.main(argv) == 1
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last == 'error: the disk is full: make room, or choose another --out; 1 of 3 runs are done and kept: the same command goes on with the rest', last
    assert states(plan_sweep('g.yaml')) == ['done', 'failed', 'new']
    (tmp_path/'room').touch()
    write = experiments._write
    def full(path, f):
        if path.name == 'out.html': raise OSError(28, 'No space left on device', str(path))
        write(path, f)
    with monkeypatch.context() as m:
        m.setattr(experiments, '_write', full)
        assert cli.main(argv) == 1 and 'the disk is full' in capsys.readouterr().err
    assert states(plan_sweep('g.yaml')).count('done') == 1                  # no done beside a torn page
    assert cli.main(argv) == 0 and states(plan_sweep('g.yaml')) == ['done']*3
    assert count(tmp_path, 'begin') == 5

def test_a_package_that_changes(tmp_path, monkeypatch):
    notebook(tmp_path); plan = plan_sweep(grid(tmp_path, [1, 2]), tmp_path/'runs')
    monkeypatch.setattr(sweeps, 'package_hash', type('', (), {'__call__': lambda s: 'old', '__wrapped__': staticmethod(lambda: 'new')})())
    with pytest.raises(SweepStopped, match='not the one that this sweep began with; 0 of 2'): sweep(plan, workers=0)
    assert count(tmp_path, 'begin') == 0

def test_failures_do_not_stop_the_others_and_are_tried_again(tmp_path, monkeypatch, capsys):
    notebook(tmp_path, f'if n == 1 and not os.path.exists("{tmp_path}/mended"): raise KeyError("one")')
    monkeypatch.chdir(tmp_path); grid(tmp_path, range(3))
    assert cli.main(['sweep', 'g.yaml', '--workers', '0']) == 1
    out, err = capsys.readouterr()
    assert '2 runs done in' in out and '1 failed (the same command tries it again):\n  n=1: cell 3 of a.ipynb stopped with KeyError' in out, out
    plan = plan_sweep('g.yaml'); folder = plan.cells[1].folder
    assert states(plan) == ['done', 'failed', 'done'] and 'KeyError' in (folder/'out.ipynb').read_text() and json.loads((folder/'failed').read_text())['name'] == 'KeyError'
    assert cli.main(['sweep', 'g.yaml', '--dry-run']) == 0
    assert capsys.readouterr().out.startswith('3 runs of a (3 n), 2 done, 1 failed before, 1 to do; about ')
    (tmp_path/'mended').touch()
    assert cli.main(['sweep', 'g.yaml', '--workers', '0']) == 0
    assert count(tmp_path, 'begin') == 4 and not (folder/'failed').exists()
    assert 'tfinpaint collect g.yaml' in capsys.readouterr().out

def test_grids_that_are_refused(tmp_path, monkeypatch, capsys):
    "The command answers each mistake in one sentence, exit code 2; nothing is written."
    monkeypatch.chdir(tmp_path); notebook(tmp_path)
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell('x = 3')]), 'plain.ipynb')
    base = dict(notebook='a.ipynb')
    for g, words in [(base | dict(gird=dict(n=[1])), ("'gird'", "did you mean 'grid'")), (base | dict(grid=dict(m=[1])), ("no parameter 'm'",)), (base | dict(grid=dict(n=[1, 100])), ('n must be in 0..99, got 100',)),
                     (base | dict(grid=dict(n=[])), ('at least one value',)), (base | dict(grid=dict(n=[1]), where='n > 1'), ('leaves no run',)), (base | dict(grid=dict(n=[1]), seeds=2), ('no parameter seed',)),
                     (base | dict(preset='paper'), ("no preset 'paper'",)), (dict(notebook='plain.ipynb'), ('no cell tagged "parameters"',)), (dict(notebook='b.ipynb'), ('no notebook at b.ipynb',)),
                     (base | dict(grid=dict(n=list(range(100)), folder=[str(i) for i in range(1001)])), ('100,100 runs', 'split it'))]:
        Path('g.yaml').write_text(yaml.safe_dump(g, sort_keys=False))
        assert cli.main(['sweep', 'g.yaml']) == 2
        out, err = capsys.readouterr()
        assert not out and err.startswith('error: ') and err.count('\n') == 1 and all(w in err for w in words), err
    Path('g.yaml').write_text(yaml.safe_dump(base | dict(grid=dict(n=list(range(100)), folder=[str(i) for i in range(11)])), sort_keys=False))
    assert cli.main(['sweep', 'g.yaml']) == 2
    assert (err := capsys.readouterr().err).startswith('error: 1100 runs of a (100 n x 11 folder), 1100 to do') and '--yes' in err and err.count('\n') == 1
    assert cli.main(['sweep', 'g.yaml', '--dry-run']) == 0
    assert not Path('runs').exists() and count(tmp_path, 'begin') == 0

def test_a_long_sweep_is_only_begun_knowingly(tmp_path):
    notebook(tmp_path); plan = plan_sweep(grid(tmp_path, range(3)), tmp_path/'runs')
    (plan.folder/'other').mkdir(parents=True); (plan.folder/'other'/'done').write_text('{"seconds": 40000}')
    with pytest.raises(ValueError, match='about 33.3 h with 1 worker, at 11.1 h a run'): sweep(plan, workers=1)
    sweeps.check_size(plan, 2, False, True); sweeps.check_size(plan, 3, False, False)

METRICS = '''n: int = 1  # number
seed: int = 5  # seed
kind: Optional[str] = None  # free text'''

def run_made_by_hand(folder, params, metrics, code='c0de', **facts):
    import pandas as pd
    folder.mkdir(parents=True)
    (folder/'params.yaml').write_text(yaml.safe_dump(params))
    if metrics is not None: pd.DataFrame(metrics).to_parquet(folder/'metrics.parquet')
    (folder/'done').write_text(json.dumps(dict(seconds=1.5, code=code, package='p', python='3', torch='2', tfinpaint='0', machine='m', finished='2026-11-25T10:00:00Z') | facts))

def test_one_table(tmp_path, capsys):
    runs = tmp_path/'runs'/'a'
    run_made_by_hand(runs/'r1', dict(n=1, seed=5, kind=None), [dict(method='ar', seed=5, lsd=1.), dict(method='ar', seed=6, lsd=2.)])
    run_made_by_hand(runs/'r2', dict(n=2, seed=5, kind='x'), [dict(method='ar', seed=5, lsd=3., snr=4.)], changed=True)
    run_made_by_hand(runs/'r3', dict(n=3, seed=5, kind='x'), None)
    (runs/'r4').mkdir(); (runs/'r4'/'params.yaml').write_text('n: 4')       # not finished
    said = []
    t = collect(runs, tmp_path/'t.parquet', tell=said.append)
    assert list(t.n) == [1, 1, 2] and list(t.seed) == [5, 6, 5] and list(t.param_seed) == [5, 5, 5] and list(t.run) == ['r1', 'r1', 'r2'] and set(t.notebook) == {'a'}
    assert list(t.lsd) == [1, 2, 3] and list(t.snr.notna()) == [False, False, True] and set(t.run_code) == {'c0de'} and set(t.run_seconds) == {1.5} and set(t.run_machine) == {'m'}
    assert any('1 run saved no metrics' in s for s in said) and any('the package changed during 1 of the runs' in s for s in said)
    assert read_table(tmp_path/'t.parquet').equals(t)
    assert cli.main(['collect', str(runs), '--table', str(tmp_path/'u.parquet')]) == 0 and '3 rows of 2 runs' in capsys.readouterr().out

def test_tables_of_another_version(tmp_path, monkeypatch, capsys):
    import tfinpaint
    runs = tmp_path/'runs'/'a'
    for i, code in enumerate(['aaaa', 'aaaa', 'bbbb']): run_made_by_hand(runs/f'r{i}', dict(n=i), [dict(lsd=1.)], code)
    run_made_by_hand(runs/'old', dict(n=9), [dict(lsd=1.)]); (runs/'old'/'done').write_text('{"seconds": 1}')   # before there was provenance
    assert cli.main(['collect', str(runs)]) == 2
    err = capsys.readouterr().err
    assert err.count('\n') == 1 and 'runs of 3 versions of the code' in err and 'aaaa (2 runs, tfinpaint 0, until 2026-11-25' in err and 'unknown (1 run' in err and '--any-code' in err
    said = []
    assert list(collect(runs, code='aa', tell=said.append).n) == [0, 1] and 'bbbb (1 run' in said[0]
    assert len(t := collect(runs, tmp_path/'t.parquet', any_code=True)) == 4 and set(t.run_code) == {'aaaa', 'bbbb', 'unknown'}
    with pytest.raises(ValueError, match='no run of the code cccc'): collect(runs, code='cccc')
    monkeypatch.setattr(tfinpaint, '__version__', '99')
    with pytest.raises(ValueError, match='made by tfinpaint .*, this is 99'): read_table(tmp_path/'t.parquet')
    assert len(read_table(tmp_path/'t.parquet', any_version=True)) == 4
    monkeypatch.setattr(sweeps, 'FORMAT', 99)
    with pytest.raises(ValueError, match='no table of this format .1 instead of 99'): read_table(tmp_path/'t.parquet', any_version=True)

def test_damaged_results_are_named(tmp_path):
    runs = tmp_path/'runs'/'a'
    run_made_by_hand(runs/'r1', dict(n=1), [dict(lsd=1.)])
    (runs/'r1'/'metrics.parquet').write_bytes(b'half')
    with pytest.raises(ValueError, match='r1 cannot be read'): collect(runs)
    (runs/'r1'/'done').write_text('{"sec')
    with pytest.raises(ValueError, match='done is damaged'): collect(runs)
    run_made_by_hand(runs/'r2', dict(n=1), [dict(lsd='one')]); run_made_by_hand(runs/'r3', dict(n=1), [dict(lsd=1.)])
    (runs/'r1'/'done').unlink()
    with pytest.raises(ValueError, match='several kinds'): collect(runs, tmp_path/'t.parquet')

def test_preset_of_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    nb = nbformat.read(notebook(tmp_path), 4)
    nb.cells.insert(1, nbformat.v4.new_code_cell("PRESETS = {'smoke': dict(n=7)}", metadata={'tags': ['presets']})); nbformat.write(nb, 'a.ipynb')
    assert cli.main(['run', 'a.ipynb', '--preset', 'smoke']) == 0
    done, = Path('runs/a').glob('*/params.yaml'); assert yaml.safe_load(done.read_text())['n'] == 7
    assert cli.main(['run', 'a.ipynb', '--preset', 'smokes']) == 2 and "did you mean 'smoke'" in capsys.readouterr().err
    assert [c.values['n'] for c in plan_sweep(dict(notebook='a.ipynb', preset='smoke')).cells] == [7]

def test_a_relative_folder_is_found(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path); (tmp_path/'pictures').mkdir(); (tmp_path/'pictures'/'a').touch()
    notebook(tmp_path, 'assert os.listdir(images) == ["a"]', parameters=f'n: int = 0  # number\nfolder: str = {str(tmp_path/"log")!r}  # where it writes\nimages: str = ""  # folder of pictures')
    assert run_notebook('a.ipynb', dict(images='pictures'), progress=False).folder.is_dir()

def test_slurm_example_is_python():
    source = Path(__file__).parent.parent/'nbs'/'50_experiments'/'09_sweeps.ipynb'
    cell, = [c.source for c in nbformat.read(source, 4).cells if c.cell_type == 'code' and 'SLURMCluster(' in c.source]
    compile(cell, 'slurm_cluster.py', 'exec')
