"""The pure cores under one seed: a simulated store, clock and network, and every fault we could think of."""
