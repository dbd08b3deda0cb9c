"Twisted particles against a law that is known: two correlated Gaussian numbers, one of them given."
import pytest, torch
from tfinpaint.diffusion.oracle import GaussianPrior
from tfinpaint.diffusion.schedule import linear_schedule
from tfinpaint.inpainting.guidance import METHODS, moment_matching, snr_levels, tds
from tfinpaint.inpainting.problem import Inpainting

PAIR = GaussianPrior(torch.zeros(2), torch.tensor([[1., .9], [.9, 1.]], dtype=torch.float64))
FIRST = Inpainting(torch.tensor([True, False]))
def gen(seed=0): return torch.Generator().manual_seed(seed)

@pytest.mark.parametrize('run', [lambda *a, **k: tds(*a, n_particles=32, **k), moment_matching], ids=['tds', 'moment_matching'])
def test_mean_and_variance_of_the_missing_number(run):
    s, B = snr_levels(linear_schedule(), 60), 400
    y = torch.tensor([1.5, 0.], dtype=torch.float64).expand(B, 2)
    x = run(PAIR.denoiser(s), FIRST, y, s, generator=gen(3))
    assert torch.equal(x[:, 0], y[:, 0])
    assert abs(x[:, 1].mean() - 1.35) < 4*(.19/B)**.5 and abs(x[:, 1].var() - .19) < 4*.19*(2/B)**.5

def test_the_table_names_every_method():
    assert {'replacement', 'repaint', 'warm_start', 'ddnm', 'dps', 'pigdm', 'cqtdiff', 'moment_matching', 'tds'} == set(METHODS)
