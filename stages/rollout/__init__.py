"""Sampling: one protocol (engine.py) and the engines behind it. Importing this package imports no torch."""
