"""The router: the ring of workers, the sessions of users, and the links between them."""
