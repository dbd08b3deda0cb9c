"""How fast our U-Net is beside `UNet2DModel` of diffusers in the same shape: a forward pass and a training step.

    python benchmarks/unet_speed.py [--shape small|piano] [--batch 8] [--repeat 9] [--threads 0] [--bf16]

Both run in turn in one process, on the same numbers in the same order in memory. Prints medians of ours/theirs with their
quartiles (below 1, ours is faster): read the ratio, not the milliseconds. Slow with --bf16 where the processor has no
instructions for bfloat16.
"""
import argparse, sys
import torch
from tfinpaint.diffusion.unet import UNet
from tfinpaint.lab.benchmark import ratio

SHAPES = {'small': (dict(channels=32, multipliers=(1, 2), attention=(1,)), 16), # the chapter's; cells of a side
          'piano': (dict(channels=64, multipliers=(1, 2, 2), attention=(2,), in_channels=32), 32)} # the piano model behind its folding

def theirs(channels, multipliers, attention, in_channels=1, n_blocks=1):
    "UNet2DModel with the channels, blocks and attention of ours, called as ours."
    from diffusers import UNet2DModel
    kinds = ['Attn' if i in attention else '' for i in range(len(multipliers))]
    net = UNet2DModel(in_channels=in_channels, out_channels=in_channels, block_out_channels=[channels*m for m in multipliers],
                      down_block_types=[k+'DownBlock2D' for k in kinds], up_block_types=[k+'UpBlock2D' for k in kinds[::-1]],
                      layers_per_block=n_blocks, norm_num_groups=8, attn_norm_num_groups=8, attention_head_dim=32, resnet_time_scale_shift='scale_shift')
    return net, lambda x, t: net(x, t).sample

def forward(call, x, t, bf16):
    def f():
        with torch.no_grad(), torch.autocast('cpu', torch.bfloat16, enabled=bf16): call(x, t)
    return f

def step(net, call, x, t, bf16):
    "Forward, backward, and an update too small to change anything."
    opt = torch.optim.Adam(net.parameters(), 1e-9)
    def f():
        opt.zero_grad()
        with torch.autocast('cpu', torch.bfloat16, enabled=bf16): loss = call(x, t).float().square().mean()
        loss.backward(); opt.step()
    return f

def main():
    p = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    p.add_argument('--shape', choices=SHAPES, default='small')
    p.add_argument('--batch', type=int, default=8)
    p.add_argument('--repeat', type=int, default=9)
    p.add_argument('--threads', type=int, default=0, help='0: what torch takes')
    p.add_argument('--bf16', action='store_true', help='ours and theirs in bfloat16 too')
    a = p.parse_args()
    if a.threads: torch.set_num_threads(a.threads)
    config, cells = SHAPES[a.shape]
    try: other, call = theirs(**config)
    except ImportError: sys.exit('diffusers is not installed: pip install diffusers')
    g = torch.Generator().manual_seed(0)
    ours, other = (n.to(memory_format=torch.channels_last) for n in (UNet(**config), other))
    x = torch.randn(a.batch, config.get('in_channels', 1), cells, cells, generator=g).contiguous(memory_format=torch.channels_last)
    t = torch.randint(1, 1001, (a.batch,), generator=g)
    count = lambda net: sum(p.numel() for p in net.parameters())
    print(f'{a.shape}: {count(ours):,} parameters, diffusers {count(other):,}; batch {a.batch}, {torch.get_num_threads()} threads, channels_last')
    for name, b in (('float32', False), ('bfloat16', True))[:1+a.bf16]:
        print(f'{"forward, " + name:26}{ratio(forward(ours, x, t, b), forward(call, x, t, b), a.repeat)}', flush=True)
        print(f'{"training step, " + name:26}{ratio(step(ours, ours, x, t, b), step(other, call, x, t, b), a.repeat)}', flush=True)

if __name__ == '__main__': main()
