"""Quarto markdown and nbdev directives become MyST: the reader of the website."""
import re
import nbformat, pytest
from hypothesis import given, strategies as st
from book_reader import read, split_directives, transform
from quarto_md import inline, to_myst

@pytest.mark.parametrize('quarto, myst', [
    ('see @fig-a and @eq-b', 'see {numref}`fig-a` and {eq}`eq-b`'),
    ('@sec-masks, @tbl-x.', '{ref}`sec-masks`, {numref}`tbl-x`.'),
    ('by @ho2020ddpm.', 'by {cite:t}`ho2020ddpm`.'),
    ('known [@ho2020ddpm]', 'known {cite:p}`ho2020ddpm`'),
    ('[@a2020; @b2021]', '{cite:p}`a2020,b2021`'),
    ('[see @a2020, eq. 4; @b2021]', '{cite:p}`{see}a2020{eq. 4},b2021`'),
    ('[@eq-a]', '{eq}`eq-a`'),
    ('@thm-one', '{prf:ref}`thm-one`'),
    ('a@b.org, npm/@scope/x and `@code`', 'a@b.org, npm/@scope/x and `@code`'),
    ('$x_@$ and $$y@z$$', '$x_@$ and $$y@z$$'),
    ('[text @ho2020ddpm](a.ipynb)', '[text {cite:t}`ho2020ddpm`](a.ipynb)'),
])
def test_inline(quarto, myst): assert inline(quarto) == myst

@pytest.mark.parametrize('quarto, myst', [
    ('## Title {#sec-a}', '(sec-a)=\n## Title'),
    ('## Title {.unnumbered}', '## Title'),
    ('$$\nx\n$$ {#eq-a}', '$$\nx\n$$ (eq-a)'),
    ('$$ x $$ {#eq-a}', '$$ x $$ (eq-a)'),
    ('![A cap, @eq-a](m/x.png){#fig-x fig-alt="alt text" width=50%}'.replace('width=50%', 'width="50%"'),
     '```{figure} m/x.png\n:name: fig-x\n:alt: alt text\n:width: 50%\nA cap, {eq}`eq-a`\n```'),
    ('| a |\n|---|\n| b |\n\n: Cap {#tbl-x}', '```{table} Cap\n:name: tbl-x\n| a |\n|---|\n| b |\n```'),
    ('::: {#refs}\n:::', ':::{bibliography}\n:::'),
    ('::: {.callout-note title="At a glance"}\nx @eq-a\n:::', ':::{admonition} At a glance\n:class: note\nx {eq}`eq-a`\n:::'),
    ('::: {.callout-tip collapse="true"}\n## Hint\nx\n:::', ':::{admonition} Hint\n:class: tip dropdown\nx\n:::'),
    ('::: {#thm-a}\n## Name\nx\n:::', ':::{prf:theorem} Name\n:label: thm-a\nx\n:::'),
    ('::: {.proof}\nx\n:::', ':::{prf:proof}\nx\n:::'),
    ('::: {.column-margin}\nx\n:::', ':::{margin}\nx\n:::'),
])
def test_blocks(quarto, myst): assert to_myst(quarto) == myst

def test_nested_divs_get_longer_fences_outside():
    out = to_myst('::: {.callout-note}\n::: {.proof}\nx\n:::\n:::\nafter')
    assert out == '::::{admonition} Note\n:class: note\n:::{prf:proof}\nx\n:::\n::::\nafter'

def test_labelled_lines_of_a_box_are_paragraphs():
    assert to_myst('::: {.callout-note}\n**A.** x\n**B.** y\n:::').split('\n')[2:5] == ['**A.** x', '', '**B.** y']
    assert to_myst('**A.** x\n**B.** y') == '**A.** x\n**B.** y'

def test_no_headings_inside_directives():
    assert '**Deeper**' in to_myst('::: {.callout-note title="T"}\nx\n\n### Deeper\n:::')

def test_code_blocks_are_left_alone():
    block = '```python\n# Title {#sec-a}\n::: {.callout-note}\nx = "@fig-a [@key]"  # $$ {#eq-a}\n```'
    assert to_myst(block) == block
    assert to_myst(f'::: {{.callout-tip title="S"}}\n{block}\n:::') == f':::{{admonition}} S\n:class: tip\n{block}\n:::'

def test_unknown_callout_is_refused():
    with pytest.raises(ValueError, match='callout-nota'): to_myst('::: {.callout-nota}\nx\n:::')

words = st.text(alphabet='abc @[]$`:#{}-_*\n', max_size=60)

@given(words, words)
def test_code_survives_anything_around_it(before, after):
    code = '```\n@fig-a $x$ [@key] {#sec-b}\n::: {.note}\n```'
    before, after = (re.sub(r'[`$:]', '', s) for s in (before, after))
    assert code in to_myst(f'{before}\n\n{code}\n\n{after}')

@given(st.text(alphabet='abc 12.,;()[]*_-\n', max_size=200))
def test_plain_text_is_unchanged(text): assert inline(text) == text

@given(st.lists(st.sampled_from(['::: {.callout-note}', '::: {.proof}', ':::', 'text', '# H', '']), max_size=12))
def test_every_fence_is_closed(lines):
    stack = []
    for l in to_myst('\n'.join(lines)).split('\n'):
        if m := re.match(r'(:{3,})\{', l):
            assert not stack or len(m[1]) < stack[-1], 'an inner fence is shorter than the one around it'
            stack.append(len(m[1]))
        elif stack and re.fullmatch(':{3,}', l): assert len(l) == stack.pop()
    assert not stack

def test_directives():
    assert split_directives('#| label: fig-x\n#| fig-cap: "A: b"\n#|export\nx = 1\n#| not: one') == ({'label': 'fig-x', 'fig-cap': 'A: b', 'export': ''}, 'x = 1\n#| not: one')

@pytest.mark.parametrize('source, tags', [
    ('#| hide\nx', ['remove-cell']), ('#| default_exp a.b', ['remove-cell']), ('#| echo: false\nx', ['remove-input']), ('#| code-fold: true\nx', ['hide-input']),
    ('#| eval: false\nx', ['skip-execution']), ('#| export\nx', None), ('#| warning: false\nx', ['remove-stderr']), ('#| include: false\nx', ['remove-cell']),
    ('show_doc(f)', ['remove-input'])])
def test_tags(source, tags):
    nb = transform(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)]))
    assert nb.cells[0].metadata.get('tags') == tags and '#|' not in nb.cells[0].source

def test_figures_keep_label_caption_and_alternative_text():
    cell = nbformat.v4.new_code_cell('#| label: fig-x\n#| fig-cap: "From [@a2020], see @eq-b."\n#| fig-alt: "two lines"\nplot()')
    meta = transform(nbformat.v4.new_notebook(cells=[cell])).cells[0].metadata['mystnb']
    assert meta == {'figure': {'name': 'fig-x', 'caption': 'From {cite:p}`a2020`, see {eq}`eq-b`.'}, 'image': {'alt': 'two lines'}}

def test_show_doc_outputs_lose_rules_and_headings():
    cell = nbformat.v4.new_code_cell('show_doc(f)', outputs=[nbformat.v4.new_output('display_data', {'text/markdown': '---\n\n[source](https://x.org){target="_blank" style="float:right"}\n\n### f\n\n> f(x)\n\n*Doc.*'})])
    md = transform(nbformat.v4.new_notebook(cells=[cell])).cells[0].outputs[0].data['text/markdown']
    assert '---' not in md and '#' not in md and '**f**' in md and 'target' not in md

def test_read_takes_the_text_of_a_notebook():
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell('## T {#sec-a}')])
    assert read(nbformat.writes(nb)).cells[0].source == '(sec-a)=\n## T'
