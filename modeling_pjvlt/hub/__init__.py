"""The Hub: the cards of models and datasets, and how both get there."""
