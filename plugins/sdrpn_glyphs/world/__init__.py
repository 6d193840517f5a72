"""The world of the second edition: cluttered scenes with details of several kinds.

Textured backgrounds, objects of all sizes, distractors, noise; questions about one object, two, or
none. Everything is drawn from string keys, so that it is the same on every machine. Importing it
imports neither torch nor transformers.
"""
