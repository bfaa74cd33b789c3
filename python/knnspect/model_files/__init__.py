"""Models as files and folders.

``inspect``  what a file or a folder holds, in words
"""
