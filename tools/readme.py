"""README.md from nbs/index.ipynb, without Quarto (what `nbdev-readme` does with it).

    python tools/readme.py
"""
import re, sys
from pathlib import Path
import nbformat
sys.path.insert(0, str(Path(__file__).parent.parent/'nbs'/'_ext'))
from book_reader import split_directives

ROOT = Path(__file__).parent.parent

def readme(nb):
    "The text of README.md: markdown and code of the landing page, its links pointing into nbs/."
    parts = []
    for c in nb.cells:
        if c.cell_type == 'markdown': parts.append(c.source)
        elif c.cell_type == 'code':
            d, source = split_directives(c.source)
            if not {'hide', 'default_exp'} & d.keys() and d.get('echo') != 'false' and source.strip(): parts.append(f'```python\n{source}\n```')
    text = re.sub(r'\]\((?!\w+:)([\w/-]+\.ipynb)(#[\w-]+)?\)', r'](nbs/\1\2)', '\n\n'.join(p.strip() for p in parts))
    return f'<!-- Written from nbs/index.ipynb by `make readme`: edit the notebook. -->\n\n{text}\n'

if __name__ == '__main__': (ROOT/'README.md').write_text(readme(nbformat.read(ROOT/'nbs'/'index.ipynb', 4)), encoding='utf-8')
