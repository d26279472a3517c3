"""What all pages are made of: safe HTML, words for figures, tables, plots, and what is asked.

It imports `nbray.state` and other nbray below it, and no page, no handler and no socket.
"""
