"""Data: training pairs, sequences and the words that go with them."""
