"""Eye trackers and transcripts: one module for each format of gaze or of words with times."""
