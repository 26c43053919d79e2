"""kseg from Python: what `import kseg` hands out for training, evaluation and prediction.

- segmenter.py: Segmenter. load.py: kseg.load. split.py: kseg.split. data.py: checks of the data they are given.
- fit.py: starts training. fit_options.py: the keywords of Segmenter.fit. fit_result.py: what it returns.
- evaluate.py: scores. predict_options.py: the keywords of predict and evaluate. save.py: files and folders.
- messages.py: errors of the layers below name flags; here they name keywords.
"""
