"""The parquet form from the Hugging Face hub, at a pinned revision.

huggingface_hub resumes and verifies downloads, and honours HF_ENDPOINT, HF_HUB_OFFLINE, HF_HOME and proxies.
"""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from smallvit.data.spec import Parquet
from smallvit.errors import SmallvitError

_TIMEOUT_SECONDS = 5


class HubError(SmallvitError):
    """The hub did not give the files; the message names the hub and says why."""


def fetch(layout: Parquet) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
    """Return the local paths of the (train, test) shards, downloaded unless the hub's own cache has them."""
    hub = "huggingface_hub"
    try:
        from huggingface_hub import constants  # which reads HF_ variables, and may refuse them

        hub = constants.ENDPOINT
        with _quiet():
            return tuple(_file(layout, name) for name in layout.train), tuple(
                _file(layout, name) for name in layout.test
            )
    except Exception as error:  # httpx, OS and hub errors share no base class
        raise HubError(f"{hub} ({' '.join(str(error).split())})") from error


def _file(layout: Parquet, name: str) -> Path:
    from huggingface_hub import constants, get_session, hf_hub_download, hf_hub_url
    from huggingface_hub.errors import LocalEntryNotFoundError

    def get(*, local: bool) -> Path:
        repository, revision = layout.repository, layout.revision
        return Path(hf_hub_download(repository, name, repo_type="dataset", revision=revision, local_files_only=local))

    try:
        return get(local=True)
    except LocalEntryNotFoundError:
        if constants.is_offline_mode():
            raise HubError("HF_HUB_OFFLINE is set") from None
    # The download retries an unreachable hub for half a minute; one knock says the same in a moment.
    url = hf_hub_url(layout.repository, name, repo_type="dataset", revision=layout.revision)
    get_session().head(url, timeout=_TIMEOUT_SECONDS)
    return get(local=False)


@contextmanager
def _quiet() -> Generator[None]:
    """Keep the hub's warnings of each retry off the screen: what matters is said once, by HubError."""
    from huggingface_hub.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
