"""Makers of training and test folders, one file a data set: `python -m openclip_eclip.prepare NAME
...`.

Importing this package costs nothing: a data set's module is imported when its name is asked for.
"""
