"""Cryptography that more than one app uses."""
