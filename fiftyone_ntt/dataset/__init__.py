"""FiftyOne datasets: fields, schema, geometry, label documents, storage. The only room that uses private names."""
