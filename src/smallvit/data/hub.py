"""The parquet form from the Hugging Face hub, at a pinned revision.

huggingface_hub resumes and verifies downloads, and honours HF_ENDPOINT, HF_HUB_OFFLINE and HF_HOME.
"""

from pathlib import Path

from smallvit.data.spec import Parquet
from smallvit.errors import SmallvitError

_TIMEOUT_SECONDS = 5


class HubError(SmallvitError):
    """The hub did not give the files; the message says why."""


def fetch(layout: Parquet) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
    """Return the local paths of the (train, test) shards, downloaded unless the hub's own cache has them."""
    import huggingface_hub

    def one(name: str) -> Path:
        path = huggingface_hub.hf_hub_download(
            layout.repository,
            name,
            repo_type="dataset",
            revision=layout.revision,
            etag_timeout=_TIMEOUT_SECONDS,
        )
        return Path(path)

    try:
        return tuple(map(one, layout.train)), tuple(map(one, layout.test))
    except Exception as error:  # httpx, OS and hub errors share no base class
        raise HubError(f"{_endpoint()}: {_reason(error)}") from error


def _endpoint() -> str:
    from huggingface_hub import constants

    return f"{constants.ENDPOINT} ({'HF_HUB_OFFLINE is set' if constants.is_offline_mode() else 'tried'})"


def _reason(error: BaseException) -> str:
    return " ".join(str(error).split())
