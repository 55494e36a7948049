"""The benches: what the service costs, beside what bare gRPC costs on the same machine in the same run."""
