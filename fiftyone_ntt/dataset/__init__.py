"""FiftyOne datasets: fields, schema, geometry, label documents, storage.

The only room that uses FiftyOne's private names, so a new FiftyOne release is checked against these files alone.
"""
