"""Decides which workers exist, and lets them."""
