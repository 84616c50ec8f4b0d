"""How data gets here. `python -m data.prepare <dataset>` does what the card of a dataset says.

| the card has | what happens | by |
|---|---|---|
| `archives` with a url | downloaded, checked and unpacked to `data/raw` | `download`, `archives` |
| `archives` without | what you put into the folder is checked and unpacked | `archives` |
| `patching` | images with masks are cut into tiles | `patches` |
| `synthetic` | tiles are painted | `synthetic` |
| `slides`, `drawn` or `composed` | slides are painted, or pasted of tiles | `synthetic_slides` |
| none of these | nothing: the folder is looked for | `lib.data.datasets` |

Besides, `stand_in` builds a VLM from the captioned tiles of a dataset.
"""
