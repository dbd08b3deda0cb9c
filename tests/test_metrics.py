"""Metrics in several processes, and the models of listeners that come in packages of their own."""
import functools, multiprocessing, os
from importlib.resources import files
import numpy as np, pandas as pd, pytest, soundfile as sf, torch
from tfinpaint.audio import metrics as M
from tfinpaint.timefreq.tfmasks import Hole, sample_mask

@pytest.fixture(scope='module')
def clip():
    wave, sr = sf.read(files('tfinpaint')/'examples'/'piano.flac', dtype='float32')
    wave = torch.from_numpy(wave[2*sr:4*sr])
    return dict(reference=wave, sr=sr, sample_mask=sample_mask([Hole(.9, 1.1)], len(wave), sr))

class Killer:
    "Ends the process that unpickles it."
    def __reduce__(self): return os._exit, (3,)

def test_processes_give_the_rows_of_one_process(clip, tmp_path):
    sf.write(tmp_path/'y.wav', (clip['reference']*.5).numpy(), clip['sr'], subtype='FLOAT')
    waves = dict(silence=clip['reference']*clip['sample_mask'], quiet=str(tmp_path/'y.wav'), short=clip['reference'][:-1])
    items = [clip | dict(name=k, estimate=v) for k, v in waves.items()]
    here, there = (M.evaluate_batch(items, metrics='signal', n_jobs=n) for n in (1, 2))
    pd.testing.assert_frame_equal(there, here, rtol=1e-9)
    assert 'same length' in here.error[2] and here.error[:2].isna().all() and list(here.name) == list(waves)
    assert here.snr_hole_db[0] == 0 and abs(here.snr_db[1] - 20*np.log10(2)) < 1e-6

def test_a_process_that_dies_costs_one_row(monkeypatch):
    monkeypatch.setattr(M, '_worker', int)                      # light processes, that need not import torch
    items = [dict(a=0), dict(a=1, x=Killer()), dict(a=2), dict(a=3, x=Killer()), dict(a=4)]
    rows = dict(M._in_processes(functools.partial(dict, note=None), items, 2))
    assert [rows[i].get('a', rows[i].get('error')) for i in range(5)] == [0, 'the process that measured it died', 2, 'the process that measured it died', 4]

def test_an_interrupt_stops_the_processes_and_returns_what_is_done(monkeypatch, clip):
    monkeypatch.setattr(M, '_worker', int)
    real = M._in_processes
    def interrupted(measure, items, n_jobs):
        for i, row in real(functools.partial(dict, snr_db=7., note=None, error=None), [{}]*len(items), n_jobs):
            yield i, row
            raise KeyboardInterrupt
    monkeypatch.setattr(M, '_in_processes', interrupted)
    with pytest.warns(UserWarning, match='1 of 4 items are measured'): table = M.evaluate_batch([clip | dict(estimate=clip['reference'])]*4)
    assert sorted(table.error.fillna('done')) == ['done'] + ['not measured: interrupted']*3 and table.snr_db.max() == 7
    assert not multiprocessing.active_children()

def test_processes_that_cannot_start_say_so(monkeypatch):
    monkeypatch.setattr(M, '_worker', functools.partial(os._exit, 1))
    with pytest.raises(RuntimeError, match='do not start.*__main__'): list(M._in_processes(dict, [{}, {}], 2))

def test_visqol_hears_a_gap_near_it_and_less_from_afar(clip):
    pytest.importorskip('visqol', reason='visqol-python is not installed')
    x, silent = clip['reference'], clip['reference']*clip['sample_mask']
    near, whole = (M.evaluate(x, silent, clip['sr'], clip['sample_mask'], metrics='visqol', margin_s=m)['visqol'] for m in (.5, None))
    assert near < whole - .1 < 4.6 and abs(M.visqol_mos(x, x, clip['sr']) - 4.732) < .001

def test_speechmos_as_it_is_but_repeatable(clip):
    dns = pytest.importorskip('speechmos.dnsmos', reason='speechmos is not installed', exc_type=ImportError)
    from speechmos import plcmos as plc
    x = clip['reference'].numpy().astype(float)
    state = np.random.get_state()[1].copy()
    ours = M.plcmos(x, 16000)
    assert ours == M.plcmos(torch.from_numpy(x), 16000) and (np.random.get_state()[1] == state).all()
    np.random.seed(1)
    assert abs(ours - plc.run(x, 16000)['plcmos']) < .1       # its raters are drawn anew
    want = dns.run(np.resize(x, int(9.01*16000)), 16000)
    for part in ('ovrl', 'p808'): assert M.dnsmos(x, 16000, part) == pytest.approx(want[f'{part}_mos'], abs=1e-4)
    assert M.dnsmos(2*x/abs(x).max(), 16000) > 0              # beyond full scale: clipped as in a file
