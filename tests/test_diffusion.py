"""What spans the modules of Part I: round trips over all schedules, parity with diffusers, and training runs that are killed."""
import hashlib, math, os, signal, subprocess, sys, textwrap, time
from pathlib import Path
import numpy as np
import pytest, torch, yaml
from hypothesis import given, settings, strategies as st
from tfinpaint.diffusion.ddpm import (PREDICTS, NetDenoiser, Prediction, discrete_log_prob, from_output, gaussian_kl, hybrid_loss, learned_var, p_sample,
    posterior, to_score, to_v, vlb_term)
from tfinpaint.diffusion.schedule import cosine_schedule, linear_schedule, q_sample, q_step, respaced
from tfinpaint.diffusion.training import TrainConfig, Trainer, deferred_signals, ema_update, load_weights, step_generator
from tfinpaint.diffusion.unet import Attention, ResBlock, UNet, time_embedding

@st.composite
def schedules(draw):
    s = draw(st.sampled_from([linear_schedule, cosine_schedule]))(draw(st.integers(2, 400)))
    return respaced(s, draw(st.integers(1, s.n_steps))) if draw(st.booleans()) else s

def randn(*shape, seed=0): return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))

# properties

@settings(max_examples=60, deadline=None)
@given(schedules(), st.data(), st.sampled_from(PREDICTS), st.integers(0, 2**31))
def test_every_parametrisation_gives_back_signal_and_noise(s, data, predicts, seed):
    t = torch.tensor(data.draw(st.lists(st.integers(1, s.n_steps), min_size=3, max_size=3)))
    x0, eps = randn(2, 3, 2, 4, seed=seed)
    x_t = q_sample(s, x0, t, eps)
    got = from_output(s, {'v': to_v(s, x0, eps, t), 'eps': eps, 'x0': x0, 'score': to_score(s, eps, t)}[predicts], x_t, t, predicts)
    amplified = 1 + (s.snr[t].clamp(1e-12)**(.5 if predicts == 'x0' else -.5)).max().item() # an error of rounding grows by this
    assert (got[0]-x0).abs().max() < 1e-12*amplified and (got[1]-eps).abs().max() < 1e-12*amplified

@settings(max_examples=40, deadline=None)
@given(schedules(), st.data())
def test_any_stretch_of_the_chain_is_one_jump(s, data):
    a, b = sorted(data.draw(st.lists(st.integers(0, s.n_steps), min_size=2, max_size=2)))
    c, basis = torch.eye(1, b-a+1, dtype=torch.float64), torch.eye(b-a+1, dtype=torch.float64)
    for i, t in enumerate(range(a+1, b+1), 1): c = q_step(s, c, t, basis[i:i+1])
    ratio = (s.alpha_bar[b]/s.alpha_bar[a]).item()
    assert abs(c[0, 0].item() - ratio**.5) < 1e-12 and abs(c[0, 1:].square().sum().item() - (1-ratio)) < 1e-12

@settings(max_examples=40, deadline=None)
@given(schedules(), st.data())
def test_posterior_and_forward_process_agree(s, data):
    "Averaged over q(x_t | x0), the posterior is q(x_{t-1} | x0): mean and variance, exactly."
    t = data.draw(st.integers(1, s.n_steps))
    one, zero = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    (c0, var), (ct, _) = posterior(s, one, zero, t), posterior(s, zero, one, t)
    now, before = s.alpha_bar[t], s.alpha_bar[t-1]
    assert abs(c0 + ct*now.sqrt() - before.sqrt()) < 1e-10 and abs(ct**2*(1-now) + var - (1-before)) < 1e-10

@settings(max_examples=40, deadline=None)
@given(schedules(), st.floats(-2, 2), st.floats(.01, 4))
def test_bound_of_exact_reverse_steps_is_the_entropy(s, m, var):
    """Gaussian data, the exact denoiser with its optimal variance: all terms together are the entropy and KL(q(x_T) || N(0, 1)).

    Each term is quadratic in x0 and eps, so its average over both is that over x0 = m +- deviation, eps = +-1, exactly.
    """
    T, std = s.n_steps, var**.5
    t = torch.arange(1, T+1).repeat_interleave(4)
    x0, eps = torch.tensor([[m-std, -1], [m-std, 1], [m+std, -1], [m+std, 1]], dtype=torch.float64).repeat(T, 1).T[:, :, None]
    x_t, a, prev, b = q_sample(s, x0, t, eps), s.alpha_bar[t][:, None], s.alpha_bar[t-1][:, None], s.beta[t][:, None]
    doubt = (1-a)*var/(a*var + 1-a)
    guess = m + a.sqrt()*doubt/(1-a)*(x_t - a.sqrt()*m)
    best = b*(1-prev)/(1-a) + prev*b**2/(1-a)**2*doubt
    total = vlb_term(s, Prediction(guess, eps, best), x0, x_t, t).sum().item()/4
    end = s.alpha_bar[-1]
    last = gaussian_kl(end.sqrt()*m, 1-end, torch.zeros(()), torch.ones(()))/math.log(2) + (end*var/2/math.log(2)) # averaged over x0
    kl = gaussian_kl(end.sqrt()*m, end*var + 1-end, torch.zeros(()), torch.ones(()))/math.log(2)
    assert abs(total + last - math.log2(2*math.pi*math.e*var)/2 - kl) < 1e-8
    for worse in (best*1.5, best/1.5): assert vlb_term(s, Prediction(guess, eps, worse), x0, x_t, t).sum().item()/4 > total

@settings(max_examples=60, deadline=None)
@given(st.floats(-3, 3), st.floats(-4, 1), st.integers(2, 300))
def test_the_decoder_is_a_distribution(mean, log_std, levels):
    grid = -1 + 2*torch.arange(levels, dtype=torch.float64)/(levels-1)
    p = discrete_log_prob(grid, torch.full_like(grid, mean), torch.tensor(10**(2*log_std), dtype=torch.float64), levels)
    assert torch.isfinite(p).all() and abs(p.exp().sum().item() - 1) < 1e-9

@settings(max_examples=40, deadline=None)
@given(schedules(), st.data(), st.sampled_from(PREDICTS), st.sampled_from(['gaussian', 'discrete']), st.integers(0, 2**31))
def test_hybrid_loss_is_stopped_at_the_mean(s, data, predicts, decoder, seed):
    t = torch.tensor(data.draw(st.lists(st.integers(1, s.n_steps), min_size=3, max_size=3)))
    x0, eps, mean, u = randn(4, 3, 2, 4, seed=seed)
    x0 = (x0.clamp(-1, 1)*127.5 + 127.5).round()/127.5 - 1
    mean, u = mean.requires_grad_(), u.clamp(-1, 1).requires_grad_()
    net = lambda x_t, t: torch.cat([mean, u], 1)
    with_bound = torch.autograd.grad(hybrid_loss(net, s, x0, t, eps, predicts, decoder=decoder).sum(), [mean, u])
    target = {'v': to_v(s, x0, eps, t), 'eps': eps, 'x0': x0, 'score': to_score(s, eps, t)}[predicts]
    want = torch.autograd.grad((mean - target).square().flatten(1).mean(1).sum(), mean)[0] # the simple loss alone
    torch.testing.assert_close(with_bound[0], want, rtol=1e-5, atol=1e-5*want.abs().max().item())
    assert torch.isfinite(with_bound[1]).all() and learned_var(s, u, t).min() > 0

# parity with diffusers

def scheduler(name, **kw):
    diffusers = pytest.importorskip('diffusers')
    return diffusers.DDPMScheduler(1000, beta_schedule={'linear': 'linear', 'cosine': 'squaredcos_cap_v2'}[name], beta_start=1e-4, beta_end=.02,
                                   clip_sample=False, **kw)

OURS = {'linear': linear_schedule(), 'cosine': cosine_schedule()}

@pytest.mark.parametrize('name', OURS)
def test_tables_equal_those_of_diffusers(name):
    theirs, ours = scheduler(name), OURS[name]
    np.testing.assert_allclose(ours.beta[1:], theirs.betas.double(), rtol=2e-6, atol=1e-7)
    np.testing.assert_allclose(ours.alpha_bar[1:], theirs.alphas_cumprod.double(), rtol=2e-5, atol=1e-7)

def test_respaced_levels_equal_those_of_diffusers():
    theirs = scheduler('linear', timestep_spacing='linspace'); theirs.set_timesteps(250)
    assert (respaced(OURS['linear'], 250).timesteps[1:].flip(0) - 1).tolist() == theirs.timesteps.tolist()

@pytest.mark.parametrize('name', OURS)
@pytest.mark.parametrize('predicts', ['eps', 'x0', 'v'])
@pytest.mark.parametrize('variance', ['posterior', 'beta', 'learned'])
@pytest.mark.parametrize('n_steps', [1000, 250])
def test_reverse_step_equals_that_of_diffusers(name, predicts, variance, n_steps):
    theirs = scheduler(name, prediction_type={'eps': 'epsilon', 'x0': 'sample', 'v': 'v_prediction'}[predicts],
                       variance_type={'posterior': 'fixed_small', 'beta': 'fixed_large', 'learned': 'learned_range'}[variance])
    s = respaced(OURS[name], n_steps)
    theirs.set_timesteps(timesteps=(s.timesteps[1:]-1).flip(0).tolist())
    for t in (n_steps-n_steps//20, n_steps//2, n_steps//8): # single precision of their tables limits the comparison at both ends
        x, out = randn(2, 3, 4, 4, seed=t).float(), randn(2, 6 if variance == 'learned' else 3, 4, 4, seed=t+1).float().clamp(-1, 1)
        ours = p_sample(s, NetDenoiser(lambda x_t, step: out, s, predicts, variance), x, t, torch.Generator().manual_seed(t))
        want = theirs.step(out, int(s.timesteps[t])-1, x, generator=torch.Generator().manual_seed(t)).prev_sample
        assert (ours-want).abs().max() < 1e-5*max(1, want.abs().max().item()), t

# the network beside that of diffusers: their weights in our code

def test_time_embedding_equals_that_of_diffusers():
    embeddings = pytest.importorskip('diffusers.models.embeddings')
    t = torch.tensor([1, 2, 17, 500, 1000])
    for dim in (8, 64, 128):
        want = embeddings.get_timestep_embedding(t, dim, flip_sin_to_cos=True, downscale_freq_shift=0)
        torch.testing.assert_close(time_embedding(t, dim), want, rtol=0, atol=1e-6)

@pytest.fixture
def theirs(): # the way down and the middle have the shape of UNet(channels=32, n_blocks=2)
    diffusers = pytest.importorskip('diffusers')
    torch.manual_seed(0)
    return diffusers.UNet2DModel(in_channels=1, out_channels=1, block_out_channels=(32, 64, 64), layers_per_block=2, norm_num_groups=8, attn_norm_num_groups=8,
                                 down_block_types=('DownBlock2D', 'AttnDownBlock2D', 'AttnDownBlock2D'), attention_head_dim=32,
                                 up_block_types=('AttnUpBlock2D', 'AttnUpBlock2D', 'UpBlock2D'), resnet_time_scale_shift='scale_shift').requires_grad_(False)

def take(ours, theirs):
    "Their weights in our module, which is returned."
    ours.requires_grad_(False)
    if isinstance(ours, ResBlock):
        for a, b in (('norm1', 'norm1'), ('conv1', 'conv1'), ('time', 'time_emb_proj'), ('norm2', 'norm2'), ('conv2', 'conv2')): take(getattr(ours, a), getattr(theirs, b))
        if theirs.conv_shortcut is not None: take(ours.skip, theirs.conv_shortcut)
    elif isinstance(ours, Attention):
        take(ours.norm, theirs.group_norm)
        for p in ('weight', 'bias'):
            for a, b in ((ours.qkv, [theirs.to_q, theirs.to_k, theirs.to_v]), (ours.proj, theirs.to_out[:1])):
                getattr(a, p).copy_(torch.cat([getattr(m, p) for m in b]).reshape(getattr(a, p).shape))
    else: ours.load_state_dict(theirs.state_dict())
    return ours

def test_blocks_equal_those_of_diffusers(theirs):
    down, emb = theirs.down_blocks[1], randn(3, 128).float()
    for i, c in enumerate((32, 64)): # with and without a change of the channels
        x = randn(3, c, 6, 10, seed=i).float()
        torch.testing.assert_close(take(ResBlock(c, 64, 128), down.resnets[i])(x, emb), down.resnets[i](x, emb), rtol=1e-5, atol=1e-5)
    x = randn(3, 64, 6, 10).float()
    torch.testing.assert_close(take(Attention(64), down.attentions[0])(x), down.attentions[0](x), rtol=1e-5, atol=1e-5)

def test_network_equals_that_of_diffusers_down_to_the_bottom(theirs):
    ours, x, t, out = UNet(channels=32, n_blocks=2), randn(3, 1, 16, 24).float(), torch.tensor([1, 300, 1000]), []
    modules = iter(ours.down)
    for level in theirs.down_blocks:
        for i, block in enumerate(level.resnets):
            res, att = next(modules)
            take(res, block)
            if isinstance(att, Attention): take(att, level.attentions[i])
        if level.downsamplers: take(next(modules), level.downsamplers[0].conv)
    assert next(modules, None) is None
    for a, b in ((ours.conv_in, theirs.conv_in), (ours.embed[0], theirs.time_embedding.linear_1), (ours.embed[2], theirs.time_embedding.linear_2),
                 *zip(ours.middle, (theirs.mid_block.resnets[0], theirs.mid_block.attentions[0], theirs.mid_block.resnets[1]))): take(a, b)
    for m in (ours.middle[2], theirs.mid_block): m.register_forward_hook(lambda m, i, o: out.append(o))
    ours(x, t); theirs(x, t)
    assert out[0].std() > .1
    torch.testing.assert_close(*out, rtol=1e-4, atol=1e-4)

# what must not change, or the shipped weights and the runs that made them are lost

def test_layout_of_the_network_is_frozen():
    import tfinpaint
    config = yaml.safe_load((Path(tfinpaint.__file__).parent/'configs'/'piano_16k.yaml').read_text())['network']
    with torch.device('meta'): net = UNet(**config)
    layout = repr([(k, tuple(v.shape)) for k, v in net.state_dict().items()])
    assert [k for k, _ in net.named_parameters()] == list(net.state_dict()) # the order that the optimiser's state counts in
    assert hashlib.sha256(layout.encode()).hexdigest()[:16] == '72480800d618b62a'

def test_random_streams_of_seed_0_are_frozen():
    for step in (0, 7, 10**6): assert step_generator(0, step).initial_seed() == step_generator(0, step, 1).initial_seed() == step

def test_streams_of_any_two_seeds_are_different():
    draws = {tuple(torch.randn(3, generator=step_generator(seed, step, stream)).tolist())
             for seed in range(1, 9) for step in range(3) for stream in range(3)}
    assert len(draws) == 72

# training runs that meet the world

def tiny(folder, **kw):
    torch.manual_seed(0)
    return Trainer(UNet(channels=8, multipliers=(1,), attention=()), cosine_schedule(20), lambda n, g: torch.randn(n, 1, 8, 8, generator=g),
                   TrainConfig(**{**dict(n_steps=4, batch_size=2, valid_every=2, save_every=2, sample_every=2), **kw}), folder)

def test_log_and_files_of_a_run(tmp_path):
    trainer = tiny(tmp_path).fit(progress=False)
    assert sorted(p.name for p in tmp_path.iterdir()) == ['curve.csv', 'ema.safetensors', 'last.pt', 'tensorboard']
    assert any(p.stat().st_size > 1000 for p in (tmp_path/'tensorboard').iterdir())
    state, meta = load_weights(tmp_path/'ema.safetensors')
    assert meta['steps'] == 4 and all((state[k]-v).abs().max() < 1e-3 for k, v in trainer.ema.state_dict().items())

@pytest.fixture
def ctrl_c(): # a notebook run before may have left its own handler
    old = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield lambda: signal.raise_signal(signal.SIGINT)
    signal.signal(signal.SIGINT, old)

def test_ctrl_c_waits_for_the_end_of_the_block(ctrl_c):
    done = []
    with deferred_signals() as came:
        for i in range(3): done.append(i); i == 1 and ctrl_c()
    assert done == [0, 1, 2] and came == [signal.SIGINT] and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    with pytest.raises(KeyboardInterrupt): # the second acts at once
        with deferred_signals():
            for i in range(3): done.append(i); ctrl_c()
    assert done == [0, 1, 2, 0, 1] and signal.getsignal(signal.SIGINT) is signal.default_int_handler

@pytest.mark.parametrize('where', ['batch', 'optimiser', 'average', 'checkpoint'])
def test_ctrl_c_anywhere_in_a_step_saves_a_whole_one(tmp_path, ctrl_c, where, monkeypatch):
    whole, cut = tiny(tmp_path/'whole', n_steps=6).fit(progress=False, log=False), tiny(tmp_path/'cut', n_steps=6)
    def pressed(f): # Ctrl-C before f, two steps into the run
        def g(*args, **kw):
            if cut.step == 2 and not stopped: stopped.append(1); ctrl_c()
            return f(*args, **kw)
        return g
    stopped, names = [], {'batch': (cut, 'batch'), 'checkpoint': (cut, 'save')}
    if where == 'optimiser': # in the middle of the update of the weights
        cut.opt.register_step_pre_hook(pressed(lambda *a: None))
    elif where == 'average': monkeypatch.setattr('tfinpaint.diffusion.training.ema_update', pressed(ema_update))
    else: monkeypatch.setattr(*names[where], pressed(getattr(*names[where])))
    with pytest.raises(KeyboardInterrupt): cut.fit(progress=False, log=False)
    again = tiny(tmp_path/'cut', n_steps=6)
    assert again.resume() and again.step == cut.step == (3 if where in ('batch', 'optimiser') else 2) # the step that was under way is finished
    again.fit(progress=False, log=False)
    for net in ('net', 'ema'):
        for x, y in zip(getattr(whole, net).parameters(), getattr(again, net).parameters()): assert torch.equal(x, y)

RUN = '''
    import sys, resource
    sys.path.insert(0, {tests!r})
    from test_diffusion import tiny
    trainer = tiny({folder!r}, n_steps=10**9, save_every=5)
    trainer.resume()
    {change}
    print('started', flush=True)
    trainer.fit(progress=False, log=False)
'''

def start(folder, change='pass'):
    code = textwrap.dedent(RUN).format(tests=str(Path(__file__).parent), folder=str(folder), change=change)
    return subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                            env={**os.environ, 'OMP_NUM_THREADS': '1'})

def test_a_run_ended_by_sigterm_saves_a_whole_step(tmp_path): # Ctrl-C is tested in the chapter
    p = start(tmp_path)
    assert p.stdout.readline() == 'started\n'
    for _ in range(1200):
        if (tmp_path/'last.pt').exists(): break
        time.sleep(.05)
    p.terminate()
    assert p.wait(120) == -signal.SIGTERM
    p.communicate()
    killed, again = tiny(tmp_path), tiny(tmp_path/'again', n_steps=0)
    assert killed.resume() and killed.step >= 5
    again.config.n_steps = killed.step # the uninterrupted run to the same step
    again.fit(progress=False, log=False)
    for net in ('net', 'ema'):
        for x, y in zip(getattr(killed, net).parameters(), getattr(again, net).parameters()): torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-6)

def test_a_full_disk_keeps_the_old_checkpoint(tmp_path):
    tiny(tmp_path, n_steps=2).fit(progress=False, log=False)
    before = (tmp_path/'last.pt').read_bytes()
    p = start(tmp_path, 'resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))') # no file may grow beyond 20 kB
    out, err = p.communicate(timeout=120)
    assert p.returncode == 1 and 'cannot write' in err.splitlines()[-1] and 'last.pt' in err.splitlines()[-1]
    assert (tmp_path/'last.pt').read_bytes() == before
    assert not [f for f in tmp_path.iterdir() if f.name.startswith('.')], 'a half-written file is left'
