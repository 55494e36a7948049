"""Models that come with evercurrent, and the one way by which any model is found, loaded and saved."""

from evercurrent.models.loading import ModelLoadError, load_model, save_model

__all__ = ["ModelLoadError", "load_model", "save_model"]
