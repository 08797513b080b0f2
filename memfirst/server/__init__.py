"""An OpenAI-compatible server: many users share each read of the weights.

`engine` runs the model in a process of its own, `link` is that process as the HTTP side sees it, `app` is that side.
"""
