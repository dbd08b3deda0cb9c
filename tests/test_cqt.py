"The model of waves through the whole package: config, training, resuming, weights, restoring. And the published sampler on a law that is known."
import pytest, torch
from tfinpaint.audio import cqtdiff, models
from tfinpaint.audio.datasets import Track
from tfinpaint.diffusion.edm import churn_levels, edm_schedule, heun_churn, lognormal_schedule, sigma_of
from tfinpaint.diffusion.oracle import GaussianPrior
from tfinpaint.timefreq.cqt import CQT

def gen(seed=0): return torch.Generator().manual_seed(seed)
def small(n_steps=4):
    c = {k: dict(v) if isinstance(v, dict) else v for k, v in models.load_config('cqt_piano_16k').items()}
    c['representation'] |= dict(length=2048, n_octaves=3, bins_per_octave=8)
    c['network'] |= dict(channels=8, multipliers=[1, 1, 2], attention=[2], level_db=[0, 5, 3, -10, -20])
    c['training'] |= dict(batch_size=2, valid_size=4, valid_every=2, warmup=2, n_steps=n_steps)
    return c

@pytest.fixture
def recordings(monkeypatch):
    tone = torch.sin(.05*torch.arange(20000.)) + .1*torch.randn(20000, generator=gen())
    monkeypatch.setattr(cqtdiff, 'load_tracks', lambda *a: [Track('a', tone, 16000), Track('b', tone.flip(0), 16000)])

def test_a_resumed_training_equals_the_uninterrupted_one_and_its_weights_restore(recordings, tmp_path):
    whole = models.make_trainer(small(), tmp_path/'a').fit(progress=False, log=False)
    models.make_trainer(small(2), tmp_path/'b').fit(progress=False, log=False)
    again = models.make_trainer(small(), tmp_path/'b')
    assert again.resume() and again.step == 2
    again.fit(progress=False, log=False)
    assert all(torch.equal(v, again.net.state_dict()[k]) for k, v in whole.net.state_dict().items())
    model = models.load_model(str(tmp_path/'a'/'ema.safetensors'), 'cpu')
    assert type(model.net) is cqtdiff.CQTNet and model.rep.length == 2048
    wave, known = .1*torch.randn(1, 5000, generator=gen(1)), torch.ones(5000, dtype=torch.bool)
    known[2400:2480] = False
    y = torch.where(known, wave, float('nan'))
    out = [cqtdiff.cqtdiff_inpaint(y, known, model=model, n_steps=4, generator=gen(2)) for _ in range(2)]
    assert torch.equal(out[0][:, known], wave[:, known]) and torch.isfinite(out[0]).all() and torch.equal(*out)
    card = models.publish(tmp_path/'a', 'waves', target=tmp_path/'shipped')
    assert 'constant-Q transform of 3 octaves' in card and models.load_model(str(tmp_path/'shipped'/'waves.safetensors'), 'cpu').meta['steps'] == 4

@pytest.mark.parametrize('section, key, value, text', [('schedule', 'sigma_min', 2., 'smaller than sigma_max'), ('network', 'level_db', [0.], '5 levels'),
    ('network', 'multipliers', [1], '3 numbers'), ('representation', 'length', 120, 'take a length of'), ('data', 'flip', True, "data has no key 'flip'")])
def test_bad_entries_of_a_config_are_refused(section, key, value, text, recordings, tmp_path):
    c = small(); c[section][key] = value
    with pytest.raises(ValueError, match=text): models.make_trainer(c, tmp_path)
    assert not any(tmp_path.iterdir())

def test_a_spectrogram_model_is_refused():
    model = models.load_model('piano_16k', 'cpu')
    with pytest.raises(ValueError, match='kind: cqt'): cqtdiff.cqtdiff_inpaint(torch.zeros(1, 40000), torch.arange(40000) > 5, model=model)

@pytest.mark.parametrize('law', [edm_schedule(2000, 1e-3, 50., 1., 13.), lognormal_schedule(4000, 0., 1.5, 1.)])
def test_mean_and_variance_of_samples(law):
    prior = GaussianPrior(torch.tensor([1., -2.]), torch.tensor([[1., .9], [.9, 1.]], dtype=torch.float64))
    levels = churn_levels(law, 40, rho=7., s_churn=10.)
    x = heun_churn(levels, prior.denoiser(levels.schedule), torch.randn(8000, 2, generator=gen(3), dtype=torch.float64), generator=gen(4))
    assert sigma_of(levels.schedule)[-1] > 20
    assert (x.mean(0)-prior.mean).abs().max() < .06 and (x.T.cov()-prior.cov).abs().max() < .08

@pytest.mark.parametrize('seed', range(3))
def test_any_transform_comes_back(seed):
    pick = lambda *v: v[int(torch.randint(len(v), (1,), generator=g))]
    g = gen(seed)
    for _ in range(8):
        cqt = CQT(pick(8000, 16000, 22050), pick(3000, 4096, 5002), pick(2, 3, 4), pick(3, 7, 12), pick('sine', 'hann', 'kaiser'), pick('ragged', 'octave', 'matrix'), pick(1, 4, 6))
        x = torch.randn(2, cqt.length, generator=g, dtype=torch.float64)
        assert (cqt.synthesis(cqt.analysis(x)) - x).abs().max() < 1e-12
        assert (cqt.synthesis(cqt.analysis(x.float())) - x).abs().max() < 1e-5
