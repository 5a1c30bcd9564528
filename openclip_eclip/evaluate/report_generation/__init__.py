"""Radiology reports written from retrieved ones."""
