"""What several tests use: kernels, second nodes, programs, strangers.

What users' own tests need, too, is in `nbray.testing`.
"""
