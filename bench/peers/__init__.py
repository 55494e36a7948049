"""Other ways to serve the same model, measured beside ours: states in Redis, Ray Serve, Envoy before our workers."""
