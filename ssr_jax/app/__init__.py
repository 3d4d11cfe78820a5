"""The web page of `ssr app`: drop a photo, compare before and after, look at what the model found.

`session` has what a page does, without a page; `page` is the page, in Gradio.
"""
