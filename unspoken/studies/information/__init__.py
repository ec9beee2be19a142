"""Usable bits of each channel's messages."""
