"""Methods that train a network on frozen features; each module but ``base`` is one.

``base``      what they have in common
``networks``  the networks
"""
