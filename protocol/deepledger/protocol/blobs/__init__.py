"""Where blobs live: content-addressed bytes that anybody may serve and nobody is trusted for."""

from deepledger.protocol.blobs.digest import RunningDigest, cid_of, digest_from_cid, digest_of
from deepledger.protocol.blobs.open import open_store
from deepledger.protocol.blobs.store import BlobStore

__all__ = ["BlobStore", "RunningDigest", "cid_of", "digest_from_cid", "digest_of", "open_store"]
