"""Vision-language models: loading, prompts, views, zero-shot and view-wise inference, stand-ins.

Imports `lib.data` and the leaves.
"""
