"""What the site shows of docstrings: ``:class:`Run``` by the name alone, examples as code."""

import re

import griffe


class Examples(griffe.Extension):
    """Markdown takes ``>>>`` for quotations of quotations."""

    def on_object(self, *, obj: griffe.Object, **_: object) -> None:
        if obj.docstring:
            obj.docstring.value = re.sub(
                r"^>>> .*(?:\n.+)*", r"```python\n\g<0>\n```", obj.docstring.value, flags=re.MULTILINE
            )


def on_page_content(html: str, **_: object) -> str:
    return re.sub(r":\w+:<code>~?([\w.]*\.)?(\w+)</code>", r"<code>\2</code>", html)
