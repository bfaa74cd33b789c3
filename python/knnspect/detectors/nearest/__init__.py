"""Methods that compare with the nearest normal features; each module but ``base`` is one.

``base``  what they have in common
"""
