"""The Gradio page: components, events, fragments of HTML. Knows no torch and no HTTP."""
