"Runs of notebooks: strict parameters, once only, failures kept, Ctrl-C leaves nothing that looks finished."
import json, os, signal, subprocess, sys, time
from pathlib import Path
import nbformat, pytest
from tfinpaint import cli
from tfinpaint.lab import experiments
from tfinpaint.lab.experiments import RunFailed, notebook_parameters, run_notebook

PARAMETERS = '''gap_ms: float = 50.  # length of the gap [ms]
n: int = 3  # how often
name: Optional[str] = None  # of a file
quick: bool = True  # yes or no'''

def notebook(path, *cells, parameters=PARAMETERS):
    nb = nbformat.v4.new_notebook(metadata={'kernelspec': {'name': 'no_such_kernel', 'display_name': 'x', 'language': 'python'}})
    nb.cells = [nbformat.v4.new_code_cell('from typing import Optional\nimport os, time\nfrom tfinpaint.lab.experiments import run_folder, save_metrics')]
    if parameters is not None: nb.cells.append(nbformat.v4.new_code_cell(parameters, metadata={'tags': ['parameters']}))
    nb.cells += [nbformat.v4.new_code_cell(c) for c in cells]
    nbformat.write(nb, path)
    return path

COUNT = 'count = run_folder().parent/"count"; count.write_text(str(int(count.read_text())+1) if count.exists() else "1")' # how often it really ran

def test_parameters_are_read(tmp_path):
    got = notebook_parameters(notebook(tmp_path/'a.ipynb'))
    assert [(p.name, p.type, p.default, p.meaning) for p in got.values()] == [('gap_ms', 'float', 50., 'length of the gap [ms]'), ('n', 'int', 3, 'how often'),
                                                                              ('name', 'Optional[str]', None, 'of a file'), ('quick', 'bool', True, 'yes or no')]

def test_wrong_parameters_stop_before_anything_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path); notebook(tmp_path/'a.ipynb', COUNT)
    for argv, words in [(['gap', '200'], ("'gap'", "did you mean 'gap_ms'", 'n: int = 3')), (['n', '2.5'], ('n must be int', 'gap_ms: float = 50.0')), (['quick', 'perhaps'], ('quick must be bool',))]:
        assert cli.main(['run', 'a.ipynb', '-p', *argv]) == 2
        out, err = capsys.readouterr()
        assert not out and err.count('\n') == 1 and all(w in err for w in words), err
    assert not (tmp_path/'runs').exists()
    notebook(tmp_path/'b.ipynb', parameters=None)
    assert cli.main(['run', 'b.ipynb']) == 2 and 'tagged "parameters"' in capsys.readouterr().err

def test_a_run_its_files_and_that_it_is_done_once(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    notebook(tmp_path/'a.ipynb', COUNT, 'save_metrics([dict(method="x", gap=gap_ms, n=n, quick=str(quick), name=str(name))]);', '#| eval: false\nraise SystemError("a stub ran")')
    argv = ['run', 'a.ipynb', '-p', 'gap_ms', '200', '-p', 'n', '-4', '-p', 'quick', 'no']
    assert cli.main(argv) == 0
    out, err = capsys.readouterr()
    folder, = [p for p in (tmp_path/'runs'/'a').iterdir() if p.is_dir()]
    assert f'results in {folder.relative_to(tmp_path)}/' in out and '200.00' in out and '-4.00' in out and 'False' in out
    assert 'Executing' in err and '100%' in err # the progress bar
    assert sorted(p.name for p in folder.iterdir()) == ['done', 'metrics.parquet', 'out.html', 'out.ipynb', 'params.yaml']
    assert (folder/'params.yaml').read_text() == 'gap_ms: 200.0\nn: -4\nname: null\nquick: false\n'
    assert '<html' in (folder/'out.html').read_text()
    assert 'TFINPAINT_RUN_DIR' not in os.environ
    for text in ('200', '200.0', '2e2'): # the same value, written otherwise: the same run
        assert cli.main(['run', 'a.ipynb', '-p', 'gap_ms', text, '-p', 'n=-4', '-p', 'quick', 'False']) == 0
        assert 'already done' in capsys.readouterr().out
    assert (tmp_path/'runs/a/count').read_text() == '1'
    assert cli.main([*argv, '--force']) == 0 and (tmp_path/'runs/a/count').read_text() == '2'

def test_what_makes_a_run_another_run(tmp_path, monkeypatch):
    nb = experiments.read_notebook(notebook(tmp_path/'a.ipynb', 'x = 1'))
    values = experiments.check_parameters(notebook_parameters(nb), {})
    h = experiments.run_hash(nb, values)
    assert experiments.run_hash(nb, {**values, 'n': 4}) != h
    nb.cells.append(nbformat.v4.new_markdown_cell('a sentence')); assert experiments.run_hash(nb, values) == h
    monkeypatch.setattr(experiments, 'package_hash', lambda: 'other code'); assert experiments.run_hash(nb, values) != h

def test_the_kernel_is_this_interpreter_and_works_in_the_folder(tmp_path):
    a = notebook(tmp_path/'a.ipynb', 'import sys; save_metrics([dict(python=sys.executable, cwd=os.getcwd(), prefix=sys.prefix)]);')
    run = run_notebook(a, out=tmp_path/'runs', progress=False)
    assert run.metrics.prefix[0] == sys.prefix and Path(run.metrics.cwd[0]) == run.folder

def test_a_file_that_a_parameter_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path); (tmp_path/'clip.txt').write_text('one')
    a = notebook(tmp_path/'a.ipynb', 'save_metrics([dict(text=open(name).read())]);')
    first = run_notebook(a, {'name': 'clip.txt'}, progress=False)
    assert first.metrics.text[0] == 'one' # found, although the notebook works in another folder
    (tmp_path/'clip.txt').write_text('two')
    second = run_notebook(a, {'name': 'clip.txt'}, progress=False)
    assert second.folder != first.folder and second.metrics.text[0] == 'two'

def test_a_failure_is_kept_and_tried_again(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    a = notebook(tmp_path/'a.ipynb', COUNT, 'print("before")', f'if not os.path.exists({str(tmp_path/"ready")!r}): raise FileNotFoundError("nothing is ready\\nsecond line")')
    assert cli.main(['run', 'a.ipynb']) == 2
    out, err = capsys.readouterr()
    last = err.strip().splitlines()[-1]
    assert last.startswith('error: cell 5 of a.ipynb stopped with FileNotFoundError: nothing is ready (the notebook as it stopped: '), err
    assert 'Traceback' not in err
    kept = Path(last.rsplit(': ', 1)[1].rstrip(')'))
    assert 'before' in kept.read_text() and not (kept.parent/'done').exists()
    (tmp_path/'ready').touch()
    assert cli.main(['run', 'a.ipynb']) == 0 and (tmp_path/'runs/a/count').read_text() == '2'
    assert (kept.parent/'done').exists()

def test_a_mistake_of_the_notebook_is_exit_code_1(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path); notebook(tmp_path/'a.ipynb', 'undefined_name')
    assert cli.main(['run', 'a.ipynb']) == 1
    assert 'NameError' in capsys.readouterr().err.splitlines()[-1]

def test_folders_that_cannot_be_used(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path); a = notebook(tmp_path/'a.ipynb'); (tmp_path/'file').write_text('x')
    assert cli.main(['run', 'a.ipynb', '--out', 'file']) == 2
    out, err = capsys.readouterr(); assert err.startswith('error: ') and err.count('\n') == 1
    nb = experiments.read_notebook(a)
    folder = tmp_path/'runs'/'a'/experiments.run_hash(nb, experiments.check_parameters(notebook_parameters(nb), {}))
    folder.mkdir(parents=True); (folder/'thesis.txt').write_text('years of work')
    assert cli.main(['run', 'a.ipynb', '--force']) == 2 and (folder/'thesis.txt').exists() # never deletes what no run made
    assert 'no run made' in capsys.readouterr().err

def test_ctrl_c(tmp_path):
    notebook(tmp_path/'a.ipynb', f'open({str(tmp_path/"pid")!r}, "w").write(str(os.getpid()))', 'time.sleep(60)')
    p = subprocess.Popen([sys.executable, '-c', 'import sys; from tfinpaint.cli import main; sys.exit(main())', 'run', 'a.ipynb'], cwd=tmp_path,
                         stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, 'OMP_NUM_THREADS': '1'})
    try:
        end = time.monotonic()+60
        while not ((tmp_path/'pid').exists() and (tmp_path/'pid').read_text()) and time.monotonic() < end and p.poll() is None: time.sleep(.1)
        time.sleep(.3); p.send_signal(signal.SIGINT)
        out, err = p.communicate(timeout=30)
    finally: p.kill()
    assert p.returncode == 130, (p.returncode, out, err)
    assert err.strip().splitlines()[-1].startswith('interrupted: this run does not count as finished') and 'Traceback' not in err, err
    assert not list(tmp_path.glob('runs/a/*/done'))
    kernel = int((tmp_path/'pid').read_text())
    for _ in range(50): # the kernel goes too
        try: os.kill(kernel, 0)
        except ProcessLookupError: break
        time.sleep(.1)
    else: pytest.fail('the kernel still runs')
