"""Each notebook is one test, run in this process by nbdev's own runner: `#| eval: false` and the flags slow, gpu, notest are skipped."""
from pathlib import Path
import pytest
from nbdev.config import get_config
from nbdev.doclinks import nbglob
from nbdev.test import test_nb as run_notebook

CONFIG = get_config(Path(__file__).parent)
NOTEBOOKS = sorted(nbglob(CONFIG.nbs_path, as_path=True))

@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda p: p.relative_to(CONFIG.nbs_path).with_suffix('').as_posix())
def test_notebook(path):
    import matplotlib.pyplot as plt
    ok, seconds = run_notebook(path, skip_flags=CONFIG.tst_flags.split(), basepath=CONFIG.config_path, cell_timeout=400)
    plt.close('all')
    assert ok, f'{path} failed after {seconds:.1f} s (the traceback is above)'
