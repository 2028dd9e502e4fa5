"""From an exported graph of torch operations to a description."""
