"""What RePaint costs beside its network calls, and beside RePaintScheduler of diffusers on the same network.

    python benchmarks/repaint_speed.py [--steps 24] [--jump-length 4] [--jump-n-sample 2] [--batch 1] [--repeat 9] [--threads 0]

The network is the shipped piano model, in float32. Two ratios, each a median of pairs run in turn in one process, with quartiles:
`repaint` against as many bare forward passes on the same batch, and `repaint` against the scheduler of diffusers with the same
order of steps, hence the same number of calls. The schedule is short so that the pairs are many; the cost a call is the same.
On a busy machine the quartiles are wider than the overhead. The last lines therefore give the overhead alone, in seconds of the
processor: both loops with a network that does nothing, over a forward pass of the real one.
"""
import argparse, statistics, sys, time
from itertools import pairwise
import torch
from tfinpaint.audio.models import load_model
from tfinpaint.diffusion.ddpm import from_output
from tfinpaint.diffusion.schedule import respaced
from tfinpaint.inpainting.problem import Inpainting
from tfinpaint.inpainting.repaint import repaint, repaint_times
from tfinpaint.lab.benchmark import ratio

def bare(net, x, n_calls):
    "The forward passes alone."
    t = torch.full((len(x),), 500)
    def f():
        with torch.no_grad():
            for _ in range(n_calls): net(x, t)
    return f

def theirs(net, schedule, predicts, y, mask, jump_length, jump_n_sample):
    "The loop of diffusers' RePaint pipeline around our network (as a predictor of the noise, which their scheduler wants)."
    from diffusers import RePaintScheduler
    s = RePaintScheduler(num_train_timesteps=schedule.n_steps, trained_betas=schedule.beta[1:].float().numpy(), eta=1.) # the respaced betas: one undo is one step
    s.set_timesteps(schedule.n_steps, jump_length, jump_n_sample)
    mask = mask.float().expand_as(y)
    def f():
        g, last = torch.Generator().manual_seed(0), int(s.timesteps[0]) + 1
        x = torch.randn(y.shape, generator=g)
        with torch.no_grad():
            for t in s.timesteps.tolist():
                if t < last:
                    out = net(x, schedule.timesteps[t+1].expand(len(x)))
                    x = s.step(from_output(schedule, out, x, t+1, predicts)[1], t, x, y, mask, g).prev_sample
                else: x = s.undo_step(x, last, g)
                last = t
        return x
    levels = [int(s.timesteps[0])+1, *s.timesteps.tolist()]
    return f, sum(b < a for a, b in pairwise(levels))

def cpu_s(f, repeats):
    "Median processor time of a function."
    f(); seconds = []
    for _ in range(repeats): start = time.process_time(); f(); seconds.append(time.process_time()-start)
    return statistics.median(seconds)

def main():
    p = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    for name, n in (('steps', 24), ('jump-length', 4), ('jump-n-sample', 2), ('batch', 1), ('repeat', 9)): p.add_argument(f'--{name}', type=int, default=n)
    p.add_argument('--threads', type=int, default=0, help='0: what torch takes')
    a = p.parse_args()
    if a.threads: torch.set_num_threads(a.threads)
    model = load_model('piano_16k', 'cpu')
    schedule, g = respaced(model.schedule, a.steps), torch.Generator().manual_seed(0)
    y = torch.randn(a.batch, *model.rep.shape, generator=g).clamp(-1, 1)
    mask = torch.ones(model.rep.shape, dtype=torch.bool); mask[..., 48:80] = False
    M, denoiser = Inpainting(mask), model.denoiser(schedule, bf16=False, clip=1.)
    ours = lambda: repaint(denoiser, M, M.A(y), schedule, jump_length=a.jump_length, jump_n_sample=a.jump_n_sample, generator=torch.Generator().manual_seed(0))
    times = repaint_times(a.steps, a.jump_length, a.jump_n_sample)
    n_calls = sum(after < t for t, after in pairwise(times))
    print(f'piano_16k, batch {a.batch}, {n_calls} calls, {len(times)-1-n_calls} undo steps, {torch.get_num_threads()} threads, float32', flush=True)
    print(f'{"repaint / bare forwards":26}{ratio(ours, bare(model.net, y, n_calls), a.repeat)}', flush=True)
    try: other, n = theirs(model.net, schedule, model.meta['training']['predicts'], y, mask, a.jump_length, a.jump_n_sample)
    except ImportError: sys.exit('diffusers is not installed: pip install diffusers')
    if n != n_calls: sys.exit(f'the two make different numbers of calls, {n_calls} and {n}: there is nothing to compare')
    print(f'{"repaint / diffusers":26}{ratio(ours, other, a.repeat)}', flush=True)
    one, nothing = cpu_s(bare(model.net, y, 1), 5*a.repeat), lambda x, t: x
    denoiser.net = nothing
    loops = {'repaint': ours, 'diffusers': theirs(nothing, schedule, model.meta['training']['predicts'], y, mask, a.jump_length, a.jump_n_sample)[0]}
    for name, f in loops.items():
        extra = cpu_s(f, a.repeat)/n_calls
        print(f'{name + ", overhead":26}{1000*extra:.2f} ms a call, {extra/one:.1%} of a forward pass of {1000*one:.1f} ms (processor time)', flush=True)

if __name__ == '__main__': main()
