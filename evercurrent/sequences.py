"""Stand-in until the sequences come."""

import numpy as np
from numpy.typing import NDArray

from evercurrent.v1 import models_pb2


class Running:
    """Count, sum, variance."""

    def __init__(self) -> None:
        self.count, self.sum, self.variance = 0, 0.0, 0.0

    def add(self, differences: NDArray[np.float64]) -> None:
        """Add up."""
        mean = self.sum / self.count if self.count else 0.0
        self.count += len(differences)
        self.sum += float(differences.sum())
        self.variance += float(((differences - mean) ** 2).sum())

    def sums(self) -> models_pb2.SequenceSums:
        """What there is."""
        return models_pb2.SequenceSums(count=self.count, sum=self.sum, variance=self.variance)
