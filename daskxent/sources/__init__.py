"""Predictions and what lies along them, wherever they are stored: opened, aligned, and read by boxes."""
