"""Sphinx extension: copies nbs/media into the site and checks that every sound and picture a page links to there exists.

Sphinx copies what markdown links to, but not what the raw HTML of an output links to (`lab.players.compare`).
Quarto does the same through `resources: ["media/**"]` in _quarto.yml.
"""
import re, shutil
from pathlib import Path

LINK = re.compile(r'\b(?:src|href)="([^":#?]*\bmedia/[^"#?]*)"')

def dead_links(page):
    "Links of an HTML page into media/ whose file does not exist."
    return [l for l in LINK.findall(page.read_text(encoding='utf-8')) if not (page.parent/l).is_file()]

def copy_media(app, exception):
    "After the build: copy, then check."
    from sphinx.util import logging
    if exception or app.builder.format != 'html': return
    out = Path(app.outdir)
    if (media := Path(app.srcdir)/'media').is_dir(): shutil.copytree(media, out/'media', dirs_exist_ok=True)
    for name in sorted(app.env.found_docs):
        page = out/f'{name}.html'
        for l in dead_links(page) if page.is_file() else (): logging.getLogger(__name__).warning('dead link to %s', l, location=name)

def setup(app):
    app.connect('build-finished', copy_media)
    return {'parallel_read_safe': True}
