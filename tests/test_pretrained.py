"""Loaded networks through the whole of RePaint: learned variance, both formats, sizes; and nothing in a file is ever run."""
import math, pickle
import pytest, torch
from safetensors.torch import save_file
from tfinpaint.diffusion.schedule import linear_schedule, respaced
from tfinpaint.inpainting.masks import half_mask
from tfinpaint.inpainting.pretrained import CountFromZero, GuidedUNet, inpaint_picture, load_guided_diffusion, pad_to_multiple

SMALL = dict(channels=32, multipliers=(1, 2), n_blocks=1, attention=(8,), image_size=16, head_channels=32)
gen = lambda seed=0: torch.Generator().manual_seed(seed)

@pytest.fixture(scope='module')
def state():
    g = gen(3)
    return {k: torch.randn(v.shape, generator=g)*.05 + (v.ndim == 1) for k, v in GuidedUNet(**SMALL).state_dict().items()}

def run(denoiser, y, mask, seed=1): return inpaint_picture(denoiser, y, mask, jump_length=2, jump_n_sample=2, generator=gen(seed))

def test_both_formats_give_the_same_picture(state, tmp_path):
    torch.save(state, tmp_path/'a.pt'); save_file(state, tmp_path/'a.safetensors')
    s, y, m = respaced(linear_schedule(1000), 6), torch.rand(2, 3, 16, 16, generator=gen())*2 - 1, half_mask(16)
    outs = [run(load_guided_diffusion(src, schedule=s, **SMALL), y, m) for src in (state, tmp_path/'a.pt', str(tmp_path/'a.safetensors'))]
    assert torch.equal(outs[0], outs[1]) and torch.equal(outs[0], outs[2])
    assert torch.equal(outs[0][..., m], y[..., m]) and torch.isfinite(outs[0]).all() and outs[0].abs().max() <= 1

def test_the_steps_told_are_those_of_training(state):
    told = []
    class Spy(torch.nn.Module):
        def forward(self, x, t): told.append(t.tolist()); return torch.zeros(len(x), 6, *x.shape[2:])
    den = load_guided_diffusion(state, **SMALL)
    den.net = CountFromZero(Spy(), 3, 2)
    for t in (1, 2, 125, 250): den(torch.zeros(2, 3, 16, 16), t)
    assert told == [[0]*2, [4]*2, [round(124*999/249)]*2, [999]*2]

def test_learned_variance_lies_where_the_network_says(state):
    den, T = load_guided_diffusion(state, **SMALL), 250
    s = den.schedule
    for frac, want in ((-1., lambda t: (s.beta[t]*(1-s.alpha_bar[t-1])/(1-s.alpha_bar[t]))), (1., lambda t: s.beta[t])):
        den.net = lambda x, t: torch.cat([torch.zeros_like(x), torch.full_like(x, frac)], 1)
        for t in (2, 100, T): assert den(torch.zeros(1, 3, 16, 16), t).var.flatten()[0].item() == pytest.approx(want(t).item(), rel=1e-5)

def test_no_code_in_a_file_is_run(tmp_path):
    class Evil:
        def __reduce__(self): return (open, (str(tmp_path/'was_here'), 'w'))
    for name, save in (('zip.pt', torch.save), ('plain.pt', lambda v, p: p.write_bytes(pickle.dumps(v, protocol=2)))):
        save({'w': Evil()}, tmp_path/name)
        with pytest.raises(ValueError, match='download it again') as e: load_guided_diffusion(tmp_path/name, **SMALL)
        assert '\n' not in str(e.value)
    assert not (tmp_path/'was_here').exists()

@pytest.mark.parametrize('side', [(15, 16), (16, 17), (1, 1), (17, 31)])
def test_a_margin_is_missing_and_cut_off(side, state):
    y, m = torch.rand(1, 3, *side, generator=gen()), torch.rand(side, generator=gen(1)) < .5
    p, q = pad_to_multiple(y, m, 8)
    assert all(n % 8 == 0 and 0 <= n-k < 8 for n, k in zip(p.shape[2:], side)) and q.shape == p.shape[2:]
    assert torch.equal(p[..., :side[0], :side[1]], y) and torch.equal(q[:side[0], :side[1]], m) and q.sum() == m.sum()

def test_sizes_that_do_not_divide(state):
    den, y = load_guided_diffusion(state, schedule=respaced(linear_schedule(1000), 4), **SMALL), torch.zeros(1, 3, 13, 19)
    with pytest.warns(UserWarning, match='13x19 is not divisible by 2: padded with missing pixels to 14x20'): out = run(den, y, half_mask((13, 19)))
    assert out.shape == y.shape and not out[..., :9].any()

@pytest.mark.parametrize('wrong, error, word', [(dict(y=torch.zeros(1, 1, 16, 16)), ValueError, 'has 1: repeat'), (dict(y=torch.zeros(1, 2, 16, 16)), ValueError, 'has 2: convert'),
    (dict(y=torch.zeros(1, 4, 16, 16)), ValueError, 'has 4: drop'), (dict(mask=half_mask(8)), ValueError, 'the mask is 8x8, the picture 16x16'),
    (dict(y=torch.full((1, 3, 16, 16), math.nan)), ValueError, 'NaN'), (dict(y=torch.zeros(1, 3, 16, 16, dtype=torch.uint8)), TypeError, '127.5')])
def test_bad_input_is_one_sentence(wrong, error, word, state):
    den, asked = load_guided_diffusion(state, **SMALL), []
    den.net.register_forward_pre_hook(lambda *_: asked.append(1))
    with pytest.raises(error, match=word) as e: run(den, **(dict(y=torch.zeros(1, 3, 16, 16), mask=half_mask(16)) | wrong))
    assert not asked and '\n' not in str(e.value)
