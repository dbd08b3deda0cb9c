"The command line: exit codes, one sentence for every mistake, nothing heavy before it is needed."
import importlib, os, subprocess, sys
import pytest
from tfinpaint import cli

ENV = {**os.environ, 'OMP_NUM_THREADS': '1'}

@pytest.fixture
def say(capsys, tmp_path, monkeypatch):
    "Run a command in this process, in an empty folder: (exit code, stdout, stderr)."
    monkeypatch.chdir(tmp_path); monkeypatch.delenv('TFINPAINT_DEBUG', raising=False)
    def call(*argv):
        code = cli.main([str(a) for a in argv])
        return code, *capsys.readouterr()
    return call

def refused(answer, *words):
    "The answer is one sentence on stderr, exit code 2, and names what matters."
    code, out, err = answer
    assert code == 2 and not out, answer
    assert err.startswith('error: ') and err.count('\n') == 1, err
    for w in words: assert w in err, err

def test_help_in_a_fresh_process_loads_nothing_heavy():
    code = "import sys; from tfinpaint.cli import main; c = main(['--help']); print(c, sorted({'torch', 'numpy', 'pandas', 'matplotlib', 'rich', 'yaml'} & set(sys.modules)))"
    r = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, env=ENV)
    assert r.stdout.splitlines()[-1] == '0 []' and not r.stderr
    for command in ('restore', 'run', 'sweep', 'collect', 'train', 'models', 'data'): assert f'  {command} ' in r.stdout

def test_version(say):
    import tfinpaint
    assert say('--version') == (0, f'tfinpaint {tfinpaint.__version__}\n', '')

@pytest.mark.parametrize('command', ['restore', 'run', 'sweep', 'collect', 'train', 'models', 'data'])
def test_help_of_each_command(say, command):
    code, out, err = say(command, '--help')
    assert code == 0 and out.startswith(f'Usage: tfinpaint {command}')

@pytest.mark.parametrize('argv, word', [(['restore', 'in.wav'], 'OUT'), (['restore', 'a', 'b', '--gapp', '1:2'], '--gapp'), (['restore', 'a', 'b', '--steps', '0'], 'steps'),
                                        (['restore', 'a', 'b', '--seed', 'x'], 'seed'), (['nothing'], 'nothing'), (['train', 'x', '--minutes', 'long'], 'minutes')])
def test_usage_errors(say, argv, word):
    code, out, err = say(*argv)
    assert code == 2 and word in err and 'Traceback' not in err

@pytest.mark.parametrize('option, text', [('gap', '1-2'), ('gap', ''), ('gap', '1:2:3'), ('band', '500'), ('band', 'low:high'), ('box', '1:2'), ('box', '1:2:3')])
def test_holes_that_cannot_be_read(say, option, text):
    refused(say('restore', 'in.wav', 'out.wav', f'--{option}', text), f'--{option}', repr(text))

@pytest.mark.parametrize('option, text', [('gap', '-1:2'), ('gap', '2:1'), ('gap', 'nan:1'), ('gap', '1:inf'), ('band', '2000:500'), ('box', '2:1:0:100')])
def test_holes_that_cannot_be(say, option, text, tmp_path):
    import numpy as np, soundfile as sf
    sf.write(tmp_path/'in.wav', np.sin(np.arange(16000)/9).astype('float32')*.1, 16000)
    refused(say('restore', 'in.wav', 'out.wav', f'--{option}', text, '--method', 'zero'))
    assert not (tmp_path/'out.wav').exists()

def test_files_that_are_not_there(say, tmp_path):
    refused(say('restore', 'in.wav', 'out.wav', '--gap', '1:2'), 'in.wav')
    refused(say('run', 'x.ipynb'), 'x.ipynb')
    refused(say('sweep', 'x.yaml'), 'x.yaml')
    refused(say('collect', 'x'), 'no folder of runs at x'); refused(say('collect', 'x.yaml'), 'x.yaml'); refused(say('collect', 'x.ipynb'), 'x.ipynb')
    refused(say('train', 'x.yaml'), 'x.yaml')
    refused(say('restore', tmp_path, 'out.wav', '--gap', '1:2'), 'folder')

def test_files_that_are_something_else(say, tmp_path):
    for name in ('x.wav', 'x.ipynb', 'x.yaml'): (tmp_path/name).write_text('{ [')
    refused(say('restore', 'x.wav', 'out.wav', '--gap', '1:2'), 'x.wav')
    refused(say('run', 'x.ipynb'), 'x.ipynb')
    refused(say('sweep', 'x.yaml'), 'x.yaml')
    refused(say('train', 'x.yaml'), 'x.yaml')

def test_names_that_do_not_exist(say, tmp_path):
    import numpy as np, soundfile as sf
    sf.write(tmp_path/'in.wav', np.sin(np.arange(16000)/9).astype('float32')*.1, 16000)
    refused(say('restore', 'in.wav', 'out.wav', '--gap', '.4:.5', '--method', 'magic'), "'magic'", 'repaint', 'interpolation')
    refused(say('restore', 'in.wav', 'out.wav', '--gap', '.4:.5', '--model', 'magic'), "'magic'")
    refused(say('train', 'piano_16k', '--device', 'abacus'), "'abacus'", 'cpu')
    refused(say('data', 'prepare', 'nothing'), "'nothing'", 'piano_ishizaka')

def test_a_restored_file(say, tmp_path):
    import numpy as np, soundfile as sf
    wave = np.sin(np.arange(16000)/9).astype('float32')*.1
    wave[6400:8000] = 0
    sf.write(tmp_path/'in.wav', wave, 16000, subtype='FLOAT')
    code, out, err = say('restore', 'in.wav', 'out.wav', '--gap', '.4:.5', '--method', 'ar')
    assert code == 0 and out.startswith('out.wav: restored by ar, 1 stretch,'), (out, err)
    got = sf.read(tmp_path/'out.wav', dtype='float32')[0]
    assert (np.delete(got, np.s_[6400:8000]) == np.delete(wave, np.s_[6400:8000])).all()
    assert np.abs(got[6400:8000] - np.sin(np.arange(6400, 8000)/9)*.1).max() < .02

def test_entries_of_a_config(say):
    refused(say('train', 'piano_16k', '-p', 'training.bacth_size', '4'), "did you mean 'training.batch_size'")
    refused(say('train', 'piano_16k', '-p', 'batch_size', '4'), 'training.batch_size')
    refused(say('train', 'piano_16k', '-p', 'training.batch_size', 'four'), 'must be int')
    refused(say('train', 'piano_16k', '-p', 'training.lr', 'nan'), 'must be float')
    refused(say('train', 'piano_16k', '-p', 'training.lr'), 'a name and a value')

def test_lists(say):
    assert 'piano_ishizaka' in say('data', 'list')[1]
    code, out, _ = say('models')
    assert code == 0 and ('licence' in out or 'no models' in out)

def test_interrupted(say, monkeypatch, tmp_path):
    def stop(*a, **k): raise KeyboardInterrupt
    monkeypatch.setattr('tfinpaint.audio.restore.restore_file', stop)
    assert say('restore', 'in.wav', 'out.wav', '--gap', '1:2') == (130, '', '\ninterrupted: out.wav was not written\n')

def test_foreseen_and_unforeseen(say, monkeypatch):
    def broken(*a, **k): raise error
    monkeypatch.setattr('tfinpaint.audio.restore.restore_file', broken)
    error = PermissionError(13, 'Permission denied', 'out.wav')
    refused(say('restore', 'in.wav', 'out.wav'), 'Permission denied: out.wav')
    monkeypatch.setenv('TFINPAINT_DEBUG', '1')
    with pytest.raises(PermissionError): say('restore', 'in.wav', 'out.wav')
    monkeypatch.delenv('TFINPAINT_DEBUG')
    error = KeyError('a mistake of ours') # keeps its traceback
    with pytest.raises(KeyError): say('restore', 'in.wav', 'out.wav')
