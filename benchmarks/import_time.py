"""How long a user waits before anything happens: `import tfinpaint`, `tfinpaint --help`, and where the time goes.

    python benchmarks/import_time.py [--repeat 5] [--top 8]

Prints the best of several runs, next to a bare interpreter on the same machine: read the ratio, not the seconds.
"""
import argparse, re, subprocess, sys, time

HELP = 'import sys; sys.argv = ["tfinpaint", "--help"]; from tfinpaint.cli import main; main()'

def best(code, repeat):
    "Shortest wall time of a fresh interpreter that runs `code` [s]."
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        subprocess.run([sys.executable, '-c', code], check=False, stdout=subprocess.DEVNULL)
        times.append(time.perf_counter() - start)
    return min(times)

def slowest(code, top):
    "The imports that take longest themselves: (ms, name), from -X importtime."
    err = subprocess.run([sys.executable, '-X', 'importtime', '-c', code], capture_output=True, text=True).stderr
    rows = re.findall(r'import time:\s+(\d+) \|\s+\d+ \|\s+(\S+)', err)
    return sorted(((int(us)/1000, name) for us, name in rows), reverse=True)[:top]

def main():
    p = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    p.add_argument('--repeat', type=int, default=5)
    p.add_argument('--top', type=int, default=8)
    a = p.parse_args()
    bare = best('pass', a.repeat)
    print(f'{"":<20}{"seconds":>9}{"ratio":>8}\n{"python":<20}{bare:>9.3f}{1:>8.1f}')
    for name, code in (('import tfinpaint', 'import tfinpaint'), ('tfinpaint --help', HELP)):
        t = best(code, a.repeat)
        print(f'{name:<20}{t:>9.3f}{t/bare:>8.1f}')
        for ms, module in slowest(code, a.top) if code is HELP else (): print(f'    {ms:7.1f} ms  {module}')

if __name__ == '__main__': main()
