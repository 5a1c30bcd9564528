"""Read what annotation tools and eye trackers export: shapes, gaze, spoken words.

`formats.py` lists the formats and recognises them. A module of a format turns its files into
`Drawing`s and `Recording`s; `prepare annotations` joins them with images and texts.
"""
