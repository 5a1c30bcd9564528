"""Prepares training and test folders from raw data sets.

The command is `openclip-eclip prepare NAME ...`, with one module for each data set. A
module is imported only when its data set is asked for.
"""
