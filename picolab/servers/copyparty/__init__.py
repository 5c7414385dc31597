"""copyparty: the adapter."""
