"""Synthetic clips with exact boxes and sentences: procedural ones, and ones made of photographs."""
