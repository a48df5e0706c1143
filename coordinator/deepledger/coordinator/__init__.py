"""The coordinator: verifies, settles, pays. Entry point: `deepledger.coordinator.coordinate.coordinate`."""
