"""Vision-language models: loading by name, prompts, views, zero-shot and view-wise inference, stand-ins.

Imports `lib.data` and the leaves.
"""
