"""The Hub: cards of models and datasets, and their upload."""
