"""Stores of URLs: of ``s3://`` through obstore where it is installed, of everything else through fsspec."""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

CONNECTIONS = 64  # that s3fs may have; botocore allows itself ten

ONCE: Any = {"max_retries": 0}  # requests are made again, and counted, by `objects`

# What options of s3fs are called by obstore.
NAMES = {
    "anon": "skip_signature",
    "endpoint_url": "endpoint",
    "key": "access_key_id",
    "region_name": "region",
    "secret": "secret_access_key",
    "token": "session_token",
}


def stores(url: str, storage: Mapping[str, Any] | None) -> Iterator[Any]:
    """Yield stores that may hold what is at a URL, the quickest first.

    Examples
    --------
    >>> [type(store).__name__ for store in stores("memory://dump.zarr", None)]
    ['FsspecStore']
    """
    from zarr.storage import FsspecStore, ObjectStore

    options = dict(storage or {})
    known = translated(options) if url.startswith("s3://") and find_spec("obstore") else None
    if known is not None:
        from obstore.store import from_url

        plain = str(known.get("endpoint", "")).startswith("http://")
        yield ObjectStore(
            from_url(url, client_options={"allow_http": plain}, retry_config=ONCE, **known), read_only=True
        )
    if url.startswith("s3://"):
        options["config_kwargs"] = {"max_pool_connections": CONNECTIONS, **options.get("config_kwargs", {})}
    yield FsspecStore.from_url(url, storage_options=options, read_only=True)


def translated(options: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return options of s3fs as obstore takes them; None if it does not take all, or would not find the credentials.

    Examples
    --------
    >>> translated({"anon": True, "client_kwargs": {"endpoint_url": "http://host"}})
    {'skip_signature': True, 'endpoint': 'http://host'}
    >>> translated({"anon": True, "requester_pays": True}) is None
    True
    """
    flat = {**options, **options.get("client_kwargs", {})}
    flat.pop("client_kwargs", None)
    given = flat.get("anon") or "key" in flat
    files = any(os.path.exists(os.path.expanduser(f"~/.aws/{name}")) for name in ("credentials", "config"))
    if set(flat) - set(NAMES) or (not given and (files or "AWS_PROFILE" in os.environ)):
        return None
    return {NAMES[name]: value for name, value in flat.items()}


def url_of(store: Any) -> str | None:
    """Return the URL of a store, the same whichever library serves it; None if it has none."""
    from zarr.storage import FsspecStore, ObjectStore

    if isinstance(store, FsspecStore):
        return str(store.fs.unstrip_protocol(store.path))
    if isinstance(store, ObjectStore) and type(store.store).__name__ == "S3Store":
        bucket, prefix = store.store.config["bucket"], store.store.prefix
        return f"s3://{bucket}/{prefix}".rstrip("/") if prefix else f"s3://{bucket}"
    return None
