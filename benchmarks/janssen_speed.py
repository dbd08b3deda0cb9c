"""How much faster one round of gap-wise Janssen is than the same round solved densely.

    python benchmarks/janssen_speed.py [--order 1024] [--context 8192] [--gap 800] [--repeat 5] [--threads 1]

The direct way builds the matrix of the prediction errors, multiplies it out and solves the normal equations, for the filter (least
squares on the autocorrelation as a full matrix) and for the gap. Ours uses the Toeplitz structure. Prints the median of direct/ours
with its quartiles, and how far the two results differ.
"""
import argparse
import numpy as np
import torch
from scipy.linalg import solve, toeplitz
from tfinpaint.lab.benchmark import ratio
from tfinpaint.timefreq.classical import _solve_gap, ar_coefficients

def direct(x, start, stop, order):
    "One round without structure: normal equations of the filter, then of the gap."
    r = np.correlate(x, x, 'full')[len(x)-1:len(x)+order]
    r[0] *= 1 + 1e-9
    a = np.r_[1, -solve(toeplitz(r[:-1]), r[1:], assume_a='pos')]
    first, last = start, stop + order                                   # the errors that the gap enters
    A = toeplitz(np.r_[a[::-1][:1], np.zeros(last-first-1)], np.r_[a[::-1], np.zeros(last-first-1)]) # errors by samples start-order..
    rows, gap = A[:, :last-first+order], slice(order, order+stop-start)
    known = x[start-order:stop+order].copy()
    known[gap] = 0
    B = rows[:, gap]
    return solve(B.T @ B, -B.T @ (rows @ known), assume_a='pos')

def main():
    p = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    for name, value in (('order', 1024), ('context', 8192), ('gap', 800), ('repeat', 5), ('threads', 1)): p.add_argument('--'+name, type=int, default=value)
    o = p.parse_args()
    torch.set_num_threads(o.threads)
    rng, n = np.random.default_rng(0), 2*o.context + o.gap
    x = sum(np.sin(f*np.arange(n) + f) for f in rng.uniform(.02, 2, 30)) + .1*rng.normal(size=n)
    start, stop = o.context, o.context + o.gap
    ours = lambda: _solve_gap(x, start, stop, ar_coefficients(x, o.order))
    theirs = lambda: direct(x, start, stop, o.order)
    a, b = ours(), theirs()
    print(f'order {o.order}, context {o.context}, gap {o.gap}: largest difference {np.abs(a-b).max()/np.abs(b).max():.1e} of the largest sample')
    print('direct/ours', ratio(theirs, ours, o.repeat))

if __name__ == '__main__': main()
