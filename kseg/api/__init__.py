"""kseg from Python: what `import kseg` hands out for training, evaluation and prediction.

- segmenter.py: Segmenter. load.py: kseg.load. split.py: kseg.split.
- fit_options.py: the keywords of Segmenter.fit. fit_result.py: what it returns.
- messages.py: errors of the layers below name flags; here they name keywords.
"""
