"""From a data set to batches: samples.py makes samples, worker processes run it, pipeline.py builds tf.data batches.

worker_pool.py starts the processes, worker_process.py is their program, shutdown.py ends the main process safely.
"""
