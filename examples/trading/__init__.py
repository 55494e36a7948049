"""Trading signals: how far will the price go next? A distribution, scored as one; no claim of profit."""
