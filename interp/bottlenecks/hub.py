"""``save_pretrained``, ``from_pretrained`` and ``push_to_hub`` of huggingface_hub, for what is a folder of files."""

from pathlib import Path
from typing import Any, TypeVar

from huggingface_hub import ModelHubMixin, snapshot_download
from huggingface_hub.errors import HFValidationError, HTTPError

from interp.errors import InputError

T = TypeVar("T", bound="HubFolder")

CARD = """---
{{ card_data }}
---

Discrete codes for activations of a language model, made with interp-codes.

```python
import interp

codebooks = interp.Codebooks.from_pretrained("owner/name")  # of a whole model
codebook = interp.bottlenecks.Bottleneck.from_pretrained("owner/name")  # of one site
```
"""


class HubFolder(
    ModelHubMixin, library_name="interp-codes", tags=["interpretability"], model_card_template=CARD
):
    """A class whose ``_save_pretrained`` writes a folder and whose ``_from_folder`` reads one."""

    def __new__(cls: type[T], *_: Any, **__: Any) -> T:
        return object.__new__(cls)  # the mixin would add a config.json to files that say everything already

    @classmethod
    def from_pretrained(cls: type[T], source: str | Path, **hub: Any) -> T:  # type: ignore[override]
        """Read it from a folder, or from the Hugging Face hub's repository ``owner/name``.

        Args:
            hub: of ``huggingface_hub.snapshot_download``: ``revision``, ``token``, ``cache_dir``, …
        """
        return cls._from_folder(fetch(source, **hub))

    @classmethod
    def _from_folder(cls: type[T], folder: Path) -> T:
        raise NotImplementedError


def fetch(source: str | Path, **hub: Any) -> Path:
    """The folder ``source``, or the one to which the hub's repository of that name was downloaded: a ``Path``, and a
    text without a slash, is none."""
    if Path(source).is_dir():
        return Path(source)
    if isinstance(source, Path) or "/" not in source:
        raise InputError(f"there is no folder {source}")
    try:
        return Path(snapshot_download(source, **hub))
    except HFValidationError:
        raise InputError(f"there is no folder {source}, and no repository can be called so") from None
    except (OSError, HTTPError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"{source} is no folder here, and not to be had from the hub: {reason}") from error
