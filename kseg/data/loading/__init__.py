"""Loading: from samples on disk to tf.data batches, in worker processes."""
