"""How fast our STFT with its inverse is beside torch and librosa, in one process: 30 s of 44.1 kHz, window 2048, hop 512.

    python benchmarks/stft_speed.py [--seconds 30] [--n-fft 2048] [--hop 512] [--batch 1] [--repeat 15] [--threads 0]

Prints medians of ours/theirs with their quartiles (below 1, ours is faster): read the ratio, not the milliseconds. All three are
float32 with a Hann window, centred frames and silence beyond the ends, and are checked to agree first. librosa takes one wave at a
time in NumPy; it has no threads.
"""
import argparse
import torch
from tfinpaint.lab.benchmark import ratio
from tfinpaint.timefreq.stft import STFT

def main():
    p = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    p.add_argument('--seconds', type=float, default=30)
    p.add_argument('--sr', type=int, default=44100)
    p.add_argument('--n-fft', type=int, default=2048)
    p.add_argument('--hop', type=int, default=512)
    p.add_argument('--batch', type=int, default=1)
    p.add_argument('--repeat', type=int, default=15)
    p.add_argument('--threads', type=int, default=0, help='0: what torch takes')
    a = p.parse_args()
    if a.threads: torch.set_num_threads(a.threads)
    import librosa
    length = round(a.seconds*a.sr)
    x = torch.randn(a.batch, length, generator=torch.Generator().manual_seed(0))
    stft, window, wave = STFT(a.n_fft, a.hop), torch.hann_window(a.n_fft), x.numpy()
    ours = stft.analysis, lambda c: stft.synthesis(c, length)
    of_torch = (lambda x: torch.stft(x, a.n_fft, a.hop, window=window, pad_mode='constant', return_complex=True),
                lambda c: torch.istft(c, a.n_fft, a.hop, window=window, length=length))
    of_librosa = (lambda x: librosa.stft(x, n_fft=a.n_fft, hop_length=a.hop, pad_mode='constant'),
                  lambda c: librosa.istft(c, hop_length=a.hop, length=length))
    coef, theirs, other = ours[0](x), of_torch[0](x), of_librosa[0](wave)
    for name, error in (('torch', (coef*stft.scale-theirs).abs().max()), ('librosa', (theirs-torch.from_numpy(other)).abs().max()),
                        ('inverse', (ours[1](coef)-x).abs().max())): assert error < 1e-3, (name, error)
    print(f'{a.batch} x {a.seconds:g} s at {a.sr} Hz, window {a.n_fft}, hop {a.hop}, {torch.get_num_threads()} threads')
    for name, lib, wave_, c in (('torch', of_torch, x, theirs), ('librosa', of_librosa, wave, other)):
        for what, f, g in (('analysis', lambda: ours[0](x), lambda: lib[0](wave_)), ('synthesis', lambda: ours[1](coef), lambda: lib[1](c)),
                           ('both', lambda: ours[1](ours[0](x)), lambda: lib[1](lib[0](wave_)))):
            print(f'{what + ", against " + name:28}{ratio(f, g, a.repeat)}', flush=True)

if __name__ == '__main__': main()
