"""A participant: data, training, one round from its side. Entry point: `deepledger.node.participate.participate`."""
