"""The auditor: replays a job from chain and blob store. Entry point: `deepledger.auditor.audit.audit`."""
