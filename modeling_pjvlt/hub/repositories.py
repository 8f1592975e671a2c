"""Repositories on the Hub: created as private as they have to be, and failures explained in one sentence."""

from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub import HfApi, RepoUrl
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled

HTTP_ERROR = HfHubHTTPError.__bases__[0]  # of whichever HTTP library huggingface_hub uses
FAILURES = (HTTP_ERROR, LocalTokenNotFoundError, OfflineModeIsEnabled)


class PublishingError(OSError):
    """The Hub could not be reached, or refused the upload."""


def create_repository(api: HfApi, repo_id: str, repo_type: str, private: bool | None) -> RepoUrl:
    """Create a repository, unless it exists, and return its address.

    private: whether a new one is private; by default what the account is set to. With True, [`PublishingError`] is
    raised for an existing public one, to which nothing must be uploaded then.
    """
    address = api.create_repo(repo_id, repo_type=repo_type, private=private, exist_ok=True)
    if private and not api.repo_info(address.repo_id, repo_type=repo_type).private:
        raise PublishingError(
            f"{address.repo_id} exists and is public; nothing was sent: make it private on the Hub first"
        )
    return address


@contextmanager
def explain_failures(endpoint: str, repo_id: str) -> Iterator[None]:
    """Turn errors of the client libraries into a [`PublishingError`] of one sentence."""
    try:
        yield
    except (*FAILURES, RuntimeError) as error:
        # Uploads of large files hide the reason behind a RuntimeError.
        reason = next((e for e in (error, error.__cause__) if isinstance(e, FAILURES)), None)
        if reason is None:
            raise
        raise PublishingError(_explanation(reason, endpoint, repo_id)) from error


def _explanation(error: Exception, endpoint: str, repo_id: str) -> str:
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        reason = error.server_message or str(error).splitlines()[0]
        if status == 401:
            return f"{endpoint} does not accept the token (401): log in with `hf auth login`, or set HF_TOKEN"
        if status == 403:
            return f"the token may not write to {repo_id} (403): {reason}"
        return f"{endpoint} answered {status} for {repo_id}: {reason}"
    if isinstance(error, LocalTokenNotFoundError):
        return "no token: log in with `hf auth login`, or set HF_TOKEN"
    return f"cannot reach {endpoint}: {(str(error) or type(error).__name__).splitlines()[0]}"
