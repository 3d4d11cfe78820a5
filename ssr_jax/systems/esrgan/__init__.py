"""ESRGAN and Real-ESRGAN: one network from the photo to the answer, without kernels, depth or steps.

Its weights are imported (`ssr weights import`); it is here to compare with, and has no training stage.
"""
